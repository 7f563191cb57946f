"""Before every route: access log and metrics, the API key, limits on a request's size and arrival time."""

import asyncio
import hmac
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.http.errors import CLIENT_GONE, Refused, make_problem

if TYPE_CHECKING:
    from serving.telemetry import Telemetry

OPEN = {"/", "/health", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"}
"""Routes that need no key: those of probes and browsers, and none that runs a model or shows its use."""
INFERENCE = re.compile(r"/predict|/v2/.*/infer|/v1/completions")
LINGER = 32
"""A request that is too large is read on up to this many times the limit, so that its sender sees the answer."""
log = logging.getLogger("serving.access")


class AccessLog:
    """Times every request, counts it, logs it; an answer has the request's `X-Request-ID`, or a new one."""

    def __init__(self, app: ASGIApp, telemetry: "Telemetry") -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        start, status = time.perf_counter(), CLIENT_GONE
        sent = Headers(scope=scope).get("x-request-id", "")
        number = sent if re.fullmatch(r"[\w.:-]{1,128}", sent) else uuid.uuid4().hex
        facts = scope.setdefault("state", {})["facts"] = {}

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = number
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = 500
            raise
        finally:
            seconds, route = time.perf_counter() - start, getattr(scope.get("route"), "path", "none")
            self._telemetry.record_request(route, status, seconds)
            if INFERENCE.fullmatch(route):
                self._telemetry.recent.add(status, seconds)
            client = (scope.get("client") or ("",))[0]
            line = {"id": number, "client": client, "method": scope["method"], "route": route, "status": status}
            log.info("request", extra={"fields": line | {"ms": round(1000 * seconds, 3)} | facts})


class Guard:
    """Refuses what has not the key, is larger than `max_bytes`, or takes longer than `arrival_seconds` to arrive."""

    def __init__(self, app: ASGIApp, key: bytes | None, max_bytes: int, arrival_seconds: float) -> None:
        self._app, self._key, self._most, self._seconds = app, key, max_bytes, arrival_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if not self._is_authorized(scope):
            reason = "this server wants its API key, as `Authorization: Bearer <key>`"
            answer = make_problem(scope["path"], 401, reason, {"WWW-Authenticate": "Bearer"})
            return await answer(scope, receive, send)
        await self._app(scope, self._limit_body(receive), send)

    def _is_authorized(self, scope: Scope) -> bool:
        if self._key is None or scope["path"] in OPEN:
            return True
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        return hmac.compare_digest(given.strip().encode(), self._key) and scheme.lower() == "bearer"

    def _limit_body(self, receive: Receive) -> Receive:
        """Receives the body within its limits; afterwards it only waits for the client to go."""
        size, whole, deadline = 0, False, time.monotonic() + self._seconds

        async def part() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                reason = f"the body took longer than {self._seconds:g} s to arrive"
                raise Refused(408, reason, {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            return message

        async def limited() -> Message:
            message = await part()
            if size > self._most:
                while not whole and size < LINGER * self._most:
                    await part()
                reason = f"the body has more than the {self._most} bytes that this server takes; send less at a time"
                raise Refused(413, reason, {"Connection": "close"})
            return message

        return limited
