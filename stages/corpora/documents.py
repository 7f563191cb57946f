"""A corpus in, its documents out one by one: only the document at hand is in memory.

corpus.txt | .tokens | .jsonl | .parquet | .csv         one file
<folder>/wiki.train.tokens, wiki.valid.tokens           the split is a word of the name
<folder>/part-0.parquet, part-1.parquet, ...            no such words: all of it is train
owner/name, owner/name:config                           the hub, streamed
<folder>/data/train-00000-of-00002.parquet, ...         a data set of the hub in a local folder; or <folder>:config
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import get_dataset_split_names, load_dataset

from stages.errors import BadInput
from stages.schema.corpus import Corpus
from stages.tasks.bundled import read_bundled
from stages.tasks.files import read_table

FORMATS = (".txt", ".tokens", ".jsonl", ".parquet", ".csv")
WORDS = {"train": {"train"}, "validation": {"valid", "validation", "dev"}, "test": {"test"}}
HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
HEADING = re.compile(r" = [^=].* = ")
Row = tuple[str, dict[str, Any]]
"""File and line of a row, to begin an error message with, and its columns."""


def read_documents(corpus: Corpus, row: str, source: str = "") -> dict[str, Iterator[str]]:
    """The texts of `train` and, where the corpus has one, of `validation`; read as they are consumed.

    Args:
        row: the setting that describes the corpus, such as `data.corpora.wiki`; what an error says to change.
        source: the setting of its source, if not `<row>.source`.

    Raises:
        BadInput: no such file, folder or data set, or nothing in it to train on; while reading, text that is not UTF-8,
            a broken row, or one without the column.
    """
    splits = _read_source(corpus, row, source or f"{row}.source")
    if corpus.validation:
        files = _list_files(corpus.validation, f"{row}.validation")
        splits["validation"] = _read_texts(files, corpus, row)
    return splits


def _read_source(corpus: Corpus, row: str, setting: str) -> dict[str, Iterator[str]]:
    if corpus.source == "bundled":
        return {split: iter(table.columns["sentence"]) for split, table in read_bundled().items()}
    if data_set := _find_data_set(corpus.source):
        return _read_hub(*data_set, corpus.text, row, setting)
    splits = _split_files(_list_files(corpus.source, setting))
    if "train" not in splits:
        raise BadInput(f"{setting} {corpus.source} has text for validation and test only; add a file to train on")
    return {split: _read_texts(files, corpus, row) for split, files in splits.items()}


def _find_data_set(source: str) -> tuple[str, str | None] | None:
    """Name and configuration of a data set of the hub: there, or in a folder, with tables in its own folders alone."""
    place = Path(source).expanduser()
    name, _, config = (str(place), "", "") if place.exists() else str(place).partition(":")
    if (folder := Path(name)).is_dir():
        found = not any(path.suffix in FORMATS for path in folder.iterdir())
        found = found and any(path.suffix in ROWS for path in folder.glob("*/*"))
    else:
        found = not place.exists() and place.suffix not in FORMATS and bool(HUB.fullmatch(source))
    return (name, config or None) if found else None


def _list_files(source: str, setting: str) -> list[Path]:
    place = Path(source).expanduser()
    if not place.exists():
        raise BadInput(f"{setting} {place} does not exist; give a file, a folder, or for a source a hub id")
    found = sorted(path for path in (place.iterdir() if place.is_dir() else [place]) if path.suffix in FORMATS)
    if not found:
        raise BadInput(f"{setting} {place} is no text that can be read; give a file that ends in {', '.join(FORMATS)}")
    return found


def _split_files(files: list[Path]) -> dict[str, list[Path]]:
    """Files by split; a single file is train whatever its name, and one that says nothing is where none says train."""
    if len(files) == 1:
        return {"train": files}
    found: dict[str, list[Path]] = {}
    for path in files:
        words = set(re.split(r"[^a-z]+", path.stem.lower()))
        split = next((split for split, marks in WORDS.items() if words & marks), "other")
        found.setdefault(split, []).append(path)
    found.setdefault("train", found.get("other", []))
    return {split: found[split] for split in ("train", "validation") if found.get(split)}


def _read_texts(files: list[Path], corpus: Corpus, row: str) -> Iterator[str]:
    for path in files:
        if path.suffix in (".txt", ".tokens"):
            yield from DOCUMENTS[corpus.documents](text for _, text in _read_lines(path))
        else:
            yield from _select_column(ROWS[path.suffix](path, corpus.text), corpus.text, row)


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines, from 1, without their ends."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                text = raw.decode("utf8")
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{path}, line {number}: byte 0x{raw[error.start]:02x} at place {error.start + 1} of the line is "
                    "not UTF-8; save the file as UTF-8"
                ) from None
            yield number, text.removeprefix("\ufeff").rstrip("\r\n")


def _documents_by_line(lines: Iterable[str]) -> Iterator[str]:
    return (line.strip() for line in lines if line.strip())


def _documents_by_blank_line(lines: Iterable[str]) -> Iterator[str]:
    for full, group in groupby(map(str.strip, lines), key=bool):
        if full:
            yield "\n".join(group)


def _documents_by_article(lines: Iterable[str]) -> Iterator[str]:
    article: list[str] = []
    before = ""
    for line, after in pairwise(chain(lines, [""])):
        # the blank lines tell a title from a row of a table: ` = Goals ; A = `
        if article and HEADING.fullmatch(line) and not before.strip() and not after.strip():
            yield "\n".join(article)
            article = []
        if line.strip():
            article.append(line.strip())
        before = line
    if article:
        yield "\n".join(article)


DOCUMENTS: dict[str, Callable[[Iterable[str]], Iterator[str]]] = {
    "lines": _documents_by_line,
    "blank_lines": _documents_by_blank_line,
    "articles": _documents_by_article,
}


def _read_jsonl(path: Path, column: str) -> Iterator[Row]:
    for number, line in _read_lines(path):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number}: not JSON ({error.msg}); write one object a line") from None
            if not isinstance(value, dict):
                raise BadInput(f"{path}, line {number}: {value!r:.50} is not an object of columns and values")
            yield f"{path}, line {number}", value


def _read_parquet(path: Path, column: str) -> Iterator[Row]:
    done = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            wanted = [column] if column in file.schema_arrow.names else None  # all, to name them
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for number, row in enumerate(batch.to_pylist(), done + 1):
                    yield f"{path}, row {number}", row
                done += batch.num_rows
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as Parquet ({error}); write it again") from None


def _read_csv(path: Path, column: str) -> Iterator[Row]:
    table = read_table(path)
    for number, cells in enumerate(zip(*table.columns.values(), strict=True)):
        yield table.describe_row(number), dict(zip(table.columns, cells, strict=True))


ROWS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}


def _read_hub(name: str, config: str | None, column: str, row: str, setting: str) -> dict[str, Iterator[str]]:
    try:
        names = get_dataset_split_names(name, config)
        if "train" not in names:
            raise ValueError(f"its splits are {', '.join(names)}, and none is train")
        found = [split for split in ("train", "validation") if split in names]
        splits = {split: load_dataset(name, config, split=split, streaming=True) for split in found}
    except (OSError, ValueError) as error:  # ConnectionError and the hub's own errors are OSErrors
        reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        here = Path(name).is_dir()
        what = (
            "cannot be loaded as a data set" if here else "is no file or folder here and cannot be loaded from the hub"
        )
        raise BadInput(
            f"{setting} {name} {what} ({reason}); give a file, a folder or a hub id, with its configuration "
            "behind a colon where it has several"
        ) from error
    return {split: _select_column(_number_rows(split, rows), column, row) for split, rows in splits.items()}


def _number_rows(split: str, rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    return ((f"{split}, row {number}", row) for number, row in enumerate(rows, 1))


def _select_column(rows: Iterable[Row], column: str, setting: str) -> Iterator[str]:
    for where, row in rows:
        if column not in row:
            found = ", ".join(row) or "nothing"
            raise BadInput(f"{where}: no column `{column}`, but {found}; set {setting}.text")
        if not isinstance(row[column], str):
            raise BadInput(f"{where}: {column} is {row[column]!r:.50} and not a text; correct that row")
        if row[column].strip():
            yield row[column]
