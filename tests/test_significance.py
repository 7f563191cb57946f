"""How sure scores and differences are: against loops over resamples, scipy and closed forms."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_tasks import of_counts

from stages.settings import BadInput
from stages.tasks import Metric, Task
from stages.tasks.metrics import scores
from stages.tasks.predictions import read_predictions, write_predictions
from stages.tasks.significance import interval, p_value, resampled

SENTIMENT = Task(labels=["bad", "good"])


def task(metric: Metric) -> Task:
    if metric in ("pearson", "spearman"):
        return Task(kind="regression", metrics=[metric])
    return Task(labels=["a", "b"] if metric == "f1" else ["a", "b", "c"], metrics=[metric])


def predictions(task: Task, right: float, examples: int, seeds: int = 1, seed: int = 0) -> tuple:
    """Logits (seeds, examples, outputs), right with a probability (or correlated with noise), and labels."""
    rng = np.random.default_rng(0)
    if task.kind == "regression":
        labels = rng.integers(0, 26, examples) / 5  # ties, as in STS-B
        noise = np.random.default_rng(seed).normal(size=(seeds, examples))
        return np.round(right * labels + noise, 1)[..., None], labels
    labels, draw = rng.integers(task.outputs, size=examples), np.random.default_rng(seed)
    says = np.where(draw.random((seeds, examples)) < right, labels, draw.integers(task.outputs, size=(seeds, examples)))
    return np.eye(task.outputs, dtype=np.float32)[says], labels


def reference(metric: Metric, logits: np.ndarray, labels: np.ndarray) -> float:
    if metric in ("pearson", "spearman"):
        return 100 * {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric](logits[:, 0], labels).statistic
    return 100 * of_counts(metric, labels, logits.argmax(-1))


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_resamples_are_those_of_a_plain_loop(metric: Metric) -> None:
    """Mean, spread and correlation of two models' scores, against scikit-learn and scipy on drawn rows."""
    this, n = task(metric), 80
    (one, labels), (other, _) = predictions(this, 0.7, n), predictions(this, 0.5, n, seed=1)
    found = resampled(this, {"one": one, "other": other}, labels, 4000, 3)
    rng, loop = np.random.default_rng(9), []
    for _ in range(1000):
        rows = rng.integers(n, size=n)
        loop.append([reference(metric, model[0][rows], labels[rows]) for model in (one, other)])
    assert loop[-1] == pytest.approx([scores(this, model[0][rows], labels[rows])[metric] for model in (one, other)])
    mine, theirs = np.stack([found["one"][0], found["other"][0]]), np.array(loop).T
    spread = theirs.std(1)
    assert np.abs(mine.mean(1) - theirs.mean(1)).max() < 0.15 * spread.max()
    assert mine.std(1) == pytest.approx(spread, rel=0.1)
    assert np.std(mine[0] - mine[1]) == pytest.approx(np.std(theirs[0] - theirs[1]), rel=0.1), "the draws are paired"


def test_the_standard_error_of_a_difference_is_the_closed_form() -> None:
    """Accuracy: d is the mean of right(one) - right(other), whose standard error is its deviation / sqrt(n)."""
    (one, labels), (other, _) = predictions(SENTIMENT, 0.8, 500), predictions(SENTIMENT, 0.7, 500, seed=1)
    found = resampled(SENTIMENT, {"one": one, "other": other}, labels, 20_000, 0)
    wins = (one[0].argmax(-1) == labels).astype(float) - (other[0].argmax(-1) == labels)
    assert (found["one"] - found["other"]).std() == pytest.approx(100 * wins.std() / np.sqrt(500), rel=0.03)


def test_p_agrees_with_scipys_bootstrap() -> None:
    """scipy's percentile interval at confidence 1 - p just touches 0."""
    (one, labels), (other, _) = predictions(SENTIMENT, 0.75, 400), predictions(SENTIMENT, 0.6, 400, seed=2)
    found = resampled(SENTIMENT, {"one": one, "other": other}, labels, 20_000, 0)
    p = p_value(found["one"], found["other"])
    wins = (one[0].argmax(-1) == labels).astype(float) - (other[0].argmax(-1) == labels)
    drawn = stats.bootstrap((wins,), np.mean, n_resamples=20_000, method="percentile", rng=5).bootstrap_distribution
    assert 0.001 < p < 0.5
    assert p == pytest.approx(2 * min((drawn <= 1e-9).mean(), (drawn >= -1e-9).mean()), rel=0.15)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "matthews", "pearson", "spearman"])
def test_equal_models_have_p_1_and_far_apart_ones_nearly_0(metric: Metric) -> None:
    this = task(metric)
    (good, labels), (bad, _) = predictions(this, 0.9, 400, seeds=2), predictions(this, 0.1, 400, seeds=2, seed=1)
    found = resampled(this, {"good": good, "same": good.copy(), "bad": bad}, labels, 1000, 0)
    assert p_value(found["good"], found["same"]) == 1
    assert p_value(found["good"], found["bad"]) == p_value(found["bad"], found["good"]) == pytest.approx(2 / 1001)


def test_p_is_uniform_where_models_are_equally_good() -> None:
    """200 pairs of models of the same quality: about a tenth have p below 0.1."""
    below = 0
    for seed in range(200):
        one, labels = predictions(SENTIMENT, 0.6, 300, seed=2 * seed + 1)
        other, _ = predictions(SENTIMENT, 0.6, 300, seed=2 * seed + 2)
        found = resampled(SENTIMENT, {"one": one, "other": other}, labels, 500, seed)
        below += p_value(found["one"], found["other"]) < 0.1
    assert stats.binomtest(below, 200, 0.1).pvalue > 0.001


def test_seeds_that_differ_widen_the_interval_as_variances_add() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([[80.0], [84.0], [88.0]], 1.0, size=(3, 100_000))
    low, high = interval(values, 0)
    spread = np.sqrt((np.var([80, 84, 88]) + 1.0) / 3)  # the mean of three draws of a seed and its noise
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert interval(values[:1], 0) == pytest.approx(np.percentile(values[0], [2.5, 97.5]))


def test_predictions_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-20, 20, (50, 3))).astype(np.float32)
    for labels in (rng.integers(3, size=50), rng.normal(size=50).astype(np.float32)):
        write_predictions(tmp_path / "x" / "predictions.csv", logits, list(labels))
        found, said = read_predictions(tmp_path / "x" / "predictions.csv")
        np.testing.assert_array_equal(found.view(np.int32), logits.view(np.int32))
        np.testing.assert_array_equal(said, labels)
    assert (tmp_path / "x" / "predictions.csv").read_text().startswith("label,logit_0,logit_1,logit_2\n")
    with pytest.raises(BadInput, match=r"none\.csv does not exist"):
        read_predictions(tmp_path / "none.csv")
