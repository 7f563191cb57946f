"""A prompt in, its continuation out: an exported decoder, with nothing but numpy, onnxruntime and tokenizers.

    generator = Generator("outputs/export/stories", variant="int8", threads=2)
    generator.generate(["Once upon a time", "The dog"], Sampling(max_tokens=40))
    for piece in generator.stream("Once upon a time", Sampling(temperature=0.8, top_p=0.95)):
        print(piece, end="", flush=True)

Prompts are texts, or token ids where the caller has its own way to write them: a chat is written out by the model's
chat template, which is a program in Jinja that the three packages cannot run.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serving.decoder import Decoder, pad_left
from serving.exported import Exported, ModelError
from serving.sampling import Sampling

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Prompt = str | Sequence[int]
"""A text, which gets the model's start token where it has one, or token ids, which are read as they are."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A generated continuation of a prompt."""

    text: str
    """Without special tokens; a character that the last token leaves unfinished is not in it."""
    ids: list[int]
    """The tokens, the one that ended the text included."""
    finish: Literal["stop", "length"]
    """A stop token came, or there was no room for more tokens."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The text that one token adds."""

    text: str
    """The characters that it completes; often none."""
    finish: Literal["stop", "length"] | None
    """Why the text ends with it, where it does."""


class Generator(Exported):
    """A decoder, which goes on from prompts."""

    kinds = ("causal_lm",)
    required_files = ("generation_config.json", "tokenizer.json")

    def _read_files(self) -> None:
        from tokenizers import Tokenizer

        self.decoder = Decoder(self.session, self._provider)
        self.positions: int = self.manifest["positions"]
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self._end_tokens = _read_end_tokens(self.folder / "generation_config.json")

    @classmethod
    def text_columns(cls, manifest: dict[str, Any]) -> list[str]:
        """Names of the texts of one example."""
        return ["text"]

    @classmethod
    def answer_columns(cls, manifest: dict[str, Any]) -> dict[str, str]:
        """Names and types of an answer's values, as MLflow calls them."""
        return {"text": "string"}

    def answer(self, texts: Sequence[Prompt]) -> list[dict[str, str]]:
        """The greedy continuation of each text."""
        return [{"text": one.text} for one in self.generate(texts)]

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[Completion]:
        """Continues all prompts together; a row's tokens do not depend on the other rows.

        Raises:
            ModelError: a prompt is empty, no prompt, or longer than the model reads; or no such stop token.
        """
        sampling, rows = sampling or Sampling(), self.encode(prompts)
        ends = self._collect_end_tokens(sampling)
        streams = [_Detokenizer(self.tokenizer, row, ends) for row in rows]
        texts: list[str] = [""] * len(rows)
        ids: list[list[int]] = [[] for _ in rows]
        for tokens in self._generate_tokens(rows, sampling, ends):
            for i, token in tokens.items():
                texts[i] += streams[i].add(token)
                ids[i].append(token)
        ended = ["stop" if own[-1] in ends else "length" for own in ids]
        return [Completion(text=t, ids=i, finish=f) for t, i, f in zip(texts, ids, ended, strict=True)]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[str]:
        """The continuation of one prompt as it is written, in pieces that never split a character.

        Raises:
            ModelError: as `generate`, before the first piece.
        """
        return (piece.text for piece in self.pieces(self.encode([prompt])[0], sampling) if piece.text)

    def pieces(self, prompt: Sequence[int], sampling: Sampling | None = None) -> Iterator[Piece]:
        """The continuation of one encoded prompt, token by token.

        Raises:
            ModelError: no such stop token, before the first piece.
        """
        sampling = sampling or Sampling()
        return self._generate_pieces(list(prompt), sampling, self._collect_end_tokens(sampling))

    def warm_up(self) -> None:
        """Reads one text of some length, so that the first request does not pay for the set-up."""
        ids = np.ones((1, min(128, self.positions)), np.int64)
        self.decoder.step(ids, ids)

    def _generate_pieces(self, prompt: list[int], sampling: Sampling, ends: set[int]) -> Iterator[Piece]:
        stream, room = (
            _Detokenizer(self.tokenizer, prompt, ends),
            min(sampling.max_tokens, self.positions - len(prompt)),
        )
        for written, tokens in enumerate(self._generate_tokens([prompt], sampling, ends), start=1):
            finish = "stop" if tokens[0] in ends else "length" if written == room else None
            yield Piece(text=stream.add(tokens[0]), finish=finish)

    def _generate_tokens(self, rows: list[list[int]], sampling: Sampling, ends: set[int]) -> Iterator[dict[int, int]]:
        """At each step the next token of every row that has not ended: row -> token."""
        ids, mask = pad_left(rows)
        room = [min(sampling.max_tokens, self.positions - len(row)) for row in rows]
        generators, open_rows, past = sampling.generators(len(rows)), set(range(len(rows))), None
        for written in range(1, max(room) + 1):
            logits, past = self.decoder.step(ids, mask, past)
            chosen = sampling.choose(logits[:, -1], generators)
            yield {i: chosen[i] for i in sorted(open_rows)}
            open_rows -= {i for i in open_rows if chosen[i] in ends or written == room[i]}
            if not open_rows:
                return
            # rows that have ended go along unseen: their mask stays 0, so their positions stand still
            going = np.array([[i in open_rows] for i in range(len(rows))], np.int64)
            ids, mask = np.array(chosen, np.int64)[:, None] * going, np.concatenate([mask, going], axis=1)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The prompts' tokens.

        Raises:
            ModelError: a prompt is empty, no prompt, or longer than the model reads.
        """
        if not prompts or isinstance(prompts, str):
            raise ModelError(f"prompts {prompts!r:.50} is not a list of prompts; give one or more")
        try:
            rows = [self.tokenizer.encode(p).ids if isinstance(p, str) else list(p) for p in prompts]
        except TypeError:
            raise ModelError("a prompt has a lone surrogate, or is no prompt; give Unicode, or token ids") from None
        words = self.tokenizer.get_vocab_size()
        for prompt, row in zip(prompts, rows, strict=True):
            if not row or not all(isinstance(i, int | np.integer) and 0 <= i < words for i in row):
                raise ModelError(
                    f"prompt {prompt!r:.50} has no tokens to go on from; give a text, or ids below {words}"
                )
            if len(row) >= self.positions:
                raise ModelError(
                    f"prompt {prompt!r:.50} has {len(row)} tokens; this model reads {self.positions}, "
                    "those that it writes included"
                )
        return rows

    def _collect_end_tokens(self, sampling: Sampling) -> set[int]:
        named = {token: self.tokenizer.token_to_id(token) for token in sampling.stop}
        if unknown := [token for token, number in named.items() if number is None]:
            raise ModelError(f"stop {unknown[0]!r} is no token of this model; give one from its vocabulary")
        return self._end_tokens | set(named.values())


class _Detokenizer:
    """Tokens in, text out as soon as its characters are whole.

    The prompt's tokens go first, unseen: whether a word begins with a space depends on what stands before it.
    """

    def __init__(self, tokenizer: "Tokenizer", prompt: Sequence[int], ends: set[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer, self._stream, self._ends = tokenizer, DecodeStream(skip_special_tokens=True), ends
        for token in prompt:
            self._stream.step(tokenizer, token)

    def add(self, token: int) -> str:
        """The text that this token completes; none where it only ends the text."""
        return "" if token in self._ends else self._stream.step(self._tokenizer, token) or ""


def _read_end_tokens(path: Path) -> set[int]:
    """The tokens that end a text: one, several, or none."""
    ends = json.loads(path.read_text(encoding="utf8")).get("eos_token_id")
    return set(ends) if isinstance(ends, list) else {ends} - {None}
