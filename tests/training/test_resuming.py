"""A killed training resumes from its last complete checkpoint and ends at the same place."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from stages.distill import distill
from stages.finetune import finetune
from stages.settings import Base, Distill, Finetune
from stages.tracking import Run
from stages.workspace import Workspace
from tests.makers.chains import MAKD, SHORT, run_distill
from tests.makers.runs import make_work, measure_drift, read_weights


class Killed(Exception):
    """In place of a signal."""


class KillingRun(Run):
    """Kills the training when it logs its 14th step."""

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step == 14:
            raise Killed


def train_three_epochs(verb: str, chain: Path, base: Path, work: Workspace) -> tuple[dict[str, torch.Tensor], str]:
    """The trained weights and the history."""
    settings, data = SHORT | {"epochs": 3}, chain / "prepare/data"
    if verb == "finetune":
        finetune(Finetune(**settings), work, base=Base(model=str(base)), data=data)
    else:
        objectives = MAKD | ({"contrastive": {"negatives": 5}} if verb == "contrastive" else {})
        models = {"teacher": chain / "finetune/model", "student": chain / "factorize/model"}
        distill(Distill(**settings, objectives=objectives), work, data=data, **models)
    return read_weights(work.output / "model"), (work.output / "history.csv").read_text()


@pytest.mark.parametrize("verb", ["finetune", "distill", "contrastive"])
def test_a_killed_run_resumes_and_ends_at_the_same_place(
    verb: str, classifier_chain: Path, tmp_path: Path, tiny_model: Path
) -> None:
    """Dies in the second of three epochs, between two checkpoints, with a half-written checkpoint left behind."""
    whole = train_three_epochs(verb, classifier_chain, tiny_model, make_work(tmp_path / "whole", seed=3))
    killed = make_work(tmp_path / "killed", seed=3, run=KillingRun())
    with pytest.raises(Killed):
        train_three_epochs(verb, classifier_chain, tiny_model, killed)
    assert not (killed.output / "model").exists()
    checkpoints = list(killed.state.glob("*/checkpoint-*"))
    assert [c.name for c in checkpoints] == ["checkpoint-10"]
    (checkpoints[0].parent / "checkpoint-13").mkdir()  # killed while writing
    resumed = train_three_epochs(verb, classifier_chain, tiny_model, make_work(killed.output, seed=3))
    assert measure_drift(whole[0], resumed[0]) == 0
    assert whole[1] == resumed[1]


def test_checkpoints_of_other_settings_are_not_resumed(classifier_chain: Path, tmp_path: Path) -> None:
    run_distill(classifier_chain, tmp_path / "a", epochs=1, learning_rate=2e-3)
    run_distill(classifier_chain, tmp_path / "b", epochs=1)
    run_distill(classifier_chain, tmp_path / "b", epochs=1, learning_rate=2e-3)
    expected, weights = (read_weights(tmp_path / name / "model") for name in ("a", "b"))
    assert measure_drift(expected, weights) == 0
