"""distill: the student comes closer to its teacher, by each hierarchy; what cannot be compared is refused."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.distill import distill
from stages.distillation.trainer import DistillationTrainer
from stages.errors import BadInput
from stages.evaluate import evaluate
from stages.factorize import factorize
from stages.models.loading import load_checkpoint
from stages.settings import Calibration, Distill, Evaluate, Factorize
from stages.tasks.splits import read_split
from tests.makers.chains import MAKD, SHORT, run_distill
from tests.makers.runs import make_work, read_weights


def evaluate_pair(chain: Path, student: Path, output: Path) -> dict[str, Any]:
    """The rows of the chain's teacher and of a student."""
    models = {"teacher": chain / "finetune/model", "student": student}
    return evaluate(Evaluate(), make_work(output, seed=0), data=chain / "prepare/data", models=models)


def test_the_student_is_half_its_teacher_and_comes_closer(classifier_chain: Path, tmp_path: Path) -> None:
    metrics = run_distill(classifier_chain, tmp_path / "a", epochs=4)
    share = json.loads((classifier_chain / "factorize/metrics.json").read_text())["layer_share"]
    assert 0.495 <= share <= 0.5
    history = pd.read_csv(tmp_path / "a/history.csv")
    for term in MAKD:
        points = history[f"loss/{term}"].dropna()
        assert points.iloc[-5:].mean() < points.iloc[:5].mean()
    shares = history[[c for c in history if c.startswith("share/")]].dropna()
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1.0)
    rows = evaluate_pair(classifier_chain, tmp_path / "a/model", tmp_path / "evaluate")
    assert rows["student"]["score"] == pytest.approx(metrics["accuracy"])
    assert rows["student"]["macs_per_token"] < 0.6 * rows["teacher"]["macs_per_token"]


def test_a_budget_of_one_is_the_teacher(classifier_chain: Path, tmp_path: Path) -> None:
    metrics = factorize(
        Factorize(budget=1, multiple_of=1, calibration=Calibration(examples=32)),
        make_work(tmp_path / "factorize"),
        data=classifier_chain / "prepare/data",
        teacher=classifier_chain / "finetune/model",
    )
    assert metrics["layer_share"] == 1 and metrics["mean_output_error"] == 0
    rows = evaluate_pair(classifier_chain, tmp_path / "factorize/model", tmp_path / "evaluate")
    assert rows["student"]["agreement"] == 100
    assert rows["student"]["score"] == rows["teacher"]["score"]


@pytest.mark.parametrize("hierarchy", ["progressive", "rotating"])
def test_hierarchies_train(hierarchy: str, classifier_chain: Path, tmp_path: Path) -> None:
    run_distill(classifier_chain, tmp_path / "a", hierarchy=hierarchy, epochs=3, phase_shares=(0.34, 0.33, 0.33))
    history = pd.read_csv(tmp_path / "a/history.csv")
    kl, layer = history["loss/kl"].notna(), history["loss/hidden"].notna()
    assert (kl & layer).any() == (hierarchy == "rotating")
    assert kl.any() and layer.any()


def test_gradient_norms_equal_backward(classifier_chain: Path, tmp_path: Path) -> None:
    hidden = {"hidden": {"weight": 1.0}}
    run_distill(classifier_chain, tmp_path / "a", epochs=0.1, gradient_norms=True, objectives=hidden)
    history = pd.read_csv(tmp_path / "a/history.csv")
    # with one term its norm is the whole gradient's, which the Trainer takes for itself
    assert history["gradient/hidden"].dropna().to_numpy() == pytest.approx(
        history["grad_norm"].dropna().to_numpy(), rel=1e-4
    )


def test_a_narrower_student_learns_by_projections_that_are_not_saved(classifier_chain: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(classifier_chain / "finetune/model")
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = config.hidden_size // 2, 24, 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "narrow")
    terms = {"hidden": {}, "embedding": {}, "hidden_cosine": {}, "matrices": {}, "relations": {}, "contrastive": {}}
    ramp = {"attention_mse": {"weight": {"start": 0, "end": 1, "until": 0.5}}}
    distill(
        Distill(**SHORT, hierarchy="joint", objectives=MAKD | terms | ramp),
        make_work(tmp_path / "out"),
        data=classifier_chain / "prepare/data",
        teacher=classifier_chain / "finetune/model",
        student=tmp_path / "narrow",
    )
    assert read_weights(tmp_path / "out/model").keys() == read_weights(tmp_path / "narrow").keys()
    history = pd.read_csv(tmp_path / "out/history.csv")
    for name in set(terms) - {"contrastive"}:  # that one gets harder while its memory fills
        assert history[f"loss/{name}"].iloc[-3:].mean() < history[f"loss/{name}"].iloc[:3].mean(), name
    assert history["share/attention_mse"].iloc[0] == 0 < history["share/attention_mse"].iloc[-2]


def test_contrast_without_a_second_class_is_refused(classifier_chain: Path) -> None:
    split = read_split(classifier_chain / "prepare/data", "train").filter(lambda row: row["labels"] == 1)
    model = load_checkpoint(classifier_chain / "finetune/model")
    settings = Distill(objectives=MAKD | {"contrastive": {}})
    with pytest.raises(BadInput, match=r"distill.objectives.contrastive: needs training examples of two classes"):
        DistillationTrainer(model, teacher=model, distill=settings, train_dataset=split)


def test_a_layer_that_does_not_exist_is_refused_before_training(classifier_chain: Path, tmp_path: Path) -> None:
    objectives = MAKD | {"hidden": {"layers": [1, 7]}}
    with pytest.raises(BadInput, match=r"distill.objectives.hidden: layers \[7\] do not exist: .* layers 1 to 2"):
        run_distill(classifier_chain, tmp_path / "a", objectives=objectives)
