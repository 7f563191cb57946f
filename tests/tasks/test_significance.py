"""How sure scores and differences are: against loops over resamples, scipy and closed forms."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stages.errors import BadInput
from stages.kinds import get_kind
from stages.schema.task import ClassificationTask, RegressionTask, Task
from stages.tasks.predictions import Predictions, read_predictions, write_predictions
from stages.tasks.scorers import Scorer
from stages.tasks.significance import interval_over_seeds, paired_p_value, resample_scores
from tests.makers.references import score_by_counts

SENTIMENT = ClassificationTask(labels=["bad", "good"])
METRICS = ["accuracy", "f1", "matthews", "pearson", "spearman"]


def make_task(metric: str) -> Task:
    if metric in ("pearson", "spearman"):
        return RegressionTask(kind="regression", metrics=[metric])
    return ClassificationTask(labels=["a", "b"] if metric == "f1" else ["a", "b", "c"], metrics=[metric])


def make_scorer(task: Task) -> Scorer:
    return get_kind(task).make_scorer(task)


def make_predictions(task: Task, right: float, examples: int, seeds: int = 1, seed: int = 0) -> list[Predictions]:
    """One for each seed, right with a probability (or correlated with noise), all on the same examples."""
    rng = np.random.default_rng(0)
    if task.kind == "regression":
        targets = rng.integers(0, 26, examples) / 5  # ties, as in STS-B
        noise = np.random.default_rng(seed).normal(size=(seeds, examples))
        values = np.round(right * targets + noise, 1)[..., None]
    else:
        classes = len(task.labels)
        targets, draw = rng.integers(classes, size=examples), np.random.default_rng(seed)
        is_right, drawn = draw.random((seeds, examples)) < right, draw.integers(classes, size=(seeds, examples))
        values = np.eye(classes, dtype=np.float32)[np.where(is_right, targets, drawn)]
    return [Predictions(values=each, targets=targets) for each in values]


def score_by_reference(metric: str, predictions: Predictions) -> float:
    values, targets = predictions.values, predictions.targets
    if metric in ("pearson", "spearman"):
        return 100 * {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric](values[:, 0], targets).statistic
    return 100 * score_by_counts(metric, targets, values.argmax(-1))


def select_rows(predictions: Predictions, rows: np.ndarray) -> Predictions:
    return Predictions(values=predictions.values[rows], targets=predictions.targets[rows])


def subtract_hits(first: Predictions, second: Predictions) -> np.ndarray:
    """Of each example 1 where only the first is right, -1 where only the second is, else 0."""
    hits = [each.values.argmax(-1) == each.targets for each in (first, second)]
    return hits[0].astype(float) - hits[1]


@pytest.mark.parametrize("metric", METRICS)
def test_resamples_are_those_of_a_plain_loop(metric: str) -> None:
    """Mean, spread and correlation of two models' scores, against scikit-learn and scipy on drawn rows."""
    task, n = make_task(metric), 80
    scorer = make_scorer(task)
    (first,), (second,) = make_predictions(task, 0.7, n), make_predictions(task, 0.5, n, seed=1)
    scores = resample_scores(scorer, {"first": [first], "second": [second]}, 4000, 3)
    rng, loop = np.random.default_rng(9), []
    for _ in range(1000):
        rows = rng.integers(n, size=n)
        loop.append([score_by_reference(metric, select_rows(model, rows)) for model in (first, second)])
    last = [scorer.compute_scores(select_rows(model, rows))[metric] for model in (first, second)]
    assert loop[-1] == pytest.approx(last)
    ours, reference = np.stack([scores["first"][0], scores["second"][0]]), np.array(loop).T
    spread = reference.std(1)
    assert np.abs(ours.mean(1) - reference.mean(1)).max() < 0.15 * spread.max()
    assert ours.std(1) == pytest.approx(spread, rel=0.1)
    difference = np.std(reference[0] - reference[1])
    assert np.std(ours[0] - ours[1]) == pytest.approx(difference, rel=0.1), "the draws are paired"


def test_the_standard_error_of_a_difference_is_the_closed_form() -> None:
    """Accuracy: d is the mean of right(first) - right(second), whose standard error is its deviation / sqrt(n)."""
    (first,), (second,) = make_predictions(SENTIMENT, 0.8, 500), make_predictions(SENTIMENT, 0.7, 500, seed=1)
    scores = resample_scores(make_scorer(SENTIMENT), {"first": [first], "second": [second]}, 20_000, 0)
    deviation = subtract_hits(first, second).std()
    assert (scores["first"] - scores["second"]).std() == pytest.approx(100 * deviation / np.sqrt(500), rel=0.03)


def test_p_agrees_with_scipys_bootstrap() -> None:
    """scipy's percentile interval at confidence 1 - p just touches 0."""
    (first,), (second,) = make_predictions(SENTIMENT, 0.75, 400), make_predictions(SENTIMENT, 0.6, 400, seed=2)
    scores = resample_scores(make_scorer(SENTIMENT), {"first": [first], "second": [second]}, 20_000, 0)
    p = paired_p_value(scores["first"], scores["second"])
    resampled = stats.bootstrap(
        (subtract_hits(first, second),), np.mean, n_resamples=20_000, method="percentile", rng=5
    ).bootstrap_distribution
    assert 0.001 < p < 0.5
    assert p == pytest.approx(2 * min((resampled <= 1e-9).mean(), (resampled >= -1e-9).mean()), rel=0.15)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_models_have_p_1_and_far_apart_ones_nearly_0(metric: str) -> None:
    task = make_task(metric)
    good = make_predictions(task, 0.9, 400, seeds=2)
    bad = make_predictions(task, 0.1, 400, seeds=2, seed=1)
    scores = resample_scores(make_scorer(task), {"good": good, "same": list(good), "bad": bad}, 1000, 0)
    assert paired_p_value(scores["good"], scores["same"]) == 1
    p = paired_p_value(scores["good"], scores["bad"])
    assert p == paired_p_value(scores["bad"], scores["good"]) == pytest.approx(2 / 1001)


def test_p_is_uniform_where_models_are_equally_good() -> None:
    """200 pairs of models of the same quality: about a tenth have p below 0.1."""
    below, scorer = 0, make_scorer(SENTIMENT)
    for seed in range(200):
        first = make_predictions(SENTIMENT, 0.6, 300, seed=2 * seed + 1)
        second = make_predictions(SENTIMENT, 0.6, 300, seed=2 * seed + 2)
        scores = resample_scores(scorer, {"first": first, "second": second}, 500, seed)
        below += paired_p_value(scores["first"], scores["second"]) < 0.1
    assert stats.binomtest(below, 200, 0.1).pvalue > 0.001


def test_seeds_that_differ_widen_the_interval_as_variances_add() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal([[80.0], [84.0], [88.0]], 1.0, size=(3, 100_000))
    low, high = interval_over_seeds(scores, 0)
    spread = np.sqrt((np.var([80, 84, 88]) + 1.0) / 3)  # the mean of three draws of a seed and its noise
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    assert interval_over_seeds(scores[:1], 0) == pytest.approx(np.percentile(scores[0], [2.5, 97.5]))


def test_predictions_come_back_to_the_last_bit(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "x" / "predictions.csv"
    logits = (rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-20, 20, (50, 3))).astype(np.float32)
    for targets in (rng.integers(3, size=50), rng.normal(size=50).astype(np.float32)):
        written = Predictions(values=logits, targets=targets)
        write_predictions(path, written, make_scorer(make_task("accuracy")).name_columns(written))
        read = read_predictions(path)
        np.testing.assert_array_equal(read.values.view(np.int32), logits.view(np.int32))
        np.testing.assert_array_equal(read.targets, targets)
    assert path.read_text().startswith("label,logit_0,logit_1,logit_2\n")
    with pytest.raises(BadInput, match=r"none\.csv does not exist"):
        read_predictions(tmp_path / "none.csv")
