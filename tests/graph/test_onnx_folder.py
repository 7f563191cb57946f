"""The exported folder's gates: what is worse than it should be does not ship."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.errors import BadInput
from stages.graph import quantize
from stages.graph.onnx_folder import OnnxFolder
from tests.makers.exports import open_folder, read_student_score
from tests.makers.texts import REVIEWS


def reopen_student(chain: Path, output: Path, **settings: Any) -> OnnxFolder:
    """The student once more; its graph is the exported one, as another trace would be (test_export.py)."""
    model, data = chain / "factorize/model", chain / "prepare/data"
    folder = open_folder(output, model, REVIEWS, data, max_length=32, **settings)
    folder.exporter.export_graph = lambda path, opset: shutil.copy(chain / "student/onnx/model.onnx", path)
    return folder


def test_wrecked_int8_is_refused_with_both_figures(
    review_chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights rounded after a nonsense scale: the score falls, and the file is not there."""
    measure_ranges = quantize._measure_ranges

    def wreck_ranges(*arguments: Any) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {name: 10 ** rng.uniform(-12, 12, most.shape) for name, most in measure_ranges(*arguments).items()}

    monkeypatch.setattr(quantize, "_measure_ranges", wreck_ranges)
    folder, score = (
        reopen_student(review_chain, tmp_path / "out", int8_score_drop=0.5),
        read_student_score(review_chain),
    )
    folder.build_variants(["int8"], evaluated=score, seed=1)
    row = folder.facts["variants"]["int8"]
    assert f"{row['score']:.2f} against {score:.2f}" in row["refused"]
    assert "file" not in row and not (tmp_path / "out/onnx/model_int8.onnx").exists()


def test_a_graph_beyond_the_tolerance_is_refused(review_chain: Path, tmp_path: Path) -> None:
    folder = reopen_student(review_chain, tmp_path / "out", tolerance=1e-12)
    with pytest.raises(BadInput, match=r"export\.tolerance is 1e-12"):
        folder.build_variants([], evaluated=read_student_score(review_chain), seed=1)


def test_another_score_than_the_evaluated_is_an_error(review_chain: Path, tmp_path: Path) -> None:
    folder = reopen_student(review_chain, tmp_path / "out")
    with pytest.raises(BadInput, match="run evaluate again"):
        folder.build_variants([], evaluated=read_student_score(review_chain) - 10, seed=1)
