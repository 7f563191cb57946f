"""The formulas of the metrics, of one set of predictions or of many resamples of it at once, as shares of 1.

Accuracy, F1 of class 1 and Matthews' correlation for classes; Pearson's and Spearman's correlations for values; for
text accuracy of the next token, likelihood and perplexity. A score that is undefined (one class only, constant
predictions) is 0, as in scikit-learn.
"""

import numpy as np
from numpy import ndarray


def token_metric(metric: str, loss: ndarray, hits: ndarray, tokens: ndarray) -> ndarray:
    """Accuracy, perplexity, or likelihood: q(y)'s geometric mean, 1 / perplexity; of sums over tokens.

    Args:
        loss: −log q(y), nats.
        hits: tokens that were the most probable.
    """
    if metric == "accuracy":
        return hits / tokens
    return np.exp((loss if metric == "perplexity" else -loss) / tokens)


def confusion_metric(metric: str, counts: ndarray) -> ndarray:
    """Accuracy, F1 or Matthews' R_K (Gorodkin 2004) of many confusion matrices.

    Args:
        counts: (..., true, predicted)
    """
    counts = counts.astype(float)
    total, correct = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(-1), counts.sum(-2)
    if metric == "accuracy":
        return correct / total
    if metric == "f1":
        return _divide(2 * counts[..., 1, 1], true[..., 1] + predicted[..., 1])
    spread = (total**2 - (true**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return _divide(correct * total - (true * predicted).sum(-1), np.sqrt(spread))


def weighted_correlation(metric: str, predictions: ndarray, targets: ndarray, weights: ndarray) -> ndarray:
    """Pearson's or Spearman's correlation of many resamples, (resamples,).

    Args:
        predictions, targets: (examples,)
        weights: (resamples, examples), how often each example was drawn.
    """
    # equal values: exactly no variance
    x, y = (predictions - predictions[0])[None], (targets - targets[0])[None]
    if metric == "spearman":
        x, y = _weighted_ranks(predictions, weights), _weighted_ranks(targets, weights)
    total = weights.sum(1, keepdims=True)
    x, y = x - (weights * x).sum(1, keepdims=True) / total, y - (weights * y).sum(1, keepdims=True) / total
    variances = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    return _divide((weights * x * y).sum(1), np.sqrt(variances))


def _weighted_ranks(values: ndarray, weights: ndarray) -> ndarray:
    """Mean ranks (resamples, examples) in each resample, ties sharing theirs."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan))
    ties = np.add.reduceat(weights[:, order], starts, axis=1)  # drawn of each distinct value
    ranks = np.cumsum(ties, axis=1) - (ties - 1) / 2
    position = np.empty(len(values), int)
    position[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return ranks[:, position]


def _divide(above: ndarray, below: ndarray) -> ndarray:
    """above / below, 0 where undefined."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
