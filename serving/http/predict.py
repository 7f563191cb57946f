"""`/predict`, as text-embeddings-inference has it: texts in, for each all labels with their scores out, best first."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from serving.http.disconnect import cancel_on_disconnect
from serving.http.errors import PROBLEMS, Refused, explain_forms
from serving.predictor import Text
from serving.served_model import ServedModel
from serving.service import Service
from serving.workers import BatchWorker

router = APIRouter()
Sequence = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    inputs: Annotated[
        str | Sequence | Annotated[list[Sequence], Field(min_length=1)],
        explain_forms('give a text, a pair ["a", "b"], or a batch [["a"], ["b"]]'),
    ]
    """A text, `["text", "its pair"]`, or a batch: `[["a text"], ["another"]]`, `[["a", "b"], ["c", "d"]]`."""
    raw_scores: bool = False
    """Logits in place of probabilities."""
    truncate: bool | None = None
    """Whether a text that is longer than the model reads is cut (true) or refused; null: as the server is set."""


class Prediction(BaseModel):
    """A label and its score."""

    label: str
    score: float


EXAMPLES = {
    "text": {"summary": "a text", "value": {"inputs": "a warm, funny film"}},
    "batch": {"summary": "a batch", "value": {"inputs": [["a warm, funny film"], ["not worth the ticket"]]}},
}


@router.post("/predict", response_model=list[Prediction] | list[list[Prediction]], responses=PROBLEMS)
async def predict(request: Request, body: Annotated[PredictRequest, Body(openapi_examples=EXAMPLES)]) -> JSONResponse:
    """Classifies texts: one text (or pair) gives a list of `{label, score}`, a batch a list of such lists."""
    single = isinstance(body.inputs, str) or isinstance(body.inputs[0], str)
    texts = [to_text(one) for one in ([body.inputs] if single else body.inputs)]
    answers = await cancel_on_disconnect(request, _predict_texts(request, texts, body))
    return JSONResponse(answers[0] if single else answers)


async def _predict_texts(request: Request, texts: list[Text], body: PredictRequest) -> list[list[dict[str, Any]]]:
    service: Service = request.app.state.service
    worker = get_batch_worker(service.student)
    check_count(request, len(texts))
    logits = await worker.classify(texts, body.truncate)
    scores = logits if body.raw_scores else worker.model.to_scores(logits)
    return [_rank_labels(worker.model.labels, row) for row in scores.tolist()]


def _rank_labels(labels: list[str], scores: list[float]) -> list[dict[str, Any]]:
    rows = zip(labels, scores, strict=True)
    return [{"label": label, "score": score} for label, score in sorted(rows, key=lambda row: -row[1])]


def to_text(one: str | list[str]) -> Text:
    """A text or pair as the predictor takes it."""
    return one if isinstance(one, str) else one[0] if len(one) == 1 else (one[0], one[1])


def get_batch_worker(served: ServedModel) -> BatchWorker:
    """The worker of a model that classifies.

    Raises:
        Refused: it is a language model.
    """
    if not isinstance(served.worker, BatchWorker):
        raise Refused(404, f"{served.name} is a language model; POST to /v1/completions")
    return served.worker


def check_count(request: Request, count: int) -> None:
    """Notes the count for the log.

    Raises:
        Refused: there are no texts, or too many.
    """
    request.state.facts["texts"], most = count, request.app.state.service.settings.max_texts
    if not count:
        raise Refused(422, "there are no texts; give one or more")
    if count > most:
        raise Refused(413, f"{count} texts, but this server takes {most} in one request; send them in several")
