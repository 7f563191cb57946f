"""`/v1/completions`, as OpenAI has it: a language model continues prompts, in one piece or as a stream (SSE)."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from serving.generator import Prompt
from serving.http.completion_request import EXAMPLES, CompletionRequest
from serving.http.disconnect import cancel_on_disconnect
from serving.http.errors import PROBLEMS, Refused
from serving.http.stops import StopFilter
from serving.http.v2 import find_model
from serving.served_model import ServedModel
from serving.workers import GenerationWorker

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The models."""
    known = [{"id": one.name, "object": "model", "owned_by": "makd"} for one in request.app.state.service.list_models()]
    return {"object": "list", "data": known}


@router.post("/completions", response_class=JSONResponse)
async def completions(
    request: Request, body: Annotated[CompletionRequest, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Continues the prompts."""
    prompts = body.list_prompts()
    request.state.facts["texts"] = len(prompts)
    if not body.stream:
        return JSONResponse(await cancel_on_disconnect(request, _complete(request, body, prompts)))
    if len(prompts) > 1:
        raise Refused(422, "a stream continues one prompt; send the others in requests of their own")
    events = _stream_events(request, body, prompts[0])
    first = await cancel_on_disconnect(request, _first(events))  # whatever can be refused is refused here
    return StreamingResponse(_all(first, events), media_type="text/event-stream")


async def _complete(request: Request, body: CompletionRequest, prompts: list[Prompt]) -> dict[str, Any]:
    served, worker = _find_worker(request, body)
    with worker.reserve(len(prompts)):
        rows = await worker.encode(prompts)
        made = await asyncio.gather(*(_make_choice(worker, ids, body, number) for number, ids in enumerate(rows)))
    choices = [choice for choice, _ in made]
    return _head(served) | {"choices": choices} | _usage(rows, sum(written for _, written in made))


async def _make_choice(
    worker: GenerationWorker, ids: list[int], body: CompletionRequest, number: int
) -> tuple[dict[str, Any], int]:
    """A prompt's answer, and how many tokens were written for it."""
    steps = [step async for step in _generate(worker, ids, body, number)]
    return _part("".join(text for text, _ in steps), steps[-1][1], number), len(steps)


async def _stream_events(request: Request, body: CompletionRequest, prompt: Prompt) -> AsyncIterator[str]:
    """Server-sent events: pieces, the usage where it is asked for, the end."""
    served, worker = _find_worker(request, body)
    head, written = _head(served), 0
    with worker.reserve(1):
        rows = await worker.encode([prompt])
        async for text, finish in _generate(worker, rows[0], body, 0):
            written += 1
            if text or finish:
                yield _format_event(head | {"choices": [_part(text, finish, 0)]})
    if body.stream_options and body.stream_options.include_usage:
        yield _format_event(head | {"choices": []} | _usage(rows, written))
    yield "data: [DONE]\n\n"


async def _generate(
    worker: GenerationWorker, ids: list[int], body: CompletionRequest, number: int
) -> AsyncIterator[tuple[str, str | None]]:
    """For every token the text that can be sent after it, and why the answer ends, where it does."""
    stops = StopFilter(body.list_stops())
    async for piece in worker.stream(ids, body.make_sampling(number)):
        text = stops.add(piece.text)
        finish = "stop" if stops.found else piece.finish
        yield text + (stops.flush() if finish else ""), finish
        if finish:
            return


async def _first(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _all(first: str, others: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in others:
        yield event


def _find_worker(request: Request, body: CompletionRequest) -> tuple[ServedModel, GenerationWorker]:
    """The requested model; room must be reserved before anything else is awaited."""
    served = find_model(request, body.model) if body.model else request.app.state.service.student
    if not isinstance(served.worker, GenerationWorker):
        raise Refused(404, f"{served.name} is a classifier; POST to /predict")
    return served, served.worker


def _head(served: ServedModel) -> dict[str, Any]:
    number = f"cmpl-{uuid.uuid4().hex}"
    return {"id": number, "object": "text_completion", "created": int(time.time()), "model": served.name}


def _part(text: str, finish: str | None, number: int) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": finish}


def _usage(rows: list[list[int]], written: int) -> dict[str, Any]:
    read = sum(map(len, rows))
    return {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


def _format_event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"
