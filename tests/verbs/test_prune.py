"""prune, on a random model and its own sentences: what is saved is what was trained, and loads anywhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from stages.errors import BadInput
from stages.models.loading import load_checkpoint
from stages.settings import Prune
from tests.makers.prune_runs import pretrain_teacher, run_prune


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The outputs of pack and pretrain."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain_teacher(tiny_model, folder)
    return folder


def test_a_model_is_saved_at_each_target(pretrained: Path, tmp_path: Path):
    metrics = run_prune(pretrained, tmp_path, learning_rate=5e-3, epochs=4)
    assert list(metrics) == ["teacher", "2x24", "2x16", "training"]
    assert metrics["teacher"]["discrepancy"] == 0
    assert metrics["2x24"]["parameters"] > metrics["2x16"]["parameters"]
    # what is measured of the saved model is what was trained under its masks
    assert metrics["2x16"]["perplexity"] == pytest.approx(metrics["training"]["perplexity"], rel=1e-4)
    table = pd.read_csv(tmp_path / "history.csv")
    first = table[table["loss/kl"].notna()].iloc[0]
    for term in ("kl", "hidden", "attention_mse", "embedding"):
        assert first[f"loss/{term}"] < 1e-6, f"{term}: the student starts as its teacher"
    assert table["kept/residual"].dropna().iloc[[0, -1]].tolist() == [1.0, 0.5]
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    for name in ("discrepancy.png", "removals.png"):
        assert (tmp_path / name).stat().st_size > 5000
    summary = json.loads((tmp_path / "summary.json").read_text())
    columns = ("perplexity", "parameters")
    models = ("teacher", "2x24", "2x16")
    assert summary == {model: {column: metrics[model][column] for column in columns} for model in models}


def test_a_target_that_is_reached_with_the_last_step_is_met(pretrained: Path, tmp_path: Path):
    metrics = run_prune(pretrained, tmp_path, pruning_end=1.0, every=7)
    assert list(metrics) == ["teacher", "2x24", "2x16", "training"]


def test_a_corpus_of_less_than_a_batch(pretrained: Path, tmp_path: Path):
    metrics = run_prune(pretrained, tmp_path, batch_size=512, epochs=2)
    assert list(metrics) == ["teacher", "2x24", "2x16", "training"]
    with pytest.raises(BadInput, match=r"^prune\.epochs 1 makes too few steps \(1\) for 2 prune\.targets; raise it"):
        run_prune(pretrained, tmp_path / "short", batch_size=512)


def test_distilling_brings_the_student_closer(pretrained: Path, tmp_path: Path):
    objectives = Prune().objectives.model_copy(update={"hard": None})
    discrepancies = []
    for rate in (2e-3, 1e-9):
        metrics = run_prune(pretrained, tmp_path / f"{rate}", learning_rate=rate, epochs=2, objectives=objectives)
        discrepancies.append(metrics["2x16"]["discrepancy"])
    distilled, untrained = discrepancies
    assert distilled < 0.8 * untrained


def test_the_model_loads_with_transformers_alone(pretrained: Path, tmp_path: Path):
    """In a process that knows the installed packages and, without their .pth files (-S), not this project."""
    run_prune(pretrained, tmp_path / "run", log_every=5)
    model = tmp_path / "run/models/2x16"
    shutil.copytree(model, tmp_path / "alone/model")
    program = (
        "import torch; from importlib.util import find_spec\n"
        "from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer\n"
        "assert find_spec('stages') is None\n"
        "tokenizer = AutoTokenizer.from_pretrained('model')\n"
        "AutoModel.from_pretrained('model')\n"
        "model, report = AutoModelForMaskedLM.from_pretrained('model', output_loading_info=True)\n"
        "assert not any(report.values()), report\n"
        "torch.save(model.eval()(**tokenizer('a good film', return_tensors='pt')).logits.detach(), 'logits.pt')\n"
    )
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", "-c", program]
    result = subprocess.run(command, cwd=tmp_path / "alone", env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    tokenizer = AutoTokenizer.from_pretrained(model)
    with torch.inference_mode():
        expected = load_checkpoint(model)(**tokenizer("a good film", return_tensors="pt")).logits
    assert torch.load(tmp_path / "alone/logits.pt").numpy() == pytest.approx(expected.numpy(), abs=1e-6)
