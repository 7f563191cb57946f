"""Tokens in, blocks of one length on disk: how text is packed, and how later stages read it.

The text is all documents in a row, an end token after each; documents run on from block to block. What fills no block
at the end is dropped, and so is a block of special tokens alone. For an encoder a block is framed by the tokenizer's
first token and its separator; for a causal model it is the text alone.
"""

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import torch
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from transformers import PreTrainedTokenizerBase

from stages.corpora.masking import Masking, mask_tokens
from stages.errors import BadInput


def read_blocks(data: Path, split: str) -> Dataset:
    """A split that `pack` wrote; a row is read from disk when it is used.

    Columns: input_ids (int32), starts (bool; where a word begins, every special token being one). In `validation` the
    input_ids are masked, and labels (int32) are the original tokens, -100 where nothing is predicted. Each as long as a
    block.

    Raises:
        BadInput: the folder does not hold that split.
    """
    if not (data / split).is_dir():
        raise BadInput(f"{data / split} does not exist; run `python -m stages.pack` first")
    return Dataset.load_from_disk(str(data / split))


class BlockWriter:
    """Cuts tokens into blocks, counts them and writes them to disk.

    Args:
        folder: that `save` makes; a scratch file beside it holds the blocks until then.
        end: the token after each document.
        most: blocks to write at most; None for all.
    """

    column_types: ClassVar[dict[str, str]]
    """Column that is as long as a block -> its type."""
    scalar_columns: tuple[str, ...] = ()
    """Columns of one number for each block."""
    frame: tuple[int, ...] = ()
    """Ids around a block's text: none, or the first and the last."""

    def __init__(
        self, folder: Path, tokenizer: PreTrainedTokenizerBase, length: int, *, end: int, most: int | None = None
    ) -> None:
        lists = {name: List(Value(kind), length=length) for name, kind in self.column_types.items()}
        features = Features(lists | dict.fromkeys(self.scalar_columns, Value("int32")))
        self.folder, self.tokenizer, self.length, self.end, self.most = folder, tokenizer, length, end, most
        self.seen = self.blocks = 0
        """Tokens read, blocks written."""
        self.counts = np.zeros(len(tokenizer), np.int64)
        """How often each id occurs in the text of the blocks."""
        self._cut_short = False
        self._ids, self._starts = np.zeros(0, np.int32), np.zeros(0, bool)
        self._content = hashlib.sha256()
        self._scratch = folder.with_name(f".{folder.name}.arrow")
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._arrow = ArrowWriter(path=str(self._scratch), features=features)

    @property
    def full(self) -> bool:
        """Whether it has as many blocks as it may have."""
        return self.blocks == self.most

    @property
    def fingerprint(self) -> str:
        """Of the content: 16 hex digits of a SHA-256 over the text's token ids, the same everywhere."""
        return self._content.hexdigest()[:16]

    def write(self, ids: np.ndarray, starts: np.ndarray) -> None:
        """Takes the text's next tokens (tokens,) and writes the blocks that they fill."""
        self.seen += len(ids)
        ids, starts = np.concatenate([self._ids, ids]), np.concatenate([self._starts, starts])
        inner = self.length - len(self.frame)
        end = len(ids) // inner * inner
        self._ids, self._starts = ids[end:], starts[end:]
        rows, row_starts = ids[:end].reshape(-1, inner), starts[:end].reshape(-1, inner)
        some = ~np.isin(rows, self.tokenizer.all_special_ids).all(1)
        some = np.flatnonzero(some)[: None if self.most is None else self.most - self.blocks]
        if len(some):
            self._write(rows[some], row_starts[some])

    def _write(self, ids: np.ndarray, starts: np.ndarray) -> None:
        """Both (blocks, tokens of text)."""
        self.counts += np.bincount(ids.ravel(), minlength=len(self.counts))
        self._cut_short = bool(ids[-1, -1] != self.end)
        self._content.update(ids.astype("<i4").tobytes())
        self._arrow.write_batch({name: _to_arrow(values) for name, values in self.make_columns(ids, starts).items()})
        self.blocks += len(ids)

    def make_columns(self, ids: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of the next blocks: (blocks, length), or (blocks,).

        Args:
            ids, starts: (blocks, tokens of text)
        """
        raise NotImplementedError

    def save(self) -> None:
        """Closes the split, which `read_blocks` can then read."""
        self._arrow.finalize()
        rows = Dataset.from_file(str(self._scratch))
        # the content's own fingerprint: the library's changes from run to run
        rows.select(range(len(rows)), new_fingerprint=self.fingerprint).save_to_disk(str(self.folder))
        self._scratch.unlink()

    def statistics(self) -> dict[str, Any]:
        """Documents (begun), blocks, their tokens with the special ones, and the share of text that is unknown."""
        unknown = self.tokenizer.unk_token_id
        share = 0.0 if unknown is None else float(self.counts[unknown] / self.counts.sum())
        return {
            "documents": int(self.counts[self.end]) + self._cut_short,
            "blocks": self.blocks,
            "tokens": self.blocks * self.length,
            "unknown": round(share, 6),
        }


class MaskedBlockWriter(BlockWriter):
    """Blocks for an encoder, framed; with `masking` masked here, once and for all, and given labels."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        *,
        most: int | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.masking, self.masked = masking, 0
        self.column_types = {"input_ids": "int32", "starts": "bool"} | ({"labels": "int32"} if masking else {})
        self.frame = tokenizer.cls_token_id, tokenizer.sep_token_id
        super().__init__(folder, tokenizer, length, end=tokenizer.sep_token_id, most=most)

    def make_columns(self, ids: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        framed = np.pad(ids, ((0, 0), (1, 1)), constant_values=((0, 0), self.frame))
        columns = {"input_ids": framed, "starts": np.pad(starts, ((0, 0), (1, 1)), constant_values=True)}
        return columns | (self._mask(**columns, masking=self.masking) if self.masking else {})

    def _mask(self, input_ids: np.ndarray, starts: np.ndarray, masking: Masking) -> dict[str, np.ndarray]:
        index = torch.arange(self.blocks, self.blocks + len(input_ids))
        inputs, labels = mask_tokens(torch.from_numpy(input_ids).long(), torch.from_numpy(starts), index, 0, masking)
        self.masked += int((labels >= 0).sum())
        return {"input_ids": inputs.int().numpy(), "labels": labels.int().numpy()}

    def statistics(self) -> dict[str, Any]:
        return super().statistics() | ({"masked": self.masked} if self.masking else {})


class CausalBlockWriter(BlockWriter):
    """Blocks for a causal model: every token is a label, predicted from those before it in the same block."""

    column_types: ClassVar[dict[str, str]] = {"input_ids": "int32", "labels": "int32"}

    scalar_columns = ("length",)

    def make_columns(self, ids: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        return {"input_ids": ids, "labels": ids, "length": np.full(len(ids), self.length, np.int32)}


def save_blocks(writers: dict[str, BlockWriter], what: str, *, length: str, share: str) -> str:
    """Closes the splits; returns the fingerprint of all their content, 16 hex digits.

    Args:
        writers: `train` and `validation`.
        what: owner of the text, for an error.
        length, share: settings of the blocks' length and of how much text is held out.

    Raises:
        BadInput: a split fills no block.
    """
    for split, writer in writers.items():
        if not writer.blocks:
            raise BadInput(
                f"{what}: its {split} text of {writer.seen} tokens fills no block of {writer.length}; give it more "
                f"text, or set {length} lower" + f", or {share} higher" * (split == "validation")
            )
        writer.save()
    content = "".join(writers[split].fingerprint for split in sorted(writers))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _to_arrow(values: np.ndarray) -> Any:
    """Rows (rows, length) as an Arrow column of lists of that length; numbers (rows,) as one of numbers."""
    flat = pyarrow.array(values.ravel())
    return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
