"""The documents that a corpus is read as: of which files, where each ends, one after the other."""

import json
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest

from stages.corpora.documents import read_documents
from stages.corpora.tokens import batch_texts
from stages.errors import BadInput
from stages.schema.corpus import Corpus

ROW = "data.corpora.mine"


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet"])
def test_a_large_file_is_not_read_into_memory(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"large.{ending}"
    text = "a line of some length, over and over again. " * 5
    if ending == "parquet":
        pd.DataFrame({"text": [f"{i} {text}" for i in range(100_000)]}).to_parquet(path, row_group_size=5000)
    else:
        lines = (f"{i} {text}" if ending == "txt" else json.dumps({"text": f"{i} {text}"}) for i in range(100_000))
        path.write_text("\n".join(lines))
    next(read_documents(Corpus(source=str(path)), ROW)["train"])  # what is imported on first use
    tracemalloc.start()
    count = sum(len(batch) for batch in batch_texts(read_documents(Corpus(source=str(path)), ROW)["train"]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 100_000 and peak < 4e6, f"{peak / 1e6:.1f} MB of about 22"


ARTICLES = """
 = First = \n \n one two \n \n = = Part = = \n \n three \n = Goals ; A = \n four \n \n = Wins = \n 1
 \n = Second = \n \n five \n"""


@pytest.mark.parametrize(
    ("mode", "expected"),
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
def test_where_documents_end(tmp_path: Path, mode: str, expected: list[str]) -> None:
    for name in ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"):
        (tmp_path / name).write_text(ARTICLES + name)
    splits = read_documents(Corpus(source=str(tmp_path), documents=mode), ROW)
    tails = {split: text.splitlines()[-1] for split, texts in splits.items() for text in texts}
    assert tails == {"train": "wiki.train.tokens", "validation": "wiki.valid.tokens"}
    (tmp_path / "articles.txt").write_text(ARTICLES)
    assert list(read_documents(Corpus(source=str(tmp_path / "articles.txt"), documents=mode), ROW)["train"]) == expected


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
    read = {split: list(texts) for split, texts in read_documents(Corpus(source=str(tmp_path)), ROW).items()}
    assert read == {"train": train} | ({"validation": validation} if validation else {})


def test_a_data_set_of_the_hub_may_stand_in_a_folder(tmp_path: Path) -> None:
    """Its tables are in folders of its own; where it has several configurations, one is named."""
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - {{split: train, path: {name}/train-*}}\n" for name in ("one", "two")
    )
    texts = ["the plot is dull", "the cast is warm", "the film is cold", "a lovely ending", "a clumsy plot"]
    for name, count in (("one", 3), ("two", 5)):
        (tmp_path / name).mkdir()
        pd.DataFrame({"text": texts[:count]}).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for source, count in ((f"{tmp_path}:two", 5), (tmp_path / "one", 3)):
        splits = read_documents(Corpus(source=str(source)), ROW)
        assert {split: list(texts) for split, texts in splits.items()} == {"train": texts[:count]}
    with pytest.raises(BadInput, match=r"cannot be loaded as a data set \(.*\['one', 'two'\]\); give a file"):
        read_documents(Corpus(source=str(tmp_path)), ROW)
