"""How sure a score is, and how sure a difference between two: the bootstrap over the validation examples.

All models are scored on the same resamples, so that what makes an example hard for everyone cancels out of the
difference (Efron 1979; the paired test as in Berg-Kirkpatrick et al. 2012). Nothing is looped over resamples: a
resample is how often each example was drawn, and every metric is a function of sums weighted by that.
"""

from typing import TYPE_CHECKING

from stages.tasks import Task
from stages.tasks.metrics import correlation, of_confusion, of_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy import ndarray
    from numpy.random import Generator

BLOCK = 4_000_000
"""Draws held in memory at once."""


def bootstrap(task: Task, logits: "ndarray", labels: "ndarray", resamples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of one model's score, in points.

    Args:
        logits: (examples, outputs)
        labels: (examples,); both as for `stages.tasks.metrics.scores`
    """
    return interval(resampled(task, {"": logits[None]}, labels, resamples, seed)[""], seed)


def resampled(
    task: Task, models: "dict[str, ndarray]", labels: "ndarray", resamples: int, seed: int
) -> "dict[str, ndarray]":
    """The task's first metric, in points, of every model on the same resamples of the examples.

    Args:
        models: name -> logits (seeds, examples, outputs).
        labels: (examples,); both as for `stages.tasks.metrics.scores`.

    Returns name -> (seeds, resamples).
    """
    import numpy as np

    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    flat = np.concatenate(list(models.values()))
    of = {"classification": _classes, "regression": _values, "causal_lm": _tokens}[task.kind]
    values = of(rng, task, flat, labels, resamples)
    ends = np.cumsum([len(logits) for logits in models.values()])
    return dict(zip(models, np.split(100 * values, ends[:-1]), strict=True))


def interval(values: "ndarray", seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean over seeds; each resample draws seeds, too, where there are several.

    Args:
        values: (seeds, resamples), from `resampled`.
    """
    import numpy as np

    seeds, resamples = values.shape
    drawn = np.random.default_rng(seed).integers(seeds, size=(seeds, resamples))
    low, high = np.percentile(np.take_along_axis(values, drawn, 0).mean(0), [2.5, 97.5])
    return float(low), float(high)


def p_value(one: "ndarray", other: "ndarray") -> float:
    """Two-sided p that both models score alike (mean over each one's seeds), from the same resamples of both.

    p = min(1, 2 (1 + min(#(d <= 0), #(d >= 0))) / (1 + resamples)), d the differences: never 0, since no number of
    resamples shows that; 1 for a model and itself. Seeds are not drawn: it speaks of the models that were trained.

    Args:
        one, other: (seeds, resamples), from one call of `resampled`.
    """
    difference = one.mean(0) - other.mean(0)
    tail = min((difference <= 1e-9).sum(), (difference >= -1e-9).sum())  # equal but for rounding is equal
    return min(1.0, 2 * (1 + float(tail)) / (1 + len(difference)))


def _classes(rng: "Generator", task: Task, logits: "ndarray", labels: "ndarray", resamples: int) -> "ndarray":
    """Metric (models, resamples) of classes; logits (models, examples, outputs).

    Examples to which all models say the same are one pattern, and resampling examples draws patterns from a
    multinomial: cheap, however many the examples.
    """
    import numpy as np

    cells = labels * task.outputs + logits.argmax(-1)  # (models, examples): where each falls in the confusion matrix
    patterns, counts = np.unique(cells, axis=1, return_counts=True)
    one_hot = (patterns[:, None] == np.arange(task.outputs**2)[:, None]).reshape(-1, len(counts)).T.astype(np.float32)
    found = []
    for drawn in _draws(rng, counts, resamples):
        confusion = (drawn.astype(np.float32) @ one_hot).reshape(len(drawn), len(cells), task.outputs, task.outputs)
        found.append(of_confusion(task.metrics[0], confusion))
    return np.concatenate(found).T


def _values(rng: "Generator", task: Task, logits: "ndarray", labels: "ndarray", resamples: int) -> "ndarray":
    """Correlation (models, resamples) of values; logits (models, examples, 1)."""
    import numpy as np

    guesses, found = logits.reshape(len(logits), -1).astype(float), []
    for drawn in _draws(rng, np.ones(len(labels), int), resamples):
        found.append([correlation(task.metrics[0], row, labels.astype(float), drawn) for row in guesses])
    return np.concatenate(found, axis=1)


def _tokens(rng: "Generator", task: Task, logits: "ndarray", labels: "ndarray", resamples: int) -> "ndarray":
    """Metric (models, resamples) of text, whole examples drawn; logits (models, examples, 2): sums of loss and hits."""
    import numpy as np

    found = []
    for drawn in _draws(rng, np.ones(len(labels), int), resamples):
        loss, hits = np.einsum("re,mes->smr", drawn.astype(float), logits[..., :2].astype(float))
        found.append(of_tokens(task.metrics[0], loss, hits, drawn @ labels))
    return np.concatenate(found, axis=1)


def _draws(rng: "Generator", counts: "ndarray", resamples: int) -> "Iterator[ndarray]":
    """How often each pattern was drawn, (resamples, patterns), in blocks."""
    block = max(1, BLOCK // len(counts))
    for start in range(0, resamples, block):
        yield rng.multinomial(counts.sum(), counts / counts.sum(), size=min(block, resamples - start))
