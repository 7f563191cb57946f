"""The same weights from prune however it runs: killed and resumed, in parts of batches, in two processes."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import stages.training.train
from tests.makers.processes import run_in_two_processes
from tests.makers.prune_runs import pretrain_teacher, read_pruned_weights, run_prune
from tests.makers.runs import measure_drift


class Killed(Exception):
    """In place of a signal."""


class KillNearTheEnd(TrainerCallback):
    """Dies after nine tenths of the steps."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step == round(0.9 * state.max_steps):
            raise Killed


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The outputs of pack and pretrain."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain_teacher(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run in one process that is never killed; a log is due at none of its checkpoints."""
    output = tmp_path_factory.mktemp("uninterrupted")
    run_prune(pretrained, output, log_every=5)
    return output


@pytest.mark.parametrize("importance", ["platon", "random"])
def test_a_killed_run_resumes_and_ends_with_the_same_weights(
    importance: str, pretrained: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Dies between two checkpoints, after the first target was saved; a log is due at neither of them."""
    expected = uninterrupted
    if importance == "random":
        expected = tmp_path / "uninterrupted"
        run_prune(pretrained, expected, importance=importance, log_every=5)
    with monkeypatch.context() as patch:
        patch.setattr(stages.training.train, "TrackMetrics", lambda run: KillNearTheEnd())
        with pytest.raises(Killed):
            run_prune(pretrained, tmp_path / "killed", importance=importance, log_every=5)
    assert not (tmp_path / "killed/models").exists()
    run_prune(pretrained, tmp_path / "killed", importance=importance, log_every=5)
    weights, resumed = read_pruned_weights(expected), read_pruned_weights(tmp_path / "killed")
    assert weights.keys() == resumed.keys() and all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert (expected / "history.csv").read_text() == (tmp_path / "killed/history.csv").read_text()


def test_accumulation_prunes_the_same(pretrained: Path, uninterrupted: Path, tmp_path: Path):
    run_prune(pretrained, tmp_path / "split", batch_size=2, gradient_accumulation=4)
    run_prune(pretrained, tmp_path / "other", batch_size=4)
    weights = read_pruned_weights(uninterrupted)
    assert measure_drift(weights, read_pruned_weights(tmp_path / "split")) < 1e-3
    assert measure_drift(weights, read_pruned_weights(tmp_path / "other")) > 1e-2


def test_two_processes_prune_the_same_neurons(pretrained: Path, uninterrupted: Path, tmp_path: Path):
    run_in_two_processes(lambda: run_prune(pretrained, tmp_path / "two", batch_size=4))
    assert measure_drift(read_pruned_weights(uninterrupted), read_pruned_weights(tmp_path / "two")) < 1e-3
