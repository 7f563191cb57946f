"""Training data with augmented sentences: the teacher labels them, and distillation trains on them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from stages.distill import distill
from stages.errors import BadInput
from stages.factorize import factorize
from stages.kinds import get_kind
from stages.schema.task import RegressionTask, Task
from stages.settings import Base, Calibration, Distill, Factorize
from stages.tasks.augmented import read_training_split
from stages.tasks.splits import read_split, read_task
from tests.makers.runs import make_work, prepare_task, read_weights
from tests.makers.texts import REVIEWS, make_reviews

VALUES = RegressionTask(kind="regression", text=["text"], metrics=["pearson"])
AUGMENT: dict[str, Any] = {"copies": 3, "candidates": 5, "source": "neighbors", "examples": 40}


def prepare_teacher(folder: Path, model: Path, task: Task, source: Path) -> tuple[Path, Path]:
    """A prepared task with new sentences, and a teacher of random weights: the folders of both."""
    data, _ = prepare_task(model, source, folder, "reviews", task, augment=AUGMENT)
    torch.manual_seed(3)
    teacher = get_kind(task).load_base(Base(model=str(model)), task, complete=False)
    teacher.save_pretrained(folder / "teacher")
    return data, folder / "teacher"


def predict_one_by_one(data: Path, folder: Path) -> np.ndarray:
    """The teacher's logits of the new sentences, (sentences, outputs)."""
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = read_split(data, "augmented")["text"][:]
    with torch.inference_mode():
        return np.array([teacher(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts])


def read_training(data: Path, teacher: Path, *, augmented: bool) -> Dataset:
    label = get_kind(read_task(data)).label_by_teacher
    return read_training_split(data, augmented, label, teacher, AutoTokenizer.from_pretrained(data / "tokenizer"), 8)


def test_the_teacher_names_the_classes(tmp_path: Path, tiny_data: Path, masked_lm: Path) -> None:
    data, teacher = prepare_teacher(tmp_path / "out", masked_lm, REVIEWS, tiny_data)
    train = read_split(data, "train")
    both = read_training(data, teacher, augmented=True)
    assert both["labels"][: len(train)] == train["labels"][:] and both["text"][: len(train)] == train["text"][:]
    assert both["labels"][len(train) :] == predict_one_by_one(data, teacher).argmax(-1).tolist()
    assert both.features == train.features
    alone = read_training(data, teacher, augmented=False)
    assert alone["text"][:] == train["text"][:], "new sentences are left out unless the settings want them"


def test_the_teacher_gives_the_values(tmp_path: Path, masked_lm: Path) -> None:
    folder = tmp_path / "data/reviews"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{"text": text, "label": len(text) / 10} for text, _ in make_reviews(60)[:30]]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, teacher = prepare_teacher(tmp_path / "out", masked_lm, VALUES, tmp_path / "data")
    both = read_training(data, teacher, augmented=True)
    assert both.features["labels"].dtype == "float32"
    np.testing.assert_allclose(both["labels"][30:], predict_one_by_one(data, teacher)[:, 0], atol=1e-5)


def test_distilling_passes_over_both_splits(tmp_path: Path, tiny_data: Path, masked_lm: Path) -> None:
    data, teacher = prepare_teacher(tmp_path / "out", masked_lm, REVIEWS, tiny_data)
    student = make_work(tmp_path / "student")
    factorize(Factorize(multiple_of=1, calibration=Calibration(examples=32)), student, data=data, teacher=teacher)
    weights = []
    for augmented in (True, False):
        work = make_work(tmp_path / str(augmented))
        settings = Distill(epochs=1, batch_size=16, log_every=1, learning_rate=1e-3, augmented=augmented)
        distill(settings, work, data=data, teacher=teacher, student=student.output / "model")
        examples = 160 + augmented * len(read_split(data, "augmented"))
        assert pd.read_csv(work.output / "history.csv")["step"].max() == -(-examples // 16)
        weights.append(read_weights(work.output / "model"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_missing_augmented_split_is_refused(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    data, _ = prepare_task(tiny_model, tiny_data, tmp_path / "out", "reviews", REVIEWS)
    with pytest.raises(BadInput, match=r"distill\.augmented is true.*set prepare\.augment"):
        read_training(data, tmp_path, augmented=True)
