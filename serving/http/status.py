"""The server's state: the page, /info, /health, /metrics, and the latencies of the last minutes."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.http.errors import PROBLEMS
from serving.served_model import ServedModel
from serving.telemetry import SLOT
from serving.workers import BatchWorker

router = APIRouter(responses={503: PROBLEMS[503]})
PAGE = Path(__file__).parent / "page" / "index.html"


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE)


@router.get("/health")
async def health(request: Request) -> JSONResponse:
    """200 while the model answers."""
    ready = request.app.state.service.ready
    return JSONResponse({"status": "ok" if ready else "stopping"}, 200 if ready else 503)


@router.get("/info")
async def info(request: Request) -> dict[str, Any]:
    """The models, as text-embeddings-inference describes them, and as their folders do."""
    service = request.app.state.service
    settings = service.settings
    return {
        **_describe(service.student),
        "max_concurrent_requests": settings.max_queue,
        "max_batch_tokens": settings.max_tokens,
        "max_client_batch_size": settings.max_texts,
        "auto_truncate": settings.long_texts == "truncate",
        "provider": settings.provider,
        "threads": settings.threads,
        "instances": settings.instances,
        "version": version("makd"),
        "teacher": _describe(service.teacher) if service.teacher else None,
    }


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    return Response(generate_latest(request.app.state.service.telemetry.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/latencies")
async def latencies(request: Request) -> dict[str, Any]:
    """Requests for inference in the last ten minutes: number, errors, p50 and p99 in ms, by slots of some seconds."""
    return {"seconds": SLOT, "points": request.app.state.service.telemetry.recent.summarize()}


def _describe(served: ServedModel) -> dict[str, Any]:
    facts, classifies = served.manifest, isinstance(served.worker, BatchWorker)
    labels = served.worker.model.labels if isinstance(served.worker, BatchWorker) else []
    kind = {"classifier": {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}}
    return {
        "model_id": served.name,
        "model_sha": served.version,
        "model_dtype": served.variant,
        "model_type": kind if classifies else {facts["task"]["kind"]: {}},
        "max_input_length": facts["max_length"] if classifies else facts["positions"],
        "labels": labels,
        "pair": facts.get("pair", False),
        "score": facts["variants"][served.variant].get("score"),
        "bytes": facts["variants"][served.variant].get("bytes"),
        "card": served.card,
    }
