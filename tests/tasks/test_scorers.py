"""Scores and their confidence intervals equal scikit-learn's and scipy's over a plain loop of resamples."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from stages.kinds import get_kind
from stages.schema.glue import GLUE
from stages.schema.task import CausalLMTask, ClassificationTask, RegressionTask, Task
from stages.tasks.predictions import Predictions
from stages.tasks.scorers import Scorer
from stages.tasks.significance import confidence_interval
from tests.makers.references import score_by_counts

REFERENCES = {"accuracy": accuracy_score, "f1": f1_score, "matthews": matthews_corrcoef}


def make_scorer(task: Task) -> Scorer:
    return get_kind(task).make_scorer(task)


@pytest.mark.parametrize(("metric", "classes"), [("accuracy", 3), ("f1", 2), ("matthews", 2), ("matthews", 3)])
def test_intervals_of_classes_equal_a_plain_loop(metric: str, classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=300)
    logits = np.eye(classes)[labels] + rng.normal(size=(300, classes))
    scorer = make_scorer(ClassificationTask(labels=[str(i) for i in range(classes)], metrics=[metric]))
    predictions, predicted = Predictions(values=logits, targets=labels), logits.argmax(1)
    assert scorer.compute_scores(predictions) == {metric: pytest.approx(100 * REFERENCES[metric](labels, predicted))}
    draws = [rng.integers(300, size=300) for _ in range(1500)]
    loop = [score_by_counts(metric, labels[d], predicted[d]) for d in draws]
    assert loop[:20] == pytest.approx([REFERENCES[metric](labels[d], predicted[d]) for d in draws[:20]])
    interval = np.percentile(100 * np.array(loop), [2.5, 97.5])
    assert confidence_interval(scorer, predictions, 20_000, 1) == pytest.approx(interval, abs=0.6)


@pytest.mark.parametrize(("metric", "reference"), [("pearson", pearsonr), ("spearman", spearmanr)])
def test_intervals_of_values_equal_a_plain_loop(metric: str, reference: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.uniform(0, 5, size=200).round()
    logits = (labels + rng.normal(size=200))[:, None]
    scorer = make_scorer(RegressionTask(kind="regression", metrics=[metric]))
    predictions = Predictions(values=logits, targets=labels)
    score = scorer.compute_scores(predictions)[metric]
    assert score == pytest.approx(100 * reference(labels, logits[:, 0]).statistic)
    draws = [rng.integers(200, size=200) for _ in range(1500)]
    loop = np.percentile([100 * reference(labels[d], logits[d, 0]).statistic for d in draws], [2.5, 97.5])
    assert confidence_interval(scorer, predictions, 5000, 1) == pytest.approx(loop, abs=0.6)


def test_scores_of_text_and_their_intervals_equal_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 30, 200)
    hits = draw.binomial(tokens, 0.4)
    sums = np.stack([tokens * draw.uniform(1, 3, 200), hits], 1).astype(np.float32)
    predictions = Predictions(values=sums, targets=tokens)
    task = CausalLMTask(kind="causal_lm", metrics=["likelihood", "perplexity", "accuracy"])
    scores = make_scorer(task).compute_scores(predictions)
    assert scores["perplexity"] == pytest.approx(math.exp(sums[:, 0].sum(dtype=float) / tokens.sum()))
    assert scores["likelihood"] == pytest.approx(100 / scores["perplexity"])
    assert scores["accuracy"] == pytest.approx(100 * hits.sum() / tokens.sum())
    for metric in ("likelihood", "accuracy"):
        scorer = make_scorer(CausalLMTask(kind="causal_lm", metrics=[metric]))
        loop = []
        for _ in range(4000):
            rows = draw.integers(200, size=200)
            loop.append(scorer.compute_scores(Predictions(values=sums[rows], targets=tokens[rows]))[metric])
        interval = confidence_interval(scorer, predictions, 4000, 1)
        assert interval == pytest.approx(np.percentile(loop, [2.5, 97.5]), abs=0.3)


@pytest.mark.parametrize("name", ["cola", "mrpc", "sst2", "stsb"])
def test_degenerate_predictions_give_numbers(name: str) -> None:
    outputs = 1 if name == "stsb" else 2
    predictions = Predictions(values=np.ones((4, outputs)), targets=np.array([1, 1, 0, 1]))
    scorer = make_scorer(GLUE[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        interval = confidence_interval(scorer, predictions, 500, 0)
        values = [*scorer.compute_scores(predictions).values(), *interval]
    assert np.isfinite(values).all()
    assert confidence_interval(scorer, predictions, 500, 0) == interval
