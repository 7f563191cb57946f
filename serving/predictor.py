"""Text in, labels out: the exported folder at work, with nothing but numpy, onnxruntime and tokenizers.

    predictor = Predictor("outputs/export/sentiment", variant="int8", threads=2)
    predictor.predict(["a warm, funny film", "not worth the ticket"])
    # [{'label': 'positive', 'score': 0.98}, {'label': 'negative', 'score': 0.97}]

A folder is trusted only as far as its checksums hold (exported.py).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from serving.exported import Exported, Feed, ModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Encoding, Tokenizer

Text = str | tuple[str, str]
"""A sentence, or the two sentences of a pair."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A text that its sender has tokenized: the fields of an `Encoding` that the predictor reads, each (tokens,)."""

    ids: Sequence[int]
    attention_mask: Sequence[int]
    type_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


Row = Union["Encoding", Tokens]
"""A tokenized text, not padded."""

_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class Predictor(Exported):
    """A classifier, or a regression; its graph's inputs and outputs must fit its labels (ModelError)."""

    kinds = ("classification", "regression")
    required_files = ("config.json", "tokenizer.json")

    def _read_files(self) -> None:
        config = json.loads((self.folder / "config.json").read_text(encoding="utf8"))
        self.regression: bool = config.get("problem_type") == "regression"
        self.labels: list[str] = [name for _, name in sorted(config["id2label"].items(), key=lambda i: int(i[0]))]
        _check_graph(self.session, self.path, len(self.labels))
        self.tokenizer, self._padding = _open_tokenizer(self.folder / "tokenizer.json", self.manifest["max_length"])
        self.vocabulary: int = config.get("vocab_size", self.tokenizer.get_vocab_size())
        self.types: int = config.get("type_vocab_size", 1)
        self.inputs: list[str] = [entry.name for entry in self.session.get_inputs()]

    @classmethod
    def text_columns(cls, manifest: dict[str, Any]) -> list[str]:
        """Names of the texts of one example."""
        return ["text", "text_pair"] if manifest["pair"] else ["text"]

    @classmethod
    def answer_columns(cls, manifest: dict[str, Any]) -> dict[str, str]:
        """Names and types of an answer's values, as MLflow calls them."""
        return (
            {"score": "double"} if manifest["task"]["kind"] == "regression" else {"label": "string", "score": "double"}
        )

    def answer(self, texts: Sequence[Text]) -> list[dict[str, str | float]]:
        """One answer for each text, with the columns of `answer_columns`."""
        return self.predict(texts)

    def predict(self, texts: Sequence[Text], batch_size: int = 32) -> list[dict[str, str | float]]:
        """For each text its most probable label and that label's probability (0 to 1); for regression the value.

        Raises:
            ModelError: an entry is no text, or no pair where the task takes pairs.
        """
        scores = self.to_scores(self.compute_logits(texts, batch_size))
        if self.regression:
            return [{"score": float(value)} for value in scores[:, 0]]
        return [
            {"label": self.labels[best], "score": float(row[best])}
            for row, best in zip(scores, scores.argmax(1), strict=True)
        ]

    def to_scores(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (texts, labels), 0 to 1, of logits of that shape; of a regression the values as they are."""
        if self.regression:
            return logits
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def compute_logits(self, texts: Sequence[Text], batch_size: int = 32) -> np.ndarray:
        """Logits (texts, outputs) float32 in the order given; texts of similar length share a batch."""
        encodings = self.encode(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        out = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            out[rows] = self.run(self.pad([encodings[i] for i in rows]))
        return out

    def encode(self, texts: Sequence[Text]) -> list["Encoding"]:
        """Token ids, truncated at the manifest's `max_length`, not padded."""
        pair = self.manifest["pair"]
        for text in texts:
            parts = text if isinstance(text, tuple | list) else (text,)
            if len(parts) != 1 + pair or not all(isinstance(part, str) for part in parts):
                raise ModelError(
                    f"{text!r:.80} is not {'a pair of texts' if pair else 'a text'}, which this model takes"
                )
        try:
            return self.tokenizer.encode_batch([tuple(text) if pair else text for text in texts])
        except TypeError:
            raise ModelError("a text has a lone surrogate; give well-formed Unicode") from None

    def pad(self, encodings: Sequence[Row], length: int = 0) -> Feed:
        """The graph's inputs, each (texts, longest text or `length`) int64."""
        shape = (len(encodings), max(length, *(len(e.ids) for e in encodings)))
        batch = {name: np.full(shape, self._padding[name], dtype=np.int64) for name in self.inputs}
        for name, array in batch.items():
            for row, encoding in zip(array, encodings, strict=True):
                row[: len(encoding.ids)] = getattr(encoding, _FIELDS[name])
        return batch

    def run(self, batch: Feed) -> np.ndarray:
        """Logits (texts, outputs) float32 of one padded batch."""
        if self._provider == "cpu":
            return self.session.run(["logits"], batch)[0]
        binding = self.session.io_binding()
        for name, array in batch.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    def warm_up(self) -> None:
        """Runs once, on a text of some length, so that the first request does not pay for the set-up."""
        shape = (1, min(128, self.manifest["max_length"]))
        self.run({name: np.full(shape, name != "token_type_ids", np.int64) for name in self.inputs})


def _check_graph(session: "InferenceSession", path: Path, labels: int) -> None:
    """Checks that the graph reads what the tokenizer makes, and has a logit for every label."""
    inputs = [entry.name for entry in session.get_inputs()]
    if "input_ids" not in inputs or set(inputs) - set(_FIELDS):
        raise ModelError(
            f"{path} reads {', '.join(inputs)}; a classifier reads {', '.join(_FIELDS)}, or the first; export again"
        )
    outputs = {entry.name: entry.shape for entry in session.get_outputs()}
    if len(shape := outputs.get("logits", [])) != 2 or (isinstance(shape[1], int) and shape[1] != labels):
        raise ModelError(
            f"{path} gives {outputs}, but config.json names {labels} labels, and logits of shape "
            f"[texts, {labels}] are read: export it again"
        )


def _open_tokenizer(path: Path, max_length: int) -> tuple["Tokenizer", dict[str, int]]:
    """The tokenizer, and the padding value of each of the graph's inputs."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    padding = tokenizer.padding
    tokenizer.no_padding()  # batches are made of similar lengths first
    tokenizer.enable_truncation(max_length)
    return tokenizer, {
        "input_ids": padding["pad_id"],
        "attention_mask": 0,
        "token_type_ids": padding["pad_type_id"],
    }
