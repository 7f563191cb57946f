"""`/v1/completions`, as OpenAI has it: a language model continues prompts, in one piece or as a stream (SSE).

What the generator cannot do (`n`, `best_of`, `echo`, `logprobs`, `suffix`, penalties, `logit_bias`) is refused, unless
it asks for nothing; what is unknown is ignored, as clients send more than they need.
"""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.generator import Prompt
from serving.http.errors import PROBLEMS, Refused, in_one_sentence
from serving.http.stops import Until
from serving.http.v2 import find
from serving.http.waiting import unless_gone
from serving.sampling import Sampling
from serving.served import Served, Writer

router = APIRouter(prefix="/v1", responses=PROBLEMS)
Ids = Annotated[list[Annotated[int, Field(ge=0, strict=True)]], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (None, 1), "best_of": (None, 1), "echo": (None, False), "logprobs": (None,), "suffix": (None, ""),
    "presence_penalty": (None, 0), "frequency_penalty": (None, 0), "logit_bias": (None, {}),
}  # fmt: skip
"""Fields that are not supported, with the values that ask for nothing."""


class StreamOptions(BaseModel):
    """How a stream ends."""

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """Prompts to continue."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str | None = None
    """One of `/v1/models`; none: the student."""
    prompt: Annotated[
        str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)],
        in_one_sentence("give a text, token ids, or a list of such"),
    ]
    """A text or several, or token ids."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=4)] | None,
        in_one_sentence("give a text of up to 200 characters, or up to 4 of them"),
    ] = None
    """Texts before which the answer ends."""
    stream: bool = False
    """Server-sent events, a piece each, then `[DONE]`."""
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _only_what_is_supported(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in NOTHING and value not in NOTHING[name]:
                raise ValueError(f"{name} is not supported; leave it out")
        return self

    def prompts(self) -> list[Prompt]:
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else list(self.prompt)

    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def sampling(self, number: int) -> Sampling:
        """For the prompt of that number, so that each draws for itself."""
        seed = None if self.seed is None else self.seed + number
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=seed)


EXAMPLES = {
    "text": {"value": {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}},
    "stream": {"value": {"prompt": "Once upon a time", "max_tokens": 24, "stream": True}},
}


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
