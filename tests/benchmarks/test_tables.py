"""The arithmetic of the published tables, and the CSV files that they are made of."""

import csv
from pathlib import Path

import pytest

from benchmarks.rows import Row, append_row, make_workspace, read_rows
from benchmarks.tables import format_changes, format_scores, plot_changes, plot_scores


def make_score_rows() -> list[Row]:
    """Two seeds of a teacher and of one student, as a CSV file gives them."""
    cells = [("1", "teacher", 1, 80, ""), ("1", "teacher", 2, 90, "")]
    cells += [("0.5", "makd", 1, 78, "97.5"), ("0.5", "makd", 2, 84, "93.3")]
    return [
        {
            "task": "sst2",
            "budget": budget,
            "recipe": recipe,
            "seed": seed,
            "score": str(score),
            "retention": retention,
            "low": "",
            "high": "",
        }
        for budget, recipe, seed, score, retention in cells
    ]


def make_language_rows() -> list[Row]:
    """Two seeds of a student with and without ranking."""
    cells = [("kl", 1, 5.0, 60), ("kl", 2, 6.0, 62), ("kl_ranking", 1, 5.5, 61), ("kl_ranking", 2, 6.1, 64)]
    known = {"task": "stories", "budget": "0.5", "retention": "90"}
    return [known | {"recipe": r, "seed": s, "perplexity": p, "cr_1": c} for r, s, p, c in cells]


def read_cells(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table, row by row."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]


def test_scores_have_mean_spread_and_retention(tmp_path: Path) -> None:
    cells = read_cells(format_scores(make_score_rows()))
    assert cells[2] == ["1", "teacher", "85.0 ± 7.1"]
    assert cells[3] == ["0.5", "makd", "81.0 ± 4.2 (95.4 %)"]
    plot_scores(make_score_rows(), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_students_are_listed_by_budget_and_retention() -> None:
    rows = make_score_rows()
    rows += [row | {"recipe": "svd", "retention": "99"} for row in rows if row["recipe"] == "makd"]
    rows += [row | {"budget": "0.75"} for row in rows if row["recipe"] == "makd"]
    cells = read_cells(format_scores(rows))
    assert [row[:2] for row in cells[2:]] == [["1", "teacher"], ["0.75", "makd"], ["0.5", "svd"], ["0.5", "makd"]]


def test_a_table_of_measures_has_a_column_for_each() -> None:
    cells = read_cells(format_scores(make_language_rows(), ["perplexity", "cr_1"]))
    assert cells[0] == ["budget", "student", "perplexity", "cr_1"]
    assert cells[2] == ["0.5", "kl", "5.50 ± 0.71", "61.00 ± 1.41"]


def test_changes_by_ranking_are_taken_seed_by_seed(tmp_path: Path) -> None:
    cells = read_cells(format_changes(make_language_rows(), ["perplexity", "cr_1"], "ranking"))
    assert cells[2:] == [["kl", "+0.30 ± 0.28", "+1.50 ± 0.71"]]
    plot_changes(make_language_rows(), ["perplexity", "cr_1"], "ranking", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


@pytest.mark.parametrize("folder", ["", "results"])
def test_rows_go_into_the_columns_of_the_file(tmp_path: Path, folder: str) -> None:
    file, row = tmp_path / folder / "rows.csv", {"task": "stories", "seed": 1, "score": 50.0, "cr_1": 60.0}
    assert read_rows(file) == []
    append_row(file, row, ["task", "seed", "score"])
    append_row(file, row | {"seed": 2}, ["task", "seed", "score", "cr_1"])
    with file.open() as opened:
        assert list(csv.reader(opened)) == [
            ["task", "seed", "score"],
            ["stories", "1", "50.0"],
            ["stories", "2", "50.0"],
        ]
    assert [row["seed"] for row in read_rows(file)] == ["1", "2"]


def test_a_workspace_keeps_checkpoints_alone(tmp_path: Path) -> None:
    for name in ("state", "model"):
        (tmp_path / name).mkdir()
    work = make_workspace(tmp_path, seed=3)
    assert (work.output, work.state, work.seed) == (tmp_path, tmp_path / "state", 3)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
