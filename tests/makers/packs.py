"""Corpora packed by `pack`, and the blocks that a plain loop makes of the same texts."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from stages.corpora.blocks import read_blocks
from stages.pack import pack
from stages.schema.corpus import Corpus
from stages.settings import Base, Pack
from tests.makers.runs import make_work
from tests.makers.texts import make_reviews

TEXTS = [text for text, _ in make_reviews(300)]
LENGTH = 16


def run_pack(
    output: Path,
    source: Path | str,
    model: Path,
    *,
    seed: int = 5,
    corpus: dict[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Packs the corpus `mine` in blocks of LENGTH; returns the metrics."""
    return pack(
        Pack.model_validate({"block_length": LENGTH} | settings),
        make_work(output, seed=seed),
        name="mine",
        corpus=Corpus.model_validate({"source": str(source)} | (corpus or {})),
        base=Base(model=str(model)),
    )


def read_columns(output: Path, split: str) -> dict[str, np.ndarray]:
    """A packed split: column -> (blocks, LENGTH)."""
    return {name: np.array(values) for name, values in read_blocks(output / "data", split)[:].items()}


def write_lines(folder: Path, texts: list[str]) -> Path:
    """text.txt: a text a line, blank lines between them."""
    (folder / "text.txt").write_text("\n\n".join(texts) + "\n", encoding="utf8")
    return folder / "text.txt"


def cut_into_blocks(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int = LENGTH
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and word starts of the blocks, token by token."""
    ids: list[int] = []
    starts: list[bool] = []
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        ids += [*encoded["input_ids"], tokenizer.sep_token_id]
        words = encoded.word_ids()
        starts += [i == 0 or words[i] != words[i - 1] for i in range(len(words))] + [True]
    opening, closing = tokenizer("")["input_ids"]
    step = length - 2
    cuts = [slice(at, at + step) for at in range(0, len(ids) - step + 1, step)]
    return np.array([[opening, *ids[c], closing] for c in cuts]), np.array([[True, *starts[c], True] for c in cuts])
