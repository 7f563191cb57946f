"""How predictions are scored, in points (0 to 100; perplexity alone has no upper end), one class per form of answer.

Beside the scores themselves the first metric on many resamples of the examples, for confidence intervals: a resample is
how often each example was drawn, and every metric is a function of sums weighted by that, so that nothing is looped
over resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy import ndarray
from numpy.random import Generator
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from stages.tasks.metrics import confusion_metric, token_metric, weighted_correlation
from stages.tasks.predictions import Predictions

BLOCK = 4_000_000
"""Draws held in memory at once."""


class Scorer(Protocol):
    """Metrics of one form of predictions; see `Predictions` for the shapes."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names; the first is the score, the higher the better."""

    def name_columns(self, predictions: Predictions) -> list[str]:
        """Names of the target and of the values."""

    def compute_scores(self, predictions: Predictions) -> dict[str, float]:
        """Every metric, in its order, in points."""

    def resample_score(self, values: ndarray, targets: ndarray, resamples: int, rng: Generator) -> ndarray:
        """The first metric, as a share of 1, on the same resamples for all models.

        Shapes: values (models, examples, values), targets (examples,) -> (models, resamples).
        """


@dataclass(frozen=True)
class ClassScorer:
    """Classes: the predicted one has the largest logit."""

    metrics: Sequence[str]
    classes: int

    def name_columns(self, predictions: Predictions) -> list[str]:
        return ["label", *(f"logit_{i}" for i in range(predictions.values.shape[1]))]

    def compute_scores(self, predictions: Predictions) -> dict[str, float]:
        predicted = predictions.values.argmax(-1)
        formulas = {
            "accuracy": accuracy_score,
            "f1": lambda *both: f1_score(*both, zero_division=0),
            "matthews": matthews_corrcoef,
        }
        return {m: 100 * float(formulas[m](predictions.targets, predicted)) for m in self.metrics}

    def resample_score(self, values: ndarray, targets: ndarray, resamples: int, rng: Generator) -> ndarray:
        """Examples for which all models predict the same are one pattern, and resampling examples draws patterns from a
        multinomial: cheap, however many the examples.
        """
        cells = targets * self.classes + values.argmax(
            -1
        )  # (models, examples): each one's cell of the confusion matrix
        patterns, counts = np.unique(cells, axis=1, return_counts=True)
        one_hot = (patterns[:, None] == np.arange(self.classes**2)[:, None]).reshape(-1, len(counts)).T
        one_hot, scores = one_hot.astype(np.float32), []
        for drawn in _draw_counts(rng, counts, resamples):
            confusion = (drawn.astype(np.float32) @ one_hot).reshape(-1, len(cells), self.classes, self.classes)
            scores.append(confusion_metric(self.metrics[0], confusion))
        return np.concatenate(scores).T


@dataclass(frozen=True)
class ValueScorer:
    """Values: correlations with the right ones."""

    metrics: Sequence[str]

    def name_columns(self, predictions: Predictions) -> list[str]:
        return ["label", "logit_0"]

    def compute_scores(self, predictions: Predictions) -> dict[str, float]:
        predicted, targets = predictions.values.reshape(-1).astype(float), predictions.targets
        if len(set(predicted)) < 2 or len(set(targets)) < 2:
            return dict.fromkeys(self.metrics, 0.0)
        formulas = {"pearson": pearsonr, "spearman": spearmanr}
        return {m: 100 * float(formulas[m](targets, predicted).statistic) for m in self.metrics}

    def resample_score(self, values: ndarray, targets: ndarray, resamples: int, rng: Generator) -> ndarray:
        predicted, scores = values.reshape(len(values), -1).astype(float), []
        for drawn in _draw_counts(rng, np.ones(len(targets), int), resamples):
            targets = targets.astype(float)
            scores.append([weighted_correlation(self.metrics[0], row, targets, drawn) for row in predicted])
        return np.concatenate(scores, axis=1)


@dataclass(frozen=True)
class TokenScorer:
    """Text: sums over the predicted tokens of each example, whole examples drawn."""

    metrics: Sequence[str]

    def name_columns(self, predictions: Predictions) -> list[str]:
        return ["tokens", "loss", "hits"]

    def compute_scores(self, predictions: Predictions) -> dict[str, float]:
        loss, hits = predictions.values.astype(float).sum(0)[:2]
        scores = {m: float(token_metric(m, loss, hits, predictions.targets.sum())) for m in self.metrics}
        return {m: value if m == "perplexity" else 100 * value for m, value in scores.items()}

    def resample_score(self, values: ndarray, targets: ndarray, resamples: int, rng: Generator) -> ndarray:
        scores = []
        for drawn in _draw_counts(rng, np.ones(len(targets), int), resamples):
            loss, hits = np.einsum("re,mes->smr", drawn.astype(float), values[..., :2].astype(float))
            scores.append(token_metric(self.metrics[0], loss, hits, drawn @ targets))
        return np.concatenate(scores, axis=1)


def _draw_counts(rng: Generator, counts: ndarray, resamples: int) -> Iterator[ndarray]:
    """How often each pattern was drawn, (resamples, patterns), in blocks."""
    block = max(1, BLOCK // len(counts))
    for start in range(0, resamples, block):
        yield rng.multinomial(counts.sum(), counts / counts.sum(), size=min(block, resamples - start))
