"""A decoder as an ONNX graph with past key values (KV cache), compared with PyTorch over whole greedy generations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from transformers import AutoTokenizer, PreTrainedModel

from serving.decoder import Decoder, pad_left
from serving.exported import Feed
from serving.generator import Generator
from stages.errors import BadInput
from stages.graph import parity
from stages.graph.exporter import CardText
from stages.graph.trace import get_max_positions
from stages.graph.trace_decoder import trace_decoder
from stages.tasks.splits import read_split

STEPS = 24
"""Tokens that are generated after each prompt for the comparison."""
PROMPT = 64
"""Tokens of its longest prompt."""


class DecoderExporter:
    """An `Exporter` that is scored by its next tokens.

    Args:
        data: written by prepare: rows of `input_ids` and, of equal length, `labels` (-100 where nothing is predicted).
        metric: `accuracy` of the next token, or `likelihood`; reduced variants have to keep it.
    """

    def __init__(self, model: PreTrainedModel, data: Path, *, metric: str = "accuracy") -> None:
        self.model, self.metric = model, metric
        self.train, self.validation = read_split(data, "train"), read_split(data, "validation")
        self.tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
        self.facts: dict[str, Any] = {}

    def write_files(self, folder: Path) -> None:
        """`generation_config.json`: which tokens end a text."""
        self.model.generation_config.save_pretrained(folder)

    def export_graph(self, path: Path, opset: int) -> None:
        trace_decoder(self.model, path, opset=opset)

    def make_feeds(self, graph: Path, count: int, seed: int) -> list[Feed]:
        drawn = self.train.shuffle(seed=seed, keep_in_memory=True).select(range(min(count, len(self.train))))
        decoder = _open_decoder(graph)
        rows = (np.array([ids], np.int64) for ids in drawn["input_ids"])
        return [decoder.make_feed(ids, np.ones_like(ids)) for ids in rows]

    def compare_with_torch(self, graph: Path) -> dict[str, float]:
        """Prefill and every step of PyTorch's own greedy generation, its tokens fed to both; prompts of different
        lengths, padded on the left.

        `difference`: largest of a logit at real tokens. `same_tokens`: % of the steps with the same most probable
        token.
        """
        decoder, same, largest = _open_decoder(graph), [], 0.0
        prompts = _cut_prompts(self.validation["input_ids"][:4], get_max_positions(self.model) - STEPS)
        for batch in (prompts[-1:], prompts):
            for ours, theirs in _compare_steps(decoder, self.model, *pad_left(batch)):
                largest = max(largest, float(np.abs(ours - theirs).max()))
                same += (ours.argmax(-1) == theirs.argmax(-1)).tolist()
        return {"difference": largest, "same_tokens": 100 * float(np.mean(same))}

    def score(self, folder: Path, variant: str) -> tuple[dict[str, float], ndarray | None]:
        """Accuracy of the predicted tokens and 100 / perplexity in points, perplexity; and the most probable tokens."""
        generator = Generator(folder, variant, threads=torch.get_num_threads())
        if variant == "fp32":
            self._require_same_tokens(generator)
        losses, predicted, right = [], [], []
        for row in self.validation.select_columns(["input_ids", "labels"]):
            ids, labels = np.array([row["input_ids"]], np.int64), np.array(row["labels"][1:])
            positions = np.flatnonzero(labels >= 0)
            logits = generator.decoder.step(ids, np.ones_like(ids))[0][0, positions].astype(np.float64)
            highest = logits.max(-1, keepdims=True)
            own = logits[np.arange(len(positions)), labels[positions]]
            losses.append(np.log(np.exp(logits - highest).sum(-1)) + highest[:, 0] - own)
            predicted.append(logits.argmax(-1))
            right.append(labels[positions])
        tokens, mean = np.concatenate(predicted), float(np.concatenate(losses).mean())
        accuracy = 100 * float((tokens == np.concatenate(right)).mean())
        scores = {"accuracy": accuracy, "likelihood": 100 * float(np.exp(-mean)), "perplexity": float(np.exp(mean))}
        return scores, tokens

    def require_score(self, score: float, evaluated: float) -> None:
        """Equal up to a few of many tokens that tie within rounding.

        Raises:
            BadInput: it is not.
        """
        parity.require_same_score(self.metric, score, evaluated, slack=0.05)

    def describe(self, facts: dict[str, Any]) -> CardText:
        positions = f"{facts['positions']:,}"
        return CardText(
            pipeline_tag="text-generation",
            task=f"the beginning of a text in, its continuation out, up to {positions} tokens together",
            scored_on="ONNX Runtime on the split's tokens",
            usage=_USAGE,
        )

    def _require_same_tokens(self, generator: Generator) -> None:
        for text in self.tokenizer.batch_decode(self.validation["input_ids"][:64], skip_special_tokens=True):
            if generator.tokenizer.encode(text).ids != self.tokenizer(text)["input_ids"]:
                raise BadInput(f"the exported tokenizer reads {text!r:.80} differently from prepare; run prepare again")


def _open_decoder(graph: Path) -> Decoder:
    with parity.open_session(graph) as session:
        return Decoder(session)


def _cut_prompts(rows: list[list[int]], most: int) -> list[list[int]]:
    """Beginnings of the rows, from short to as long as may be."""
    return [row[: max(1, min(len(row), most, PROMPT) * i // len(rows))] for i, row in enumerate(rows, start=1)]


def _compare_steps(
    decoder: Decoder, model: PreTrainedModel, ids: ndarray, mask: ndarray
) -> Iterator[tuple[ndarray, ndarray]]:
    """Logits of the graph and of PyTorch, each (positions, words): at the prompts' real tokens, then step by step."""
    attention_mask = torch.from_numpy(mask)
    with torch.inference_mode():
        generated = model.generate(
            torch.from_numpy(ids),
            attention_mask=attention_mask,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        whole = model(torch.from_numpy(ids), attention_mask=attention_mask, position_ids=positions).logits.numpy()
    logits, past = decoder.step(ids, mask)
    yield logits[mask == 1], whole[mask == 1]
    for i, theirs in enumerate(generated.logits):
        yield logits[:, -1], theirs.float().numpy()
        mask = np.concatenate([mask, np.ones((len(mask), 1), np.int64)], axis=1)
        ids = generated.sequences[:, whole.shape[1] + i, None].numpy()
        logits, past = decoder.step(ids, mask, past)


_USAGE = """import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

session, tokenizer = InferenceSession("onnx/model.onnx"), Tokenizer.from_file("tokenizer.json")
caches = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past_key_values")}
past = {name: np.zeros((1, heads, 0, width), np.float32) for name, (_, heads, _, width) in caches.items()}
ids = new = tokenizer.encode("Once upon a time").ids
for _ in range(40):  # greedy decoding; generation_config.json names the tokens that end a text
    inputs = {
        "input_ids": np.array([new]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids) - len(new), len(ids))[None],
    }
    logits, *present = session.run(None, inputs | past)
    past, new = dict(zip(caches, present)), [int(logits[0, -1].argmax())]
    ids = ids + new
print(tokenizer.decode(ids))"""
