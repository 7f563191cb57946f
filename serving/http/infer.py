"""Open Inference Protocol v2: inference, with JSON or binary tensors.

A model takes `text` (and `text_pair` where it classifies pairs), BYTES of shape [n] or [n, 1]; or `input_ids` with
`attention_mask` and `token_type_ids`, INT64 of shape [n, tokens]. It gives `label` BYTES [n] (none of a regression),
`scores` and `logits`, FP32 [n, labels].
"""

import json
import re
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.http import model_inputs, tensors
from serving.http.disconnect import cancel_on_disconnect
from serving.http.errors import PROBLEMS, Refused, describe_errors
from serving.http.predict import check_count, get_batch_worker
from serving.http.v2 import find_model, list_outputs
from serving.predictor import Predictor
from serving.served_model import ServedModel

router = APIRouter(prefix="/v2/models", responses=PROBLEMS)
LENGTH = "Inference-Header-Content-Length"
"""The header that says how long the JSON before binary tensors is."""


class RequestedOutput(BaseModel):
    """An output to be answered."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """Tensors to classify."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str | None = None
    """Comes back with the answer."""
    parameters: dict[str, Any] = {}
    """`binary_data_output`: answer in binary tensors."""
    inputs: list[tensors.Tensor]
    outputs: list[RequestedOutput] | None = None
    """Which of label, scores and logits; none: all."""


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
                "example": {
                    "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a fine film", "dull"]}]
                },
            }
        },
    }
}


def complete_openapi(page: dict[str, Any], name: str) -> dict[str, Any]:
    """Adds to the OpenAPI page what it cannot see: a model's name, and the form of a request, which may be binary."""
    form = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    page["components"]["schemas"] |= form.pop("$defs") | {InferRequest.__name__: form}
    operations = [operation for path in page["paths"].values() for operation in path.values()]
    for parameter in (one for operation in operations for one in operation.get("parameters", [])):
        if parameter["name"] == "name":
            parameter["example"] = name
    return page


@router.post("/{name}/infer", openapi_extra=BODY)
@router.post("/{name}/versions/{number}/infer", openapi_extra=BODY)
async def infer(request: Request, name: str, number: str | None = None) -> Response:
    """Classifies the inputs."""
    if encoding := request.headers.get("content-encoding"):
        raise Refused(415, f"the body is encoded as {encoding[:20]}; send it as it is")
    wanted, blob = _parse_body(await request.body(), request.headers.get(LENGTH))
    served, logits = await cancel_on_disconnect(request, _logits(request, name, number, wanted, blob))
    return _make_response(served, wanted, logits)


def _parse_body(body: bytes, length: str | None) -> tuple[InferRequest, bytes]:
    """The JSON, and the bytes that follow it."""
    if length is not None and not (re.fullmatch("[0-9]{1,10}", length) and int(length) <= len(body)):
        raise Refused(400, f"{LENGTH} {length[:20]!r} is no length within the body of {len(body)} bytes")
    end = len(body) if length is None else int(length)
    try:
        return InferRequest.model_validate_json(body[:end]), body[end:]
    except ValidationError as error:
        raise Refused(*describe_errors(error.errors())) from None


async def _logits(
    request: Request, name: str, number: str | None, wanted: InferRequest, blob: bytes
) -> tuple[ServedModel, np.ndarray]:
    arrays = tensors.parse_tensors(wanted.inputs, blob)
    served = find_model(request, name, number)
    worker = get_batch_worker(served)
    _check_outputs(wanted, worker.model)
    if "input_ids" in arrays:
        rows = model_inputs.read_tokens(arrays, worker.model)
        check_count(request, len(rows))
        return served, await worker.classify_tokens(rows)
    texts = model_inputs.read_texts(arrays, worker.model)
    check_count(request, len(texts))
    return served, await worker.classify(texts)


def _check_outputs(wanted: InferRequest, model: Predictor) -> None:
    for output in wanted.outputs or []:
        if output.name not in list_outputs(model):
            raise Refused(422, f"output {output.name!r:.50} is none of {', '.join(list_outputs(model))}")
        if "classification" in output.parameters:
            raise Refused(422, "outputs are given as they are; ask for scores, and leave class_count out")


def _make_response(served: ServedModel, wanted: InferRequest, logits: np.ndarray) -> Response:
    model = get_batch_worker(served).model
    scores = model.to_scores(logits)
    labels = np.array([model.labels[best] for best in scores.argmax(1)], dtype=object)
    values = {"label": labels, "scores": scores, "logits": logits}
    requested = wanted.outputs or [RequestedOutput(name=name) for name in list_outputs(model)]
    binary = wanted.parameters.get("binary_data_output") is True
    made = [
        tensors.write_tensor(one.name, values[one.name], one.parameters.get("binary_data", binary) is True)
        for one in requested
    ]
    answer = {"model_name": served.name, "model_version": served.version, "outputs": [entry for entry, _ in made]}
    if wanted.id is not None:
        answer["id"] = wanted.id
    blob = b"".join(blob for _, blob in made)
    if not any("parameters" in entry for entry, _ in made):
        return JSONResponse(answer)
    head = json.dumps(answer).encode()
    return Response(head + blob, media_type="application/octet-stream", headers={LENGTH: str(len(head))})
