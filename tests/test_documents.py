"""Which texts a corpus is read as: of which files, ended where, one after the other."""

import json
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from stages.corpora import tokens
from stages.corpora.corpus import Corpus
from stages.corpora.documents import documents


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_a_large_file_is_not_read_into_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"large.{ending}"
    text = "a line of some length, over and over again. " * 5
    if ending == "parquet":
        pd.DataFrame({"text": [f"{i} {text}" for i in range(100_000)]}).to_parquet(path, row_group_size=5000)
    else:
        lines = (f"{i} {text}" if ending == "txt" else json.dumps({"text": f"{i} {text}"}) for i in range(100_000))
        path.write_text("\n".join(lines))
    next(documents(Corpus(source=str(path)), "mine")["train"])  # what is imported on first use
    tracemalloc.start()
    count = sum(len(batch) for batch in tokens.batched(documents(Corpus(source=str(path)), "mine")["train"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000 and peak < 4e6, f"{peak / 1e6:.1f} MB of about 22"


ARTICLES = """
 = First = \n \n one two \n \n = = Part = = \n \n three \n = Goals ; A = \n four \n \n = Wins = \n 1
 \n = Second = \n \n five \n"""


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (
            "lines",
            [
                "= First =",
                "one two",
                "= = Part = =",
                "three",
                "= Goals ; A =",
                "four",
                "= Wins =",
                "1",
                "= Second =",
                "five",
            ],
        ),
        (
            "blank_lines",
            ["= First =", "one two", "= = Part = =", "three\n= Goals ; A =\nfour", "= Wins =\n1", "= Second =", "five"],
        ),
        ("articles", ["= First =\none two\n= = Part = =\nthree\n= Goals ; A =\nfour\n= Wins =\n1", "= Second =\nfive"]),
    ],
)
def test_where_documents_end(tmp_path: Path, mode: str, wanted: list[str]) -> None:
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"):
        (tmp_path / name).write_text(ARTICLES + name)
    found = documents(Corpus(source=str(tmp_path), documents=mode), "mine")
    tails = {split: text.splitlines()[-1] for split, texts in found.items() for text in texts}
    assert tails == {"train": "wiki.train.tokens", "validation": "wiki.valid.tokens"}
    (tmp_path / "one.txt").write_text(ARTICLES)
    assert list(documents(Corpus(source=str(tmp_path / "one.txt"), documents=mode), "mine")["train"]) == wanted


@pytest.mark.parametrize(
    ("names", "train", "validation"),
    [
        (["a.txt", "b.jsonl", "LICENSE"], ["a", "b"], None),
        (["a.txt", "dev.txt", "latest.txt", "device.txt"], ["a", "device", "latest"], ["dev"]),
        (["train-0.txt", "train-1.txt", "README.txt", "validation.txt"], ["train-0", "train-1"], ["validation"]),
        (["Tiny-train.txt", "Tiny-valid.txt", "Tiny-test.txt"], ["Tiny-train"], ["Tiny-valid"]),
        (["valid.txt"], ["valid"], None),
    ],
)
def test_which_files_of_a_folder_are_read(
    tmp_path: Path, names: list[str], train: list[str], validation: list[str] | None
) -> None:
    for name in names:
        stem = Path(name).stem
        (tmp_path / name).write_text(json.dumps({"text": stem}) if name.endswith("jsonl") else stem)
    found = {split: list(texts) for split, texts in documents(Corpus(source=str(tmp_path)), "mine").items()}
    assert found == {"train": train} | ({"validation": validation} if validation else {})
