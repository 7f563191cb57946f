"""The augmented split: new sentences, the same each time, nothing of the validation split."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from stages.errors import BadInput
from stages.schema.glue import GLUE
from stages.tasks.augment import select_new_rows
from stages.tasks.splits import read_split
from tests.makers.runs import hash_files, prepare_task
from tests.makers.texts import REVIEWS, make_reviews

TEXTS = [text for text, _ in make_reviews(60)]


def augment_reviews(output: Path, folder: Path, base: Path, **augment: Any) -> dict[str, Any]:
    """Prepares `reviews` with new sentences; returns the metrics."""
    settings = {"copies": 3, "candidates": 5} | augment
    return prepare_task(base, folder, output, "reviews", REVIEWS, augment=settings)[1]


@pytest.mark.parametrize("source", ["masked_lm", "neighbors"])
def test_the_split_is_new_the_same_each_time_and_leaves_the_others_alone(
    source: str, tmp_path: Path, tiny_data: Path, tiny_model: Path, masked_lm: Path
) -> None:
    options = {"source": source, "model": str(masked_lm)}
    metrics = augment_reviews(tmp_path / "one", tiny_data, tiny_model, **options)
    assert augment_reviews(tmp_path / "two", tiny_data, tiny_model, **options) == metrics
    assert hash_files(tmp_path / "one") == hash_files(tmp_path / "two")
    splits = {s: read_split(tmp_path / "one/data", s) for s in ("train", "validation", "augmented")}
    texts = {split: rows["text"][:] for split, rows in splits.items()}
    new = texts["augmented"]
    assert len(set(new)) == len(new) and not set(new) & set(texts["train"] + texts["validation"])
    assert metrics["augmented"]["dropped"] > 0, "such a small grammar makes a sentence of another split now and then"
    assert metrics["augmented"]["examples"] + metrics["augmented"]["dropped"] == 3 * len(texts["train"])
    assert metrics["augmented"]["words"] == {"model": str(masked_lm), "source": source}
    assert "labels" not in splits["augmented"].column_names
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert splits["augmented"]["input_ids"][:] == tokenizer(new, truncation=True, max_length=32)["input_ids"]
    data, plain = prepare_task(tiny_model, tiny_data, tmp_path / "plain", "reviews", REVIEWS)
    assert plain["fingerprint"] == metrics["fingerprint"] and "augmented" not in plain
    for split in ("train", "validation"):
        assert hash_files(data / split) == hash_files(tmp_path / "one/data" / split)


def test_a_sentence_with_the_tokens_of_another_is_dropped() -> None:
    from datasets import Dataset

    made = Dataset.from_dict({"input_ids": [[1, 2], [1, 3], [1, 2, 3], [1, 3], [4]]})
    known = [Dataset.from_dict({"input_ids": [[9], [1, 2]]}), Dataset.from_dict({"input_ids": [[4]]})]
    assert select_new_rows(made, known) == [1, 2]


def test_a_missing_head_is_trained_and_reported(
    tmp_path: Path, tiny_data: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "stages"):
        metrics = augment_reviews(tmp_path / "out", tiny_data, tiny_model, head_training={"steps": 4}, examples=20)
    head = metrics["augmented"]["words"]["head"]
    assert head["steps"] == 4 and head["trained"] == "all" and head["loss_first"] > 0
    assert "has no masked-LM head; one was trained for 4 steps" in caplog.text
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert metrics["augmented"]["examples"] + metrics["augmented"]["dropped"] == 60


def test_both_texts_of_a_pair_vary(tmp_path: Path, masked_lm: Path) -> None:
    pairs = list(zip(TEXTS[:10], TEXTS[10:20], strict=True))
    for split in ("train", "dev"):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"1\t0\t0\t{a}\t{b}" for a, b in pairs)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    settings = {"copies": 4, "candidates": 5, "probability": 0.5}
    data, _ = prepare_task(masked_lm, tmp_path, tmp_path / "out", "mrpc", GLUE["mrpc"], augment=settings)
    rows = read_split(data, "augmented")
    assert set(rows["text"]) - set(TEXTS) and set(rows["text_pair"]) - set(TEXTS)
    lengths = {(len(a.split()), len(b.split())) for a, b in pairs}
    assert {(len(a.split()), len(b.split())) for a, b in zip(rows["text"], rows["text_pair"], strict=True)} <= lengths


def test_a_model_that_cannot_propose_words_is_refused(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    with pytest.raises(BadInput, match=r"prepare\.augment\.model \./nowhere is not a folder"):
        augment_reviews(tmp_path / "one", tiny_data, tiny_model, model="./nowhere")
    GPT2Model(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "gpt")
    with pytest.raises(BadInput, match=r"prepare\.augment\.model .*gpt has no masked-LM form"):
        augment_reviews(tmp_path / "two", tiny_data, tiny_model, model=str(tmp_path / "gpt"))
    assert not list((tmp_path / "two").iterdir()), "before anything is written"
