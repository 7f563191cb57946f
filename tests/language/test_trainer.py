"""Training a causal language model: accumulation changes nothing, the teacher learns."""

import json
from pathlib import Path

import pytest

from tests.makers.chains import MAKD, SHORT_CAUSAL, run_distill, run_finetune
from tests.makers.runs import measure_drift, read_weights


@pytest.mark.parametrize("causal_chain", ["sums"], indirect=True)
@pytest.mark.parametrize("trained", ["teacher", "student"])
def test_accumulated_batches_give_the_same_step(
    causal_chain: Path, tiny_decoder: Path, tmp_path: Path, trained: str
) -> None:
    """Rows of different lengths: a mean over a batch's tokens would weigh them by the rest of their batch."""

    def train(name: str, **settings: int) -> dict:
        settings = SHORT_CAUSAL | {"epochs": 0.5, "group_by_length": False} | settings
        if trained == "student":
            objectives = MAKD | {"hard": {}}
            run_distill(causal_chain, tmp_path / name, hierarchy="joint", objectives=objectives, **settings)
        else:
            run_finetune(causal_chain / "prepare/data", tiny_decoder, tmp_path / name, **settings)
        return read_weights(tmp_path / name / "model")

    once = train("once", batch_size=8)
    parts = train("parts", batch_size=2, gradient_accumulation=4)
    assert measure_drift(once, parts) < 1e-4
    assert measure_drift(once, train("other", batch_size=4)) > 1e-3


def test_training_teaches_and_without_epochs_the_base_model_is_taken_as_it_is(
    causal_chain: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    before = run_finetune(causal_chain / "prepare/data", tiny_decoder, tmp_path / "f", **SHORT_CAUSAL | {"epochs": 0})
    after = json.loads((causal_chain / "finetune/metrics.json").read_text())
    assert after["accuracy"] > before["accuracy"] + 10 and after["perplexity"] < before["perplexity"] / 2
    assert before["best_step"] == before["seconds"] == 0 and after["best_step"] > 0
    assert measure_drift(read_weights(tiny_decoder), read_weights(tmp_path / "f/model")) == 0
