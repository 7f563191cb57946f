"""A decoder on its way to ONNX: a graph with past key values, proven on whole greedy generations."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.graph import check, trace
from stages.graph.trace_decoder import trace_decoder
from stages.settings import BadInput

if TYPE_CHECKING:
    from numpy import ndarray
    from transformers import PreTrainedModel

    from serving.decoder import Decoder
    from stages.graph.quantize import Batch

STEPS = 24
"""Tokens that the proof writes behind each prompt."""
PROMPT = 64
"""Tokens of its longest prompt."""


class LanguageModel:
    """A `Subject` (subject.py) that is scored by its next tokens.

    Args:
        data: what prepare froze: rows of `input_ids` and, of equal length, `labels` (-100 where nobody asks).
        metric: `accuracy` of the next token, or `likelihood`; reduced variants have to keep it.
    """

    def __init__(self, model: "PreTrainedModel", data: Path, *, metric: str = "accuracy") -> None:
        from transformers import AutoTokenizer

        from stages.tasks.splits import read_split

        self.model, self.metric = model, metric
        self.train, self.validation = read_split(data, "train"), read_split(data, "validation")
        self.tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
        self.facts: dict[str, Any] = {"kind": "causal_lm"}

    def write_beside(self, folder: Path) -> None:
        """`generation_config.json`: which tokens end a text."""
        self.model.generation_config.save_pretrained(folder)

    def trace(self, path: Path, opset: int) -> None:
        trace_decoder(self.model, path, opset=opset)

    def feeds(self, graph: Path, count: int, seed: int) -> "list[Batch]":
        import numpy as np

        drawn = self.train.shuffle(seed=seed, keep_in_memory=True).select(range(min(count, len(self.train))))
        decoder = _decoder(graph)
        rows = (np.array([ids], np.int64) for ids in drawn["input_ids"])
        return [decoder.feed(ids, np.ones_like(ids)) for ids in rows]

    def compare(self, graph: Path) -> dict[str, float]:
        """Prefill and every step of PyTorch's own greedy generation, its tokens fed to both; prompts of different
        lengths, padded on the left.

        `difference`: largest of a logit at real tokens. `same_tokens`: % of the steps with the same likeliest token.
        """
        import numpy as np

        from serving.decoder import pad_left

        decoder, same, largest = _decoder(graph), [], 0.0
        prompts = _prompts(self.validation["input_ids"][:4], trace.positions(self.model) - STEPS)
        for batch in (prompts[-1:], prompts):
            for found, wanted in _steps(decoder, self.model, *pad_left(batch)):
                largest = max(largest, float(np.abs(found - wanted).max()))
                same += (found.argmax(-1) == wanted.argmax(-1)).tolist()
        return {"difference": largest, "same_tokens": 100 * float(np.mean(same))}

    def score(self, folder: Path, variant: str) -> "tuple[dict[str, float], ndarray | None]":
        """Of the next tokens that the labels ask for: accuracy and 100 / perplexity in points, perplexity; and the
        likeliest tokens.
        """
        import numpy as np
        import torch

        from serving.generator import Generator

        generator = Generator(folder, variant, threads=torch.get_num_threads())
        if variant == "fp32":
            self._check_tokenizer(generator)
        loss, said, right = [], [], []
        for row in self.validation.select_columns(["input_ids", "labels"]):
            ids, labels = np.array([row["input_ids"]], np.int64), np.array(row["labels"][1:])
            where = np.flatnonzero(labels >= 0)
            logits = generator.decoder.step(ids, np.ones_like(ids))[0][0, where].astype(np.float64)
            highest = logits.max(-1, keepdims=True)
            own = logits[np.arange(len(where)), labels[where]]
            loss.append(np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0] - own)
            said.append(logits.argmax(-1))
            right.append(labels[where])
        said, mean = np.concatenate(said), float(np.concatenate(loss).mean())
        accuracy = 100 * float((said == np.concatenate(right)).mean())
        return {"accuracy": accuracy, "likelihood": 100 * float(np.exp(-mean)), "perplexity": float(np.exp(mean))}, said

    def check_score(self, found: float, evaluated: float) -> None:
        """Equal up to a few of many tokens that tie within rounding.

        Raises:
            BadInput: it is not.
        """
        check.same_score(self.metric, found, evaluated, 0.05)

    def _check_tokenizer(self, generator: Any) -> None:
        for text in self.tokenizer.batch_decode(self.validation["input_ids"][:64], skip_special_tokens=True):
            if generator.tokenizer.encode(text).ids != self.tokenizer(text)["input_ids"]:
                raise BadInput(f"the exported tokenizer reads {text!r:.80} differently from prepare; run prepare again")


def _decoder(graph: Path) -> "Decoder":
    from serving.decoder import Decoder

    with check.runnable(graph) as session:
        return Decoder(session)


def _prompts(rows: list[list[int]], most: int) -> list[list[int]]:
    """Beginnings of the rows, from short to as long as may be."""
    return [row[: max(1, min(len(row), most, PROMPT) * i // len(rows))] for i, row in enumerate(rows, start=1)]


def _steps(
    decoder: "Decoder", model: "PreTrainedModel", ids: "ndarray", mask: "ndarray"
) -> Iterator[tuple["ndarray", "ndarray"]]:
    """Logits of the graph and of PyTorch, each (places, words): at the prompts' real tokens, then step by step."""
    import numpy as np
    import torch

    given = {"attention_mask": torch.from_numpy(mask)}
    with torch.inference_mode():
        made = model.generate(
            torch.from_numpy(ids),
            **given,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        positions = (given["attention_mask"].cumsum(1) - 1).clamp(min=0)
        whole = model(torch.from_numpy(ids), **given, position_ids=positions).logits.numpy()
    logits, past = decoder.step(ids, mask)
    yield logits[mask == 1], whole[mask == 1]
    for i, wanted in enumerate(made.logits):
        yield logits[:, -1], wanted.float().numpy()
        mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
        ids = made.sequences[:, whole.shape[1] + i, None].numpy()
        logits, past = decoder.step(ids, mask, past)
