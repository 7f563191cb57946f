"""The official GLUE files, the MSR corpus and the hub's Parquet layout are read as they are."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from stages.schema.glue import GLUE
from tests.makers.data_folders import load_examples, read_row, write_rows

# Each corpus as its official files have it (header, one row), and what must come out of the row.
OFFICIAL = {
    "cola": ("CoLA", None, ["gj04", "0", "*", 'The "box" slept.'], ('The "box" slept.', None, 0)),
    "sst2": (
        "SST-2",
        ["sentence", "label"],
        ["hide new secretions ", "0"],
        ("hide new secretions ", None, 0),
    ),
    "mrpc": (
        "MRPC",
        ["\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ["1", "7", "8", 'He said "no.', "No, he said."],
        ('He said "no.', "No, he said.", 1),
    ),
    "qqp": (
        "QQP",
        ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
        ["5", "1", "2", "What?", "Which?", "1"],
        ("What?", "Which?", 1),
    ),
    "stsb": (
        "STS-B",
        ["index", "genre", "sentence1", "sentence2", "score"],
        ["0", "news", "A plane.", "An airplane.", "4.75"],
        ("A plane.", "An airplane.", 4.75),
    ),
    "mnli": (
        "MNLI",
        ["index", "sentence1", "sentence2", "label1", "gold_label"],
        ["0", "It rains.", "It is dry.", "neutral", "contradiction"],
        ("It rains.", "It is dry.", 2),
    ),
    "qnli": (
        "QNLI",
        ["index", "question", "sentence", "label"],
        ["0", "Who?", "He did.", "not_entailment"],
        ("Who?", "He did.", 1),
    ),
    "rte": (
        "RTE",
        ["index", "sentence1", "sentence2", "label"],
        ["0", "a b", "c", "entailment"],
        ("a b", "c", 0),
    ),
    "wnli": ("WNLI", ["index", "sentence1", "sentence2", "label"], ["0", "a b", "c", "1"], ("a b", "c", 1)),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    folder, header, cells, expected = OFFICIAL[name]
    dev = "dev_matched.tsv" if name == "mnli" else "dev.tsv"
    write_rows(tmp_path / folder / "train.tsv", header, cells)
    write_rows(tmp_path / folder / dev, header, cells, cells)
    splits = load_examples(tmp_path, name, GLUE[name])
    assert read_row(splits["train"]) == expected
    assert len(splits["validation"]) == 2


def test_mnli_has_two_validation_files(tmp_path: Path) -> None:
    _, header, cells, _ = OFFICIAL["mnli"]
    write_rows(tmp_path / "MNLI/train.tsv", header, cells)
    write_rows(tmp_path / "MNLI/dev_matched.tsv", header, cells, cells)
    write_rows(tmp_path / "MNLI/dev_mismatched.tsv", header, cells, cells, cells)
    counts = {
        name: len(load_examples(tmp_path, name, GLUE[name])["validation"]) for name in ("mnli", "mnli_mismatched")
    }
    assert counts == {"mnli": 2, "mnli_mismatched": 3}


def test_microsofts_own_mrpc_files(tmp_path: Path) -> None:
    folder, header, cells, expected = OFFICIAL["mrpc"]
    write_rows(tmp_path / folder / "msr_paraphrase_train.txt", header, cells)
    write_rows(tmp_path / folder / "msr_paraphrase_test.txt", header, cells)
    assert read_row(load_examples(tmp_path, "mrpc", GLUE["mrpc"])["validation"]) == expected


def test_qqp_leaves_broken_rows_out_as_the_hub_does(tmp_path: Path) -> None:
    _, header, cells, _ = OFFICIAL["qqp"]
    write_rows(tmp_path / "QQP/train.tsv", header, cells, ["6", "1"], cells)
    write_rows(tmp_path / "QQP/dev.tsv", header, cells)
    assert len(load_examples(tmp_path, "qqp", GLUE["qqp"])["train"]) == 2


def test_the_hubs_parquet_layout_with_shards(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    for stem, texts in {
        "train-00000-of-00002": "ab",
        "train-00001-of-00002": "c",
        "validation-00000-of-00001": "d",
    }.items():
        table = pyarrow.table({"sentence": list(texts), "label": [1] * len(texts), "idx": [0] * len(texts)})
        pyarrow.parquet.write_table(table, tmp_path / "sst2" / f"{stem}.parquet")
    splits = load_examples(tmp_path, "sst2", GLUE["sst2"])
    assert splits["train"]["text"][:] == ["a", "b", "c"]
    assert splits["validation"]["text"][:] == ["d"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "counts", "positive"),
    [("sst2", (67349, 872), 444), ("cola", (8551, 1043), 721), ("mrpc", (3668, 408), 279)],
)
def test_real_glue_has_the_published_counts(name: str, counts: tuple[int, int], positive: int, real_data: Path) -> None:
    splits = load_examples(real_data / "glue", name, GLUE[name])
    assert (len(splits["train"]), len(splits["validation"])) == counts
    assert sum(splits["validation"]["labels"][:]) == positive
