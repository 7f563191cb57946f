"""`python -m benchmarks.peers`: students cut to their budget, compared with both forms of the teacher."""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from benchmarks.peers import draw_calibration, format_table, main, make_student
from benchmarks.runners import quantize_qdq
from stages.models.anatomy import ModelParts


def make_teacher() -> PreTrainedModel:
    """A random BERT of two layers."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=2000, hidden_size=96, num_hidden_layers=2, intermediate_size=384)
    return BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("rule", ["ratio", "global", "speed"])
def test_a_student_is_cut_to_its_budget(rule: str) -> None:
    teacher = make_teacher()
    student, whole = (
        ModelParts(model).count_layer_parameters() for model in (make_student(teacher, 0.5, rule), teacher)
    )
    assert 0.49 < student / whole <= 0.5


def test_a_student_is_compared_with_both_teachers() -> None:
    rounds = {"teacher, fused": [[0.008], [0.004]], "teacher, fp32": [[0.004], [0.004]], "student": [[0.002], [0.002]]}
    last = format_table(rounds, "real", 8).splitlines()[-1]
    assert [cell.strip() for cell in last.split("|")[1:-1]] == ["student", "2.0", "3.00", "2.00"]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What the command prints, and the folder of its traced graphs."""
    folder, output = tmp_path_factory.mktemp("graphs"), io.StringIO()
    shape = ["--hidden", "96", "--layers", "2", "--budgets", "0.5", "--batches", "2", "--lengths", "real", "4"]
    with contextlib.redirect_stdout(output):
        main([*shape, "--seconds", "0.01", "--graphs", str(folder), "--peers", "eager", "plain"])
    return output.getvalue(), folder


def test_every_model_is_timed(tiny_run: tuple[str, Path]) -> None:
    first, *tables = tiny_run[0].split("\n\n")
    assert first == "2 x 96, one thread" and len(tables) == 2
    ways = ["fp32", "int8", "transformers", "unfused"]
    names = [line.split("|")[1].strip() for line in tables[0].splitlines()[2:]]
    assert names == ["teacher, fused", *(f"{model}, {way}" for model in ("teacher", "student 0.5") for way in ways)]
    assert len(list(tiny_run[1].glob("* traced.onnx"))) == 2


def test_static_quantization_changes_logits_little(tiny_run: tuple[str, Path], tmp_path: Path) -> None:
    traced, quantized = next(tiny_run[1].glob("*teacher traced.onnx")), tmp_path / "qdq.onnx"
    calibration = draw_calibration()
    quantize_qdq(traced, quantized, calibration)
    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (traced, quantized)]
    logits, rounded = (session.run(["logits"], calibration[0])[0] for session in sessions)
    assert not np.array_equal(logits, rounded) and np.abs(logits - rounded).max() < 0.1 * np.abs(logits).max()
