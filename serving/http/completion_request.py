"""What a client may ask of `/v1/completions`.

What the generator cannot do (`n`, `best_of`, `echo`, `logprobs`, `suffix`, penalties, `logit_bias`) is refused, unless
it asks for nothing; what is unknown is ignored, as clients send more than they need.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.generator import Prompt
from serving.http.errors import explain_forms
from serving.sampling import Sampling

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
        explain_forms("give a text, token ids, or a list of such"),
    ]
    """A text or several, or token ids."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """0: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=4)] | None,
        explain_forms("give a text of up to 200 characters, or up to 4 of them"),
    ] = None
    """Texts before which the answer ends."""
    stream: bool = False
    """Server-sent events, a piece each, then `[DONE]`."""
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name in NOTHING and value not in NOTHING[name]:
                raise ValueError(f"{name} is not supported; leave it out")
        return self

    def list_prompts(self) -> list[Prompt]:
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else list(self.prompt)

    def list_stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def make_sampling(self, number: int) -> Sampling:
        """For the prompt of that number, so that each draws for itself."""
        seed = None if self.seed is None else self.seed + number
        return Sampling(max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=seed)


EXAMPLES = {
    "text": {"value": {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0}},
    "stream": {"value": {"prompt": "Once upon a time", "max_tokens": 24, "stream": True}},
}
