"""pack: the hub is streamed, and what cannot be packed is refused in one sentence."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from stages.corpora import documents
from stages.errors import BadInput
from tests.makers.packs import TEXTS, cut_into_blocks, read_columns, run_pack, write_lines

REFUSED = [
    ({}, {"source": "none.txt"}, "data.corpora.mine.source {}/none.txt does not exist; give a file"),
    ({}, {"source": "a/b/c"}, "data.corpora.mine.source {}/a/b/c does not exist; give a file"),
    (
        {"a.xml": "x"},
        {"source": "a.xml"},
        "source {}/a.xml is no text that can be read; give a file that ends in ",
    ),
    ({"a.xml": "x"}, {"source": "."}, "is no text that can be read; give a file that ends in .txt, .tokens"),
    ({"dev.txt": "x", "test.txt": "x"}, {"source": "."}, "has text for validation and test only"),
    ({"a.txt": "x"}, {"source": "a.txt", "validation": "v.txt"}, "mine.validation {}/v.txt does not exist; give"),
    ({"a.txt": " \n\n"}, {"source": "a.txt"}, "corpus mine: its train text of 0 tokens fills no block of 16"),
    ({"a.txt": "the film"}, {"source": "a.txt"}, "tokens fills no block of 16; give it more text, or set pack."),
    ({"a.txt": b"good\n\xff\n"}, {"source": "a.txt"}, "a.txt, line 2: byte 0xff at place 1 of the line is not UTF"),
    (
        {"a.jsonl": '{"body": "x", "id": 1}'},
        {"source": "a.jsonl"},
        "a.jsonl, line 1: no column `text`, but body, id",
    ),
    ({"a.jsonl": '{"text": "x"}\n{"text": 3}'}, {"source": "a.jsonl"}, "line 2: text is 3 and not a text; correct"),
    ({"a.jsonl": '{"text": "x"}\n{'}, {"source": "a.jsonl"}, "a.jsonl, line 2: not JSON (Expecting"),
    ({"a.jsonl": "[1]"}, {"source": "a.jsonl"}, "a.jsonl, line 1: [1] is not an object of columns and values"),
    ({"a.parquet": "no"}, {"source": "a.parquet"}, "a.parquet cannot be read as Parquet ("),
]


def test_the_hub_is_streamed(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load_dataset(owner: str, config: str | None, *, split: str, streaming: bool) -> datasets.IterableDataset:
        calls.append((owner, config, split, streaming))
        part = TEXTS[:200] if split == "train" else TEXTS[200:]
        return datasets.IterableDataset.from_generator(lambda: ({"body": text} for text in part))

    monkeypatch.setattr(documents, "get_dataset_split_names", lambda *_: ["test", "train", "validation"])
    monkeypatch.setattr(documents, "load_dataset", load_dataset)
    run_pack(tmp_path / "out", "someone/texts:small", tiny_model, corpus={"text": "body"})
    assert calls == [("someone/texts", "small", split, True) for split in ("train", "validation")]
    ids, _ = cut_into_blocks(TEXTS[:200], AutoTokenizer.from_pretrained(tiny_model))
    np.testing.assert_array_equal(read_columns(tmp_path / "out", "train")["input_ids"], ids)
    with pytest.raises(BadInput, match=r"validation, row 1: no column `text`, but body; set data\.corpora\.mine\.text"):
        run_pack(tmp_path / "wrong", "someone/texts", tiny_model)
    monkeypatch.setattr(documents, "get_dataset_split_names", lambda *_: ["test"])
    with pytest.raises(BadInput, match=r"cannot be loaded from the hub \(its splits are test, and none is train\)"):
        run_pack(tmp_path / "none", "someone/texts", tiny_model)


def test_a_data_set_that_the_hub_lacks(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("no such data set\nand\nmore")

    monkeypatch.setattr(documents, "get_dataset_split_names", fail)
    with pytest.raises(
        BadInput, match=r"source someone/texts is no file or folder here .*\(no such data set and\); give a"
    ):
        run_pack(tmp_path / "out", "someone/texts", tiny_model)


@pytest.mark.parametrize(("files", "corpus", "sentence"), REFUSED)
def test_what_cannot_be_packed_is_refused(
    tmp_path: Path, tiny_model: Path, files: dict[str, str | bytes], corpus: dict[str, str], sentence: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    places = {key: str(tmp_path / value) for key, value in corpus.items()}
    with pytest.raises(BadInput) as refusal:
        run_pack(tmp_path / "out", places.pop("source"), tiny_model, corpus=places)
    assert sentence.format(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_column_that_parquet_lacks(tmp_path: Path, tiny_model: Path) -> None:
    pd.DataFrame({"body": ["x"], "id": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"row 1: no column `text`, but body, id; set data\.corpora\.mine\.text"):
        run_pack(tmp_path / "out", tmp_path / "a.parquet", tiny_model)


def test_too_little_is_held_out(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(
        BadInput, match=r"its validation text of 0 tokens fills no block.*pack\.validation_share higher"
    ):
        run_pack(tmp_path / "out", write_lines(tmp_path, [" ".join(TEXTS)]), tiny_model)


def test_an_unsuitable_model_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"pack\.block_length 65 is more than .* can read; set it to 64 or less"):
        run_pack(tmp_path / "long", write_lines(tmp_path, TEXTS), tiny_model, block_length=65)
    decoder = tmp_path / "decoder"
    decoder.mkdir()
    for path in tiny_model.iterdir():
        content = (
            path.read_text().replace('"mask_token": "[MASK]"', '"mask_token": null') if path.suffix == ".json" else ""
        )
        (decoder / path.name).write_text(content)
    with pytest.raises(BadInput, match=r"pretrain\.base\.model .* has no mask token; give an encoder such as BERT"):
        run_pack(tmp_path / "out", tmp_path / "text.txt", decoder)
    with pytest.raises(BadInput, match=r"pretrain\.base\.model .*nowhere is not a folder"):
        run_pack(tmp_path / "none", tmp_path / "text.txt", tmp_path / "nowhere")
