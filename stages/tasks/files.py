"""One data file in, a table of columns out, every row with its line number in the file.

TSV is read without quoting, as the official GLUE files are written: a quotation mark is part of the text.
CSV is read with quoting. JSON is one object a line, or one list of objects. Text files are UTF-8.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from stages.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of equal length, and the line of each row."""

    origin: str
    """File (or data set) that the rows come from."""
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    """1-based line of each row; for Parquet and JSON lists, the number of the row."""
    unit: str = "line"

    def describe_row(self, row: int) -> str:
        """File and line of a row, to begin an error message with."""
        return f"{self.origin}, {self.unit} {self.lines[row]}"


def read_table(path: Path, names: Sequence[str] = (), drop_ragged: bool = False) -> Table:
    """The table in a file; its extension tells the format.

    Args:
        names: columns of a TSV file without a header line.
        drop_ragged: leave out TSV rows of a wrong width instead of refusing the file.

    Raises:
        BadInput: not UTF-8, broken JSON, CSV or Parquet, or a row of another width than the header.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path)
    text = _read_text(path)
    if path.suffix in (".json", ".jsonl"):
        parse = _parse_json_list if text.lstrip().startswith("[") else _parse_json_lines
        return _table_of_objects(path, *parse(path, text))
    rows = _parse_csv(path, text) if path.suffix == ".csv" else _parse_tsv(text)
    return _table_of_cells(path, rows, names, drop_ragged)


def _read_text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        start = raw.rfind(b"\n", 0, error.start) + 1
        line, place = raw.count(b"\n", 0, error.start) + 1, error.start - start + 1
        raise BadInput(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} at place {place} of the line is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def _parse_tsv(text: str) -> list[tuple[int, list[str]]]:
    # split("\n"), not splitlines(): the corpora hold U+0085 and U+2028 inside sentences
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line.split("\t")) for number, line in enumerate(lines, 1) if line]


def _parse_csv(path: Path, text: str) -> list[tuple[int, list[str]]]:
    reader, rows, start = csv.reader(io.StringIO(text, newline=""), strict=True), [], 1
    try:
        for cells in reader:
            if cells:
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(f"{path}, line {start}: not CSV ({error}); correct the quoting of that row") from None
    return rows


def _table_of_cells(path: Path, rows: list[tuple[int, list[str]]], names: Sequence[str], drop_ragged: bool) -> Table:
    headless = bool(rows and names) and not set(rows[0][1]) & set(names)
    header = list(names) if headless or not rows else [cell.strip() for cell in rows[0][1]]
    rows = rows if headless else rows[1:]
    for number, cells in rows:
        if len(cells) != len(header) and not drop_ragged:
            raise BadInput(
                f"{path}, line {number}: {len(cells)} cells where the header has {len(header)} "
                f"({', '.join(header)}); correct that row"
            )
    rows = [(number, cells) for number, cells in rows if len(cells) == len(header)]
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(header)}
    return Table(origin=str(path), columns=columns, lines=[number for number, _ in rows])


def _parse_json_lines(path: Path, text: str) -> tuple[list[Any], list[int], str]:
    values, numbers = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}, line {number}: not JSON ({error.msg}); write one object a line") from None
            numbers.append(number)
    return values, numbers, "line"


def _parse_json_list(path: Path, text: str) -> tuple[list[Any], Sequence[int], str]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}, line {error.lineno}: not JSON ({error.msg}); write a list of objects") from None
    return values, range(1, len(values) + 1), "row"


def _table_of_objects(path: Path, values: list[Any], lines: Sequence[int], unit: str) -> Table:
    for number, value in zip(lines, values, strict=True):
        if not isinstance(value, dict):
            raise BadInput(f"{path}, {unit} {number}: {value!r} is not an object of columns and values")
    names = dict.fromkeys(name for value in values for name in value)
    columns = {name: [value.get(name) for value in values] for name in names}
    return Table(origin=str(path), columns=columns, lines=lines, unit=unit)


def _read_parquet(path: Path) -> Table:
    try:
        table = pyarrow.parquet.read_table(path)
        columns = table.to_pydict()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as Parquet ({error}); write it again") from None
    return Table(origin=str(path), columns=columns, lines=range(1, table.num_rows + 1), unit="row")
