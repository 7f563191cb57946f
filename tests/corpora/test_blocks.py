"""Packed blocks, as later stages read them."""

from pathlib import Path

import pytest

from stages.corpora.blocks import read_blocks
from stages.errors import BadInput


def test_a_corpus_that_was_not_packed_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train does not exist; run `python -m stages\.pack` first"):
        read_blocks(tmp_path, "train")
