"""Every recipe at every budget on real tasks, with seeds: the tables of docs/results/retention.md.

    python -m benchmarks.budgets --source ~/glue --budgets 0.5 0.25 0.1 --seeds 1 2 3 --rows docs/results/retention.csv
    python -m benchmarks.budgets --params params.yaml benchmarks/language.yaml --model ~/stories260k --source ~/text \\
        --budgets 0.5 --seeds 1 2 3 --rows docs/results/divergences.csv --measures perplexity accuracy cr_1 cr_5 mor_10

Each seed has a teacher of its own. The main chain's blocks run as the recipe `makd` beside those that
`baseline.recipes` names. A row is appended to the CSV as soon as it is measured; a run that was stopped goes on after
its last row. The table, means over seeds, is printed at the end; `--table` prints it without running anything.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import add_training_options, make_parser
from benchmarks.rows import Row, append_row, make_pool, make_workspace, read_rows, run_jobs
from benchmarks.tables import format_changes, format_scores, plot_changes, plot_scores
from stages.baseline import make_baseline
from stages.evaluate import evaluate_model
from stages.finetune import finetune
from stages.prepare import prepare
from stages.schema.task import CausalLMTask
from stages.settings import Base, Data, Distill, Factorize, Params, read_params

COLUMNS = ["task", "seed", "budget", "recipe", "score", "low", "high", "retention", "agreement", "layer_parameters",
           "parameters", "macs_per_token", "seconds"]  # fmt: skip
LANGUAGE_COLUMNS = ["perplexity", "accuracy", "discrepancy", "cr_1", "cr_2", "cr_3", "cr_4", "cr_5",
                    "mor_3", "mor_5", "mor_10", "mor_20"]  # fmt: skip
"""Further columns of a new file for language models."""
MAIN_CHAIN = "makd"
"""The name under which the main chain's blocks run as a recipe."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    params = change_params(read_params(*options.params), options)
    if not options.table:
        measure_models(params, options)
    rows = [row for row in read_rows(options.rows) if not options.tasks or row["task"] in options.tasks]
    if options.table and options.recipes:
        rows = [row for row in rows if row["recipe"] in ("teacher", *options.recipes)]
    print(format_scores(rows, options.measures))
    if options.changed:
        print(format_changes(rows, options.measures, options.changed))
    if options.plot and options.changed:
        plot_changes(rows, options.measures, options.changed, options.plot)
    elif options.plot:
        plot_scores(rows, options.plot)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    add_training_options(parser, params="benchmarks/glue.yaml", rows="docs/results/retention.csv", work=".makd/budgets")
    parser.add_argument("--recipes", nargs="+", help="in place of `makd` and those of baseline.recipes (--table: all)")
    parser.add_argument("--model", help="base.model, in place of that in --params")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--tasks", nargs="+", help="in place of those in --params")
    parser.add_argument("--measures", nargs="+", help="columns of the table, in place of the score with its retention")
    parser.add_argument("--changed", help="also print what adding this does: recipes <x>_<this> less their <x>")
    parser.add_argument("--plot", type=Path, help="also draw score against budget, or --changed, to this file")
    return parser.parse_args(arguments)


def change_params(params: Params, options: argparse.Namespace) -> Params:
    """The settings with what the command line changes in them."""
    changes = {
        "data": Data(source=options.source, custom=params.data.custom),
        "base": Base(model=options.model) if options.model else params.base,
        "tasks": options.tasks or params.tasks,
        "prepare": params.prepare.model_copy(update={"train_examples": options.examples}),
    }
    return params.model_copy(update=changes)


def measure_models(params: Params, options: argparse.Namespace) -> None:
    """Measures what is not yet in the CSV: first the teachers, then all their students, several at a time."""
    known = {identify_row(row) for row in read_rows(options.rows)}
    teachers = [(params, task, seed, options) for seed in options.seeds for task in params.tasks]
    students = [
        (params, task, seed, options, budget, recipe)
        for _, task, seed, _ in teachers
        for budget in options.budgets
        for recipe in options.recipes or [MAIN_CHAIN, *params.baseline.recipes]
        if (task, str(seed), f"{budget:g}", recipe) not in known
    ]
    has_text = any(isinstance(params.get_task(name), CausalLMTask) for name in params.tasks)
    columns = COLUMNS + (LANGUAGE_COLUMNS if has_text else [])
    with make_pool(options.workers) as pool:
        add_rows(run_jobs(pool, measure_teacher, teachers), known, options.rows, columns)
        add_rows(run_jobs(pool, measure_student, students), known, options.rows, columns)


def add_rows(measured: Iterable[Row], known: set[tuple[str, ...]], path: Path, columns: list[str]) -> None:
    """Writes and prints each row that is not among the known ones, as soon as it is measured."""
    for row in measured:
        if identify_row(row) not in known:
            append_row(path, row, columns)
            print(json.dumps(row), flush=True)


def measure_teacher(params: Params, task: str, seed: int, options: argparse.Namespace) -> Row:
    """The teacher of a task and seed, trained unless an earlier run did so."""
    place, title = options.work / task / str(seed), f"{task} {seed}: teacher"
    data, teacher = place / "prepare/data", place / "finetune/model"
    if not data.exists():
        work = make_workspace(place / "prepare", seed)
        prepare(params.prepare, work, name=task, task=params.get_task(task), data=params.data, base=params.base)
    if not teacher.exists():
        work = make_workspace(place / "finetune", seed)
        finetune(params.finetune, work, base=params.base, data=data, title=title)
    evaluated = evaluate_model(params.evaluate, data=data, model=teacher, seed=seed, title=title)
    return {"task": task, "seed": seed, "budget": "1", "recipe": "teacher"} | list_figures(evaluated.row)


def measure_student(
    params: Params, task: str, seed: int, options: argparse.Namespace, budget: float, recipe: str
) -> Row:
    """The student of a recipe and budget."""
    place, name = options.work / task / str(seed), f"{recipe}-{budget:g}"
    student, training = resolve_blocks(params, recipe, budget)
    metrics = make_baseline(
        student,
        training,
        params.evaluate,
        make_workspace(place / name, seed),
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        title=f"{task} {seed}: {name}",
    )
    row = {"task": task, "seed": seed, "budget": f"{budget:g}", "recipe": recipe}
    return row | list_figures(metrics["student"]) | {"seconds": round(metrics["seconds"])}


def resolve_blocks(params: Params, recipe: str, budget: float) -> tuple[Factorize, Distill | None]:
    """What makes a recipe's student at a budget."""
    blocks = (params.factorize, params.distill) if recipe == MAIN_CHAIN else params.resolve_recipe(recipe)
    return blocks[0].model_copy(update={"budget": budget}), blocks[1]


def list_figures(evaluated: dict[str, Any]) -> Row:
    """The numbers among a model's scores and sizes, by column."""
    low, high = evaluated["interval"]
    figures = evaluated["metrics"] | evaluated | {"low": low, "high": high}
    return {name: round(value, 3) for name, value in figures.items() if isinstance(value, int | float)}


def identify_row(row: Row) -> tuple[str, ...]:
    """What a row is of."""
    return row["task"], str(row["seed"]), str(row["budget"]), row["recipe"]


if __name__ == "__main__":
    main()
