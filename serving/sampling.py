"""Which token comes next: the likeliest, or one drawn from a distribution cut to what is likely."""

from dataclasses import dataclass

import numpy as np

from serving.exported import ModelError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text goes on, and where it ends.

    Raises:
        ModelError: a value out of range.
    """

    max_tokens: int = 128
    """Most tokens to write; fewer where the model can read no more."""
    temperature: float = 0.0
    """Logits are divided by it before a token is drawn; 0 (or below 1e-5) takes the likeliest (greedy)."""
    top_k: int = 0
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest likeliest tokens that hold this probability together (nucleus; Holtzman et al. 2020)."""
    seed: int | None = None
    """The same seed draws the same tokens; None: others each time."""
    stop: tuple[str, ...] = ()
    """Tokens that end a text, beside those that the model names, such as `<|im_end|>`."""

    def __post_init__(self) -> None:
        allowed = {
            "max_tokens": (self.max_tokens >= 1, "1 or more"),
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and up to 1"),
            "seed": (self.seed is None or self.seed >= 0, "None, or 0 or more"),
        }
        for name, (fits, wanted) in allowed.items():
            if not fits:
                raise ModelError(f"{name} {getattr(self, name)} cannot be; give {wanted}")

    def generators(self, rows: int) -> list[np.random.Generator]:
        """One per row, so that what a row draws does not hang on its neighbors."""
        return [np.random.default_rng(seed) for seed in np.random.SeedSequence(self.seed).spawn(rows)]

    def choose(self, logits: np.ndarray, generators: list[np.random.Generator]) -> list[int]:
        """One token per row; logits (rows, vocabulary)."""
        if self.temperature < 1e-5:
            return logits.argmax(-1).tolist()
        shares = self.shares(logits)
        return [int(rng.choice(len(row), p=row)) for row, rng in zip(shares, generators, strict=True)]

    def shares(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities to draw by, (rows, vocabulary) float64: tempered, then cut by top_k, then by top_p."""
        logits = logits.astype(np.float64) / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            least = np.partition(logits, -self.top_k, axis=-1)[:, -self.top_k, None]
            logits = np.where(logits < least, -np.inf, logits)
        shares = _softmax(logits)
        if self.top_p < 1:
            order = np.argsort(-shares, axis=-1, kind="stable")
            ranked = np.take_along_axis(shares, order, axis=-1)
            ranked[ranked.cumsum(-1) - ranked >= self.top_p] = 0  # what stands before holds enough already
            np.put_along_axis(shares, order, ranked, axis=-1)
        return shares / shares.sum(-1, keepdims=True)


def _softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)
