"""Errors as JSON: `{"error": reason, "error_type": type}`, the form of text-embeddings-inference; `error` alone is that
of the Open Inference Protocol. Below /v1 it is OpenAI's `{"error": {"message", "type"}}`. No answer repeats a text.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving.batching import QueueFull
from serving.exported import ModelError

CLIENT_GONE = 499
"""Status in log and metrics of a request whose client has disconnected (nginx's)."""
TYPES = {
    400: "Malformed",
    401: "Unauthorized",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "Timeout",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    422: "Validation",
    429: "Overloaded",
    500: "Backend",
    503: "Unavailable",
}


class Problem(BaseModel):
    """What an error answers."""

    error: str
    error_type: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": TYPES[status]} for status in (400, 401, 404, 413, 422, 429, 503)
}
"""For the OpenAPI page."""


class Refused(HTTPException):
    """A request that is not answered; the reason is for its sender."""


def make_problem(path: str, status: int, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer to a request for `path`."""
    kind = TYPES.get(status, "Refused")
    detail = {"message": reason, "type": kind, "code": status} if path.startswith("/v1/") else reason
    body = {"error": detail} if isinstance(detail, dict) else {"error": detail, "error_type": kind}
    return JSONResponse(body, status, headers)


def install_handlers(app: FastAPI) -> None:
    """Makes every error of the app one of the above."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return make_problem(request.url.path, error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return make_problem(request.url.path, *describe_errors(error.errors()))

    @app.exception_handler(ModelError)
    async def unreadable(request: Request, error: ModelError) -> JSONResponse:
        return make_problem(request.url.path, 422, str(error))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return make_problem(request.url.path, CLIENT_GONE, "the client has gone")

    @app.exception_handler(QueueFull)
    async def full(request: Request, error: QueueFull) -> JSONResponse:
        return make_problem(request.url.path, 429, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return make_problem(request.url.path, 500, "the model failed on this request; the log says why")


def explain_forms(reason: str) -> WrapValidator:
    """One error for a field of several forms, in place of one for each form."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("form", reason) from None

    return WrapValidator(check)


def describe_errors(errors: Any) -> tuple[int, str]:
    """Status and reason of pydantic's errors: the first one, without the value, which may be a text."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return 400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}"
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    return 422, f"{place}: {first['msg']}"
