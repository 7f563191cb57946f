"""What the load consists of: real texts, in an order drawn with a seed."""

import random
from pathlib import Path

from serving.exported import ModelError

Texts = list[list[str]]
"""For each text its parts: one, or the two of a pair."""
OPENINGS = ("the film", "its plot", "a cast of strangers", "this third part of the series", "what begins as a comedy")
ENDINGS = ("is never dull", "could hardly be more tedious", "moves", "leaves nothing behind", "is a quiet pleasure")
FILLERS = ("for most of its length", "as it goes on", "to those who wait", "in spite of a thin script", "all in all")


def read_texts(path: Path | None, seed: int) -> Texts:
    """Texts from a file (one a line, a pair with a tab), from a folder that prepare wrote, or made-up ones.

    Raises:
        ModelError: there is no such file, or nothing in it.
    """
    if path is None:
        texts = _make_reviews()
    elif path.is_dir():
        texts = _read_split(path)
    else:
        texts = _read_lines(path)
    random.Random(seed).shuffle(texts)
    return texts


def _read_lines(path: Path) -> Texts:
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"--texts {path} cannot be read ({error}); give a UTF-8 file with one text a line") from error
    texts = [line.split("\t") for line in lines if line.strip()]
    if not texts or len({len(parts) for parts in texts}) > 1 or len(texts[0]) > 2:
        raise ModelError(f"--texts {path} must hold one text a line, or in every line two with a tab between them")
    return texts


def _read_split(folder: Path) -> Texts:
    from datasets import Dataset

    try:
        split = Dataset.load_from_disk(str(folder / "validation"))
    except OSError as error:
        raise ModelError(f"--texts {folder} is no folder that `prepare` wrote ({error})") from error
    columns = [name for name in ("text", "text_pair") if name in split.column_names] or ["prompt"]
    if columns[0] not in split.column_names:
        raise ModelError(f"--texts {folder} holds no texts (columns {', '.join(split.column_names)}); give a text file")
    return [list(parts) for parts in zip(*(split[name] for name in columns), strict=True)]


def _make_reviews() -> Texts:
    """125 reviews of 3 to about 60 words."""
    return [
        [" ".join([start, *FILLERS[:k] * (1 + i), end])]
        for i, start in enumerate(OPENINGS)
        for end in ENDINGS
        for k in range(5)
    ]
