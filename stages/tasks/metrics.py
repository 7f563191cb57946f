"""The official metric of each task, in points (0 to 100); perplexity alone has no upper end.

Accuracy, F1 of class 1 and Matthews' correlation for classes; Pearson's and Spearman's correlations for values; for
text accuracy of the next token, likelihood and perplexity. A score that is undefined (one class only, constant
predictions) is 0, as in scikit-learn.
"""

from typing import TYPE_CHECKING

from stages.tasks import Task

if TYPE_CHECKING:
    from numpy import ndarray


def scores(task: Task, logits: "ndarray", labels: "ndarray") -> dict[str, float]:
    """Every metric of the task, in its order.

    Args:
        logits: (examples, outputs); classes by the largest logit, regression by the only column; of text the sums over
            an example's tokens of −log q(y) in nats, and of the hits.
        labels: (examples,) class ids or values; of text the number of tokens that were asked for.
    """
    import numpy as np
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    logits, labels = np.asarray(logits), np.asarray(labels)
    if task.kind == "causal_lm":
        loss, hits = logits.astype(float).sum(0)[:2]
        found = {m: float(of_tokens(m, loss, hits, labels.sum())) for m in task.metrics}
        return {m: value if m == "perplexity" else 100 * value for m, value in found.items()}
    if task.kind == "regression":
        guesses = logits.reshape(len(labels)).astype(float)
        if len(set(guesses)) < 2 or len(set(labels)) < 2:
            return dict.fromkeys(task.metrics, 0.0)
        formulas = {"pearson": pearsonr, "spearman": spearmanr}
        return {m: 100 * float(formulas[m](labels, guesses).statistic) for m in task.metrics}
    guesses = logits.argmax(-1)
    formulas = {
        "accuracy": accuracy_score,
        "f1": lambda *both: f1_score(*both, zero_division=0),
        "matthews": matthews_corrcoef,
    }
    return {m: 100 * float(formulas[m](labels, guesses)) for m in task.metrics}


def of_tokens(metric: str, loss: "ndarray", hits: "ndarray", tokens: "ndarray") -> "ndarray":
    """Of sums over tokens: accuracy (share of 1), perplexity, or likelihood: q(y)'s geometric mean, 1 / perplexity.

    Args:
        loss: −log q(y), nats.
    """
    import numpy as np

    if metric == "accuracy":
        return hits / tokens
    return np.exp((loss if metric == "perplexity" else -loss) / tokens)


def of_confusion(metric: str, counts: "ndarray") -> "ndarray":
    """Accuracy, F1 or Matthews' R_K (Gorodkin 2004) of many confusion matrices, as shares of 1.

    Args:
        counts: (..., true, predicted)
    """
    import numpy as np

    counts = counts.astype(float)
    total, correct = counts.sum((-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    true, guessed = counts.sum(-1), counts.sum(-2)
    if metric == "accuracy":
        return correct / total
    if metric == "f1":
        return _ratio(2 * counts[..., 1, 1], true[..., 1] + guessed[..., 1])
    spread = (total**2 - (true**2).sum(-1)) * (total**2 - (guessed**2).sum(-1))
    return _ratio(correct * total - (true * guessed).sum(-1), np.sqrt(spread))


def correlation(metric: str, guesses: "ndarray", labels: "ndarray", weights: "ndarray") -> "ndarray":
    """Pearson's or Spearman's correlation of many resamples.

    Args:
        guesses, labels: (examples,)
        weights: (resamples, examples), how often each example was drawn.
    """
    import numpy as np

    x, y = (guesses - guesses[0])[None], (labels - labels[0])[None]  # equal values: exactly no variance
    if metric == "spearman":
        x, y = _ranks(guesses, weights), _ranks(labels, weights)
    total = weights.sum(1, keepdims=True)
    x, y = x - (weights * x).sum(1, keepdims=True) / total, y - (weights * y).sum(1, keepdims=True) / total
    variances = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    return _ratio((weights * x * y).sum(1), np.sqrt(variances))


def _ranks(values: "ndarray", weights: "ndarray") -> "ndarray":
    """Mean ranks (resamples, examples) in each resample, ties sharing theirs."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=np.nan))
    ties = np.add.reduceat(weights[:, order], starts, axis=1)  # drawn of each distinct value
    ranks = np.cumsum(ties, axis=1) - (ties - 1) / 2
    place = np.empty(len(values), int)
    place[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    return ranks[:, place]


def _ratio(above: "ndarray", below: "ndarray") -> "ndarray":
    """above / below, 0 where undefined."""
    import numpy as np

    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
