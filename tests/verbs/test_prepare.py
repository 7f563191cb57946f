"""prepare: what is frozen equals the tokenizer's own answer, and is the same to the byte in every run."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from stages.errors import BadInput
from stages.schema.glue import GLUE
from stages.tasks.splits import read_split, read_task
from tests.makers.dvc_projects import ROOT
from tests.makers.runs import hash_files, prepare_task
from tests.makers.texts import REVIEWS


def test_tokens_equal_the_tokenizers_own(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    data, metrics = prepare_task(tiny_model, tiny_data, tmp_path / "out", "reviews", REVIEWS, max_length=8)
    rows = read_split(data, "validation")
    with (tiny_data / "reviews/validation.csv").open(encoding="utf8") as file:
        raw = list(csv.DictReader(file))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for row, source in zip(rows, raw, strict=True):
        assert row["text"] == source["text"]
        assert REVIEWS.labels[row["labels"]] == source["label"]
        assert row["input_ids"] == tokenizer(source["text"], truncation=True, max_length=8)["input_ids"]
        assert row["length"] == len(row["input_ids"]) == len(row["attention_mask"]) <= 8
    whole = [len(tokenizer(source["text"])["input_ids"]) for source in raw]
    assert metrics["validation"]["truncated"] == pytest.approx(np.mean(np.array(whole) > 8), abs=1e-6)
    assert metrics["validation"]["length_mean"] == pytest.approx(np.minimum(whole, 8).mean(), abs=1e-3)
    assert metrics["validation"]["labels"]["good"] == sum(source["label"] == "good" for source in raw)
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert read_task(data) == REVIEWS


def test_pairs_lose_the_longer_text_first(tmp_path: Path, tiny_model: Path) -> None:
    pairs = [("dull " * 40, "great plot"), ("great", "plot")]
    for split in ("train", "dev"):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"1\t0\t0\t{a}\t{b}" for a, b in pairs)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    data, _ = prepare_task(tiny_model, tmp_path, tmp_path / "out", "mrpc", GLUE["mrpc"])
    rows = read_split(data, "train")
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    assert tokenizer.decode(rows[0]["input_ids"]).endswith("[SEP] great plot [SEP]")
    assert rows["length"][:] == [32, 5]
    assert rows["text_pair"][:] == ["great plot", "plot"]


def test_two_runs_and_two_workers_give_the_same_bytes(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    metrics = [
        prepare_task(tiny_model, tiny_data, tmp_path / name, "reviews", REVIEWS, workers=workers, train_examples=100)[1]
        for name, workers in {"one": 1, "again": 1, "two": 2}.items()
    ]
    assert metrics[0] == metrics[1] == metrics[2]
    assert metrics[0]["train"]["examples"] == 100
    assert hash_files(tmp_path / "one") == hash_files(tmp_path / "again") == hash_files(tmp_path / "two")


def test_another_process_gives_the_same_bytes(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    """As DVC runs it: a command in a folder with params.yaml."""
    prepare_task(tiny_model, tiny_data, tmp_path / "here", "reviews", REVIEWS)
    params = {
        "seed": 1,
        "tasks": ["reviews"],
        "base": {"model": str(tiny_model)},
        "data": {"source": str(tiny_data), "custom": {"reviews": {"text": ["text"], "labels": ["bad", "good"]}}},
        "prepare": {"max_length": 32},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    command = [sys.executable, "-m", "stages.prepare", "--task", "reviews"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "MAKD_TRACKING": "off"}
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    assert hash_files(tmp_path / "outputs/prepare/reviews") == hash_files(tmp_path / "here")


def test_the_fingerprint_follows_the_content(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    def read_fingerprint(output: str, source: Path, **settings: int) -> str:
        return prepare_task(tiny_model, source, tmp_path / output, "reviews", REVIEWS, **settings)[1]["fingerprint"]

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("train.csv", "validation.csv"):
        (moved / name).write_bytes((tiny_data / "reviews" / name).read_bytes())
    first = read_fingerprint("one", tiny_data)
    assert read_fingerprint("two", moved, max_length=16) == first
    text = (moved / "validation.csv").read_text()
    (moved / "validation.csv").write_text(text.replace("the ", "a ", 1))
    assert read_fingerprint("three", moved) != first


def test_a_saved_tokenizer_neither_pads_nor_cuts(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    data, _ = prepare_task(tiny_model, tiny_data, tmp_path / "out", "reviews", REVIEWS, max_length=8)
    saved = json.loads((data / "tokenizer/tokenizer.json").read_text())
    assert saved["padding"] is None and saved["truncation"] is None


def test_reading_leaves_the_folder_alone(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    data, _ = prepare_task(tiny_model, tiny_data, tmp_path / "out", "reviews", REVIEWS)
    before = hash_files(tmp_path / "out")
    read_split(data, "train").map(lambda row: {"twice": 2 * row["length"]})
    assert hash_files(tmp_path / "out") == before


def test_more_tokens_than_the_model_reads_are_refused(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"prepare\.max_length 65 is more than .* can read; set it to 64 or less"):
        prepare_task(tiny_model, tiny_data, tmp_path / "out", "reviews", REVIEWS, max_length=65)
    assert not list((tmp_path / "out").iterdir())


def test_bundled_is_prepared_as_it_is_generated(tmp_path: Path, tiny_model: Path) -> None:
    _, metrics = prepare_task(
        tiny_model, Path("bundled"), tmp_path / "out", "sentiment", GLUE["sentiment"], max_length=64
    )
    assert metrics["train"]["examples"] >= 2400 and metrics["validation"]["examples"] >= 600
    assert metrics["validation"]["labels"] == {"negative": 300, "positive": 300}
