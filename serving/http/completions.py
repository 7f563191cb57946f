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
from serving.http.completion_form import EXAMPLES, CompletionRequest
from serving.http.errors import PROBLEMS, Refused
from serving.http.stops import Until
from serving.http.v2 import find
from serving.http.waiting import unless_gone
from serving.served import Served, Writer

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """What there is."""
    known = [{"id": one.name, "object": "model", "owned_by": "makd"} for one in request.app.state.service.models()]
    return {"object": "list", "data": known}


@router.post("/completions", response_class=JSONResponse)
async def completions(
    request: Request, body: Annotated[CompletionRequest, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Continues the prompts."""
    prompts = body.prompts()
    request.state.facts["texts"] = len(prompts)
    if not body.stream:
        return JSONResponse(await unless_gone(request, _whole(request, body, prompts)))
    if len(prompts) > 1:
        raise Refused(422, "a stream continues one prompt; send the others in requests of their own")
    events = _events(request, body, prompts[0])
    first = await unless_gone(request, _first(events))  # whatever can be refused is refused here
    return StreamingResponse(_all(first, events), media_type="text/event-stream")


async def _whole(request: Request, body: CompletionRequest, prompts: list[Prompt]) -> dict[str, Any]:
    served, lane = _writer(request, body)
    with lane.seats(len(prompts)):
        rows = await lane.encode(prompts)
        made = await asyncio.gather(*(_choice(lane, ids, body, number) for number, ids in enumerate(rows)))
    choices = [choice for choice, _ in made]
    return _head(served) | {"choices": choices} | _usage(rows, sum(written for _, written in made))


async def _choice(lane: Writer, ids: list[int], body: CompletionRequest, number: int) -> tuple[dict[str, Any], int]:
    """A prompt's answer, and how many tokens were written for it."""
    said = [step async for step in _said(lane, ids, body, number)]
    return _part("".join(text for text, _ in said), said[-1][1], number), len(said)


async def _events(request: Request, body: CompletionRequest, prompt: Prompt) -> AsyncIterator[str]:
    """Server-sent events: pieces, the usage where it is asked for, the end."""
    served, lane = _writer(request, body)
    head, written = _head(served), 0
    with lane.seats(1):
        rows = await lane.encode([prompt])
        async for text, finish in _said(lane, rows[0], body, 0):
            written += 1
            if text or finish:
                yield _event(head | {"choices": [_part(text, finish, 0)]})
    if body.stream_options and body.stream_options.include_usage:
        yield _event(head | {"choices": []} | _usage(rows, written))
    yield "data: [DONE]\n\n"


async def _said(
    lane: Writer, ids: list[int], body: CompletionRequest, number: int
) -> AsyncIterator[tuple[str, str | None]]:
    """For every token the text that is certain with it, and why the answer ends, where it does."""
    until = Until(body.stops())
    async for piece in lane.pieces(ids, body.sampling(number)):
        text = until.add(piece.text)
        finish = "stop" if until.found else piece.finish
        yield text + (until.rest() if finish else ""), finish
        if finish:
            return


async def _first(events: AsyncIterator[str]) -> str:
    return await anext(events)


async def _all(first: str, others: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in others:
        yield event


def _writer(request: Request, body: CompletionRequest) -> tuple[Served, Writer]:
    """The model that is asked for; its seats must be taken before anything else is awaited."""
    served = find(request, body.model) if body.model else request.app.state.service.student
    if not isinstance(served.lane, Writer):
        raise Refused(404, f"{served.name} is a classifier; POST to /predict")
    return served, served.lane


def _head(served: Served) -> dict[str, Any]:
    number = f"cmpl-{uuid.uuid4().hex}"
    return {"id": number, "object": "text_completion", "created": int(time.time()), "model": served.name}


def _part(text: str, finish: str | None, number: int) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": None, "finish_reason": finish}


def _usage(rows: list[list[int]], written: int) -> dict[str, Any]:
    read = sum(map(len, rows))
    return {"usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}}


def _event(said: dict[str, Any]) -> str:
    return f"data: {json.dumps(said)}\n\n"
