"""How sure a score is, and how sure a difference between two: the bootstrap over the validation examples.

All models are scored on the same resamples, so that what makes an example hard for every model cancels out of the
difference (Efron 1979; the paired test as in Berg-Kirkpatrick et al. 2012).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy import ndarray

from stages.tasks.predictions import Predictions
from stages.tasks.scorers import Scorer


def confidence_interval(scorer: Scorer, predictions: Predictions, resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of one model's score, in points."""
    return interval_over_seeds(resample_scores(scorer, {"": [predictions]}, resamples, seed)[""], seed)


def resample_scores(
    scorer: Scorer, models: Mapping[str, Sequence[Predictions]], resamples: int, seed: int
) -> dict[str, ndarray]:
    """The first metric, in points, of every model on the same resamples of the examples.

    Args:
        models: name -> predictions on the same examples, one for each seed.

    Returns name -> (seeds, resamples).
    """
    seeds = [one for predictions in models.values() for one in predictions]
    values = np.stack([one.values for one in seeds])
    scores = scorer.resample_score(values, seeds[0].targets, resamples, np.random.default_rng(seed))
    ends = np.cumsum([len(predictions) for predictions in models.values()])
    return dict(zip(models, np.split(100 * scores, ends[:-1]), strict=True))


def interval_over_seeds(scores: ndarray, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds; each resample draws seeds, too, where there are several.

    Args:
        scores: (seeds, resamples), from `resample_scores`.
    """
    seeds, resamples = scores.shape
    drawn = np.random.default_rng(seed).integers(seeds, size=(seeds, resamples))
    low, high = np.percentile(np.take_along_axis(scores, drawn, 0).mean(0), [2.5, 97.5])
    return float(low), float(high)


def paired_p_value(one: ndarray, other: ndarray) -> float:
    """Two-sided p that both models score alike (mean over each one's seeds), from the same resamples of both.

    p = min(1, 2 (1 + min(#(d <= 0), #(d >= 0))) / (1 + resamples)), d the differences: never 0, since no number of
    resamples shows that; 1 for a model and itself. Seeds are not drawn: it is about the models that were trained.

    Args:
        one, other: (seeds, resamples), from one call of `resample_scores`.
    """
    difference = one.mean(0) - other.mean(0)
    tail = min((difference <= 1e-9).sum(), (difference >= -1e-9).sum())  # equal but for rounding is equal
    return min(1.0, 2 * (1 + float(tail)) / (1 + len(difference)))
