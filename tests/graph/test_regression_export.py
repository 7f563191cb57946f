"""A regression over two texts, exported: its folder gives PyTorch's values for raw pairs."""

from pathlib import Path

import numpy as np
import pytest

from serving.predictor import ModelError, Predictor
from stages.schema.task import RegressionTask
from stages.tasks.splits import read_split
from tests.makers.exports import open_folder, save_random_model
from tests.makers.runs import prepare_task


def test_pairs_and_values(tmp_path: Path, tiny_model: Path) -> None:
    task = RegressionTask(kind="regression", text=["a", "b"], metrics=["pearson"])
    rows = [f"the film is great number {i},the plot {'again ' * (i % 5)}is dull,{i % 7 / 2}" for i in range(24)]
    source = tmp_path / "source/similar"
    source.mkdir(parents=True)
    for split in ("train", "validation"):
        (source / f"{split}.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    data, _ = prepare_task(tiny_model, tmp_path / "source", tmp_path, "similar", task, max_length=16)
    expected = save_random_model(tmp_path / "model", tiny_model, task, data)
    evaluated = 100 * float(np.corrcoef(expected.values[:, 0], expected.targets)[0, 1])
    folder = open_folder(tmp_path / "out", tmp_path / "model", task, data, max_length=16, role="teacher")
    folder.build_variants([], evaluated=evaluated, seed=1)
    predictor, pairs = Predictor(tmp_path / "out"), read_split(data, "validation")
    values = predictor.predict(list(zip(pairs["text"], pairs["text_pair"], strict=True)))
    np.testing.assert_allclose([row["score"] for row in values], expected.values[:, 0], atol=1e-4)
    assert max(len(e.ids) for e in predictor.encode([("film " * 40, "plot " * 40)])) == 16
    with pytest.raises(ModelError, match="a pair of texts"):
        predictor.predict(["one text"])
