"""Open Inference Protocol v2: health and metadata; infer.py has the inference."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from serving.http.errors import PROBLEMS, Refused
from serving.http.model_inputs import text_columns
from serving.http.predict import get_batch_worker
from serving.predictor import Predictor
from serving.served_model import ServedModel

router = APIRouter(prefix="/v2", responses=PROBLEMS)


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/health/ready")
async def ready(request: Request) -> JSONResponse:
    """The models answer."""
    going = request.app.state.service.ready
    return JSONResponse({"ready": going}, 200 if going else 503)


@router.get("")
async def server() -> dict[str, Any]:
    """The server."""
    return {"name": "makd", "version": version("makd"), "extensions": ["binary_tensor_data"]}


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{number}")
async def model(request: Request, name: str, number: str | None = None) -> dict[str, Any]:
    """The model's inputs and outputs."""
    served = find_model(request, name, number)
    predictor = get_batch_worker(served).model
    texts = [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in text_columns(predictor)]
    ids = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in predictor.inputs]
    numbers = {"datatype": "FP32", "shape": [-1, len(predictor.labels)]}
    forms = {"label": {"datatype": "BYTES", "shape": [-1]}, "scores": numbers, "logits": numbers}
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": "onnxruntime_onnx",
        "inputs": texts + ids,
        "outputs": [{"name": name} | forms[name] for name in list_outputs(predictor)],
    }


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{number}/ready")
async def model_ready(request: Request, name: str, number: str | None = None) -> JSONResponse:
    """The model answers."""
    served, going = find_model(request, name, number), request.app.state.service.ready
    return JSONResponse({"name": served.name, "ready": going}, 200 if going else 503)


def find_model(request: Request, name: str, number: str | None = None) -> ServedModel:
    """The model of that name (and version).

    Raises:
        Refused: it is not served here.
    """
    service = request.app.state.service
    served = service.find_model(name)
    if served is None:
        known = ", ".join(one.name for one in service.list_models())
        raise Refused(404, f"there is no model {name!r:.50} here; there is {known}")
    if number not in (None, served.version):
        raise Refused(404, f"{name} is served in version {served.version}, not {number!r:.50}")
    return served


def list_outputs(model: Predictor) -> list[str]:
    """The names of its outputs."""
    return ["scores", "logits"] if model.regression else ["label", "scores", "logits"]
