"""evaluate, on causal language models: scores and the comparison with the teacher are those of a float64 loop."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.evaluate import evaluate
from stages.models.loading import load_checkpoint
from stages.schema.task import IGNORED
from stages.settings import Evaluate
from stages.tasks.splits import read_split
from tests.makers.runs import make_work
from tests.makers.token_losses import loop_over_tokens


@torch.no_grad()
def compare_token_by_token(data: Path, models: dict[str, Path]) -> tuple[float, float]:
    """Mean KL(teacher‖student) over the predicted tokens, and how often both have the same most probable one (%)."""
    teacher, student = (load_checkpoint(models[name]) for name in ("teacher", "student"))
    distance = same = count = 0
    for row in read_split(data, "validation"):
        p, q = (
            model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
            for model in (teacher, student)
        )
        for position, label in enumerate(row["labels"][1:]):
            if label != IGNORED:
                distance += float((p[position].exp() * (p[position] - q[position])).sum())
                same += int(p[position].argmax() == q[position].argmax())
                count += 1
    return distance / count, 100 * same / count


def test_scores_are_those_of_a_float64_loop(causal_chain: Path, tmp_path: Path) -> None:
    data = causal_chain / "prepare/data"
    models = {"teacher": causal_chain / "finetune/model", "student": causal_chain / "factorize/model"}
    settings = Evaluate(batch_size=3, bootstrap=200, generation={"examples": 4, "max_new_tokens": 6})
    metrics = evaluate(settings, make_work(tmp_path), data=data, models=models)
    rows = list(read_split(data, "validation"))
    for name, folder in models.items():
        expected, scored = loop_over_tokens(load_checkpoint(folder), rows), metrics[name]
        loss, hits, tokens = np.sum(expected, axis=0)
        assert scored["metrics"]["perplexity"] == pytest.approx(math.exp(loss / tokens), rel=1e-5)
        assert scored["score"] == scored["metrics"]["accuracy"] == pytest.approx(100 * hits / tokens)
        low, high = scored["interval"]
        assert low <= scored["score"] <= high
        table = np.loadtxt(tmp_path / f"predictions/{name}.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(table[:, [1, 2, 0]], expected, rtol=1e-4)
    student, teacher = metrics["student"], metrics["teacher"]
    assert student["retention"] == pytest.approx(100 * student["score"] / teacher["score"])
    divergence, same = compare_token_by_token(data, models)
    assert student["discrepancy"] == pytest.approx(divergence, rel=1e-4)
    assert student["agreement"] == student["cr_1"] == pytest.approx(same)
    assert student["cr_1"] >= student["cr_3"] >= student["cr_5"] and 0 <= student["mor_20"] <= 100
    assert ("generation" in student) == causal_chain.name.startswith("sums") and "agreement" not in teacher


def test_a_model_beside_itself_agrees(causal_chain: Path, tmp_path: Path) -> None:
    model = causal_chain / "finetune/model"
    metrics = evaluate(
        Evaluate(bootstrap=100, generation={"examples": 0}),
        make_work(tmp_path),
        data=causal_chain / "prepare/data",
        models={"first": model, "second": model},
    )["second"]
    assert metrics["retention"] == metrics["agreement"] == metrics["cr_5"] == metrics["mor_10"] == 100
    assert metrics["discrepancy"] == pytest.approx(0, abs=1e-6)
