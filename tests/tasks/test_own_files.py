"""Files of one's own: every format is read, a validation part is held out, wrong input is refused with its place."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from stages.errors import BadInput
from stages.schema.task import RegressionTask
from tests.makers.data_folders import load_examples, read_row, write_rows

GOOD = "text\tlabel\nfine\tgood\n"
REFUSED = {
    "no folder": ({}, ["nowhere is not a folder", "data.source"]),
    "no file": ({"reviews/notes.md": b"x"}, ["no training file for reviews", "reviews/train"]),
    "two files": ({"train.csv": b"x", "train.tsv": b"x"}, ["train.tsv and train.csv"]),
    "empty file": ({"train.tsv": b""}, ["train.tsv has no rows"]),
    "empty split": ({"train.tsv": GOOD, "dev.tsv": b"text\tlabel\n"}, ["dev.tsv has no rows"]),
    "wrong column": (
        {"train.tsv": b"body\tlabel\nfine\tgood\n"},
        ["`text`", "body, label", "custom.reviews.text"],
    ),
    "no label column": (
        {"train.tsv": b"text\tstars\nfine\t1\n"},
        ["`label`", "text, stars", "custom.reviews.label"],
    ),
    "unknown label": (
        {"train.tsv": f"{GOOD}\nso so\tmaybe\n"},
        ["train.tsv, line 4", "`maybe`", "bad, good"],
    ),
    "id out of range": ({"train.csv": 'text,label\n"a\nb",1\nc,2\n'}, ["train.csv, line 4", "`2`", "0 to 1"]),
    "no id": ({"train.tsv": "text\tlabel\nfine\t0.5\n"}, ["train.tsv, line 2", "`0.5`"]),
    "empty text": ({"train.tsv": f"{GOOD} \tgood\n"}, ["train.tsv, line 3", "text is empty"]),
    "empty column": ({"train.tsv": "text\tlabel\n\tgood\n"}, ["column `text` is empty in all rows"]),
    "no text": ({"train.jsonl": '{"text": null, "label": 1}'}, ["train.jsonl, line 1", "text is None"]),
    "ragged TSV": ({"train.tsv": f"{GOOD}a\tb\tgood\n"}, ["train.tsv, line 3", "3 cells", "header has 2"]),
    "ragged CSV": ({"train.csv": "text,label\nfine\n"}, ["train.csv, line 2", "1 cells"]),
    "broken CSV": ({"train.csv": 'text,label\nfine,1\n"open,1\n'}, ["train.csv, line 3", "not CSV"]),
    "broken JSONL": (
        {"train.jsonl": '{"text": "a", "label": 1}\n{"text"\n'},
        ["train.jsonl, line 2", "not JSON"],
    ),
    "broken Parquet": ({"train.parquet": b"PAR1 no"}, ["train.parquet cannot be read as Parquet"]),
    "not UTF-8": (
        {"train.tsv": GOOD.encode() + b"caf\xe9\tgood\n"},
        ["train.tsv, line 3", "0xe9", "place 4"],
    ),
    "too few to hold out": ({"train.tsv": GOOD}, ["prepare.validation_share 0.25"]),
}


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("folder", ["reviews", "."])
def test_own_files_in_every_format(ending: str, folder: str, tmp_path: Path) -> None:
    rows = [{"text": "fine\u2028really", "label": "good"}, {"text": "so, so", "label": "0"}]
    for stem in ("train", "valid"):
        path = tmp_path / folder / f"{stem}.{ending}"
        path.parent.mkdir(exist_ok=True)
        if ending == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        elif ending == "json":
            path.write_text(json.dumps(rows), encoding="utf8")
        elif ending == "jsonl":
            path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf8")
        else:
            quote = '"{}"' if ending == "csv" else "{}"
            lines = [[quote.format(r["text"]), r["label"]] for r in rows]
            write_rows(path, ["text", "label"], *lines, joint="," if ending == "csv" else "\t")
    splits = load_examples(tmp_path)
    assert [read_row(splits["train"], i) for i in range(2)] == [("fine\u2028really", None, 1), ("so, so", None, 0)]
    assert len(splits["validation"]) == 2


def test_a_missing_validation_file_is_held_out_in_the_same_shares(tmp_path: Path) -> None:
    rows = [[f"text {i}", "good" if i % 4 else "bad"] for i in range(40)]
    write_rows(tmp_path / "train.tsv", ["text", "label"], *rows)
    splits, again = load_examples(tmp_path), load_examples(tmp_path)
    texts = {name: set(split["text"][:]) for name, split in splits.items()}
    assert len(texts["validation"]) == 10 and not texts["train"] & texts["validation"]
    assert sum(splits["validation"]["labels"][:]) in (7, 8)
    assert again["validation"]["text"][:] == splits["validation"]["text"][:]


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_refused_with_its_place(case: str, tmp_path: Path) -> None:
    files, parts = REFUSED[case]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as refusal:
        load_examples(tmp_path if files else tmp_path / "nowhere")
    message = str(refusal.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.csv", ["text", "price"], ["a", "1.5"], ["b", "cheap"], joint=",")
    prices = RegressionTask(kind="regression", text=["text"], label="price", metrics=["pearson"])
    with pytest.raises(BadInput, match=r"train.csv, line 3: label 'cheap' is not a number"):
        load_examples(tmp_path, "prices", prices)
