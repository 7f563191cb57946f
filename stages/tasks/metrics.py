"""The official metric of each task, in points (0 to 100), and how sure it is.

Accuracy, F1 of class 1 and Matthews' correlation for classes; Pearson's and Spearman's correlations for
values. A score that is undefined (one class only, constant predictions) is 0, as in
scikit-learn.
"""

from typing import TYPE_CHECKING

from stages.tasks import Task

if TYPE_CHECKING:
    from numpy import ndarray
    from numpy.random import Generator


def scores(task: Task, logits: "ndarray", labels: "ndarray") -> dict[str, float]:
    """Every metric of the task, in its order.

    Args:
        logits: (examples, outputs); classes by the largest logit, regression by the only column.
        labels: (examples,) class ids or values.
    """
    import numpy as np
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    logits, labels = np.asarray(logits), np.asarray(labels)
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


def bootstrap(task: Task, logits: "ndarray", labels: "ndarray", resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the task's first metric over resamples of the examples.

    Source: Efron 1979. Class metrics depend on the confusion matrix alone, whose bootstrap distribution is
    multinomial: drawn at once, however many the examples.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    logits, labels = np.asarray(logits), np.asarray(labels)
    if task.kind == "regression":
        values = _correlations(rng, task.metrics[0], logits.reshape(len(labels)), labels, resamples)
    else:
        cells = np.bincount(labels * task.outputs + logits.argmax(-1), minlength=task.outputs**2)
        drawn = rng.multinomial(len(labels), cells / len(labels), size=resamples)
        values = _of_confusion(task.metrics[0], drawn.reshape(resamples, task.outputs, task.outputs))
    low, high = np.percentile(100 * values, [2.5, 97.5])
    return float(low), float(high)


def _of_confusion(metric: str, counts: "ndarray") -> "ndarray":
    """Accuracy, F1 or Matthews' R_K (Gorodkin 2004) of many confusion matrices.

    Args:
        counts: (resamples, true, predicted)
    """
    import numpy as np

    counts = counts.astype(float)
    total, correct = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    true, guessed = counts.sum(2), counts.sum(1)
    if metric == "accuracy":
        return correct / total
    if metric == "f1":
        return _ratio(2 * counts[:, 1, 1], true[:, 1] + guessed[:, 1])
    spread = (total**2 - (true**2).sum(1)) * (total**2 - (guessed**2).sum(1))
    return _ratio(correct * total - (true * guessed).sum(1), np.sqrt(spread))


def _correlations(rng: "Generator", metric: str, guesses: "ndarray", labels: "ndarray", resamples: int) -> "ndarray":
    """Pearson's or Spearman's correlation of many resamples, a few million draws at a time."""
    import numpy as np
    from scipy.stats import rankdata

    block = max(1, 4_000_000 // len(labels))
    values = []
    for start in range(0, resamples, block):
        rows = rng.integers(len(labels), size=(min(block, resamples - start), len(labels)))
        x, y = guesses[rows].astype(float), labels[rows].astype(float)
        if metric == "spearman":
            x, y = rankdata(x, axis=1), rankdata(y, axis=1)
        x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
        values.append(_ratio((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1))))
    return np.concatenate(values)


def _ratio(above: "ndarray", below: "ndarray") -> "ndarray":
    """above / below, 0 where undefined."""
    import numpy as np

    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
