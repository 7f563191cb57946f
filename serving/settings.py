"""The service's settings, on the command line (`--max-queue 9`) or in the environment (`MAKD_MAX_QUEUE=9`)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from serving.exported import ModelError, Provider

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


COMMAND_LINE = SettingsConfigDict(
    frozen=True,
    extra="forbid",
    use_attribute_docstrings=True,
    cli_kebab_case=True,
    cli_hide_none_type=True,
    cli_avoid_json=True,
)
"""How a command takes its settings."""


class Settings(BaseSettings):
    """An exported model behind HTTP: Open Inference Protocol v2, /predict, /v1/completions of a language model,
    /metrics. SIGTERM answers what was accepted and ends; SIGHUP takes a changed model without dropping a request.
    """

    model_config = COMMAND_LINE | SettingsConfigDict(env_prefix="MAKD_", cli_prog_name="python -m serving")

    model: CliPositionalArg[str] = ""
    """A folder that `export` wrote, or `models:/name@champion` of the registry at MLFLOW_TRACKING_URI."""
    name: str | None = None
    """The model's name in URLs; none: the task's."""
    teacher: str | None = None
    """A second model beside it, to compare with on the page; its name ends in `-teacher`."""
    variant: Literal["fp32", "portable", "fp16", "int8"] = "fp32"
    """Which graph of the folder; the teacher's is fp32."""
    provider: Provider = "cpu"
    """Where to run it; `cuda` needs onnxruntime-gpu."""
    threads: Count = 1
    """Threads that one batch runs on."""
    instances: Count = 1
    """Batches that run at the same time; together they use `instances` x `threads` cores."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all of the machine's."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0: any that is free."""
    api_key: SecretStr | None = None
    """Asked of every request but health checks, as `Authorization: Bearer`; better in the environment than here."""
    api_key_file: Path | None = None
    """A file with the key, as secrets are mounted."""

    max_tokens: Count = 4096
    """Most tokens of a batch, padding included."""
    max_wait_ms: Annotated[float, Field(ge=0)] = 0.0
    """How long a text may wait for others to fill its batch, while the model is free; 0: none."""
    padding: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest share of a batch that is padding. Less: smaller batches, less work in vain."""
    max_queue: Count = 512
    """Texts accepted and not yet answered; further ones are refused with 429 and Retry-After."""
    max_generations: Count = 16
    """Texts that a language model generates at the same time; further ones are refused likewise."""
    max_texts: Count = 256
    """Most texts of one request."""
    max_bytes: Count = 2_000_000
    """Largest request."""
    long_texts: Literal["truncate", "refuse"] = "truncate"
    """What happens to a text with more tokens than the model reads."""
    arrival_seconds: Seconds = 30
    """How long a request's headers, and then its body, may take to arrive."""
    drain_seconds: Count = 60
    """How long SIGTERM waits for what was accepted."""
    poll_seconds: Annotated[float, Field(ge=0)] = 0
    """How often to look for a new champion (or a changed folder); 0: only on SIGHUP."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model:
            raise ValueError("no model is named; give a folder that `export` wrote, or models:/name@champion")
        if self.max_texts > self.max_queue:
            raise ValueError(f"max_texts {self.max_texts} is above max_queue {self.max_queue}; give less")
        if self.api_key and self.api_key_file:
            raise ValueError("api_key and api_key_file are both set; give one")
        return self

    def read_key(self) -> bytes | None:
        """The API key.

        Raises:
            ModelError: the file cannot be read, or the key is empty.
        """
        if not self.api_key and not self.api_key_file:
            return None
        try:
            text = self.api_key.get_secret_value() if self.api_key else self.api_key_file.read_text(encoding="utf8")
        except OSError as error:
            raise ModelError(f"api_key_file {self.api_key_file} cannot be read: {error.strerror}") from None
        if not text.strip():
            raise ModelError("the API key is empty; write one into api_key_file, or set none")
        return text.strip().encode()


def format_errors(error: ValidationError) -> str:
    """What is wrong with the settings, for people."""
    sentences = []
    for found in error.errors():
        place, message = ".".join(map(str, found["loc"])), found["msg"].removeprefix("Value error, ")
        sentences.append(f"{place} {found['input']!r}: {message}" if place else message)
    return "; ".join(sentences)
