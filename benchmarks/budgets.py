"""Every recipe at every budget on real tasks, with seeds; the tables of docs/results.md.

    python -m benchmarks.budgets --source ~/glue --budgets 0.5 0.25 0.1 --seeds 1 2 3 --rows docs/results.csv
    python -m benchmarks.budgets --params params.yaml benchmarks/language.yaml --model ~/stories260k --source ~/text \\
        --budgets 0.5 --seeds 1 2 3 --rows docs/language.csv --measures perplexity accuracy cr_1 cr_5 mor_10

Each seed has a teacher of its own. The main chain's blocks run as the recipe `makd` beside those that
`baseline.recipes` names. A row is appended to the CSV as soon as it is measured; a run that was stopped goes on after
its last row. The table, means over seeds, is printed at the end; `--table` prints it without running anything.
"""

import argparse
import csv
import json
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.tables import changes, plot, plot_changes, table
from stages.baseline import baseline
from stages.evaluate import measure
from stages.finetune import finetune
from stages.prepare import prepare
from stages.settings import Base, Data, Distill, Factorize, Params, load
from stages.tracking import Run

COLUMNS = ["task", "seed", "budget", "recipe", "score", "low", "high", "retention", "agreement", "layer_parameters",
           "parameters", "macs_per_token", "seconds"]  # fmt: skip
OF_TEXT = ["perplexity", "accuracy", "discrepancy", "cr_1", "cr_2", "cr_3", "cr_4", "cr_5",
           "mor_3", "mor_5", "mor_10", "mor_20"]  # fmt: skip
"""Further columns of a new file for language models."""


def main() -> None:
    options = _options()
    params = load(*options.params)
    params = params.model_copy(
        update={
            "data": Data(source=options.source, custom=params.data.custom),
            "base": Base(model=options.model) if options.model else params.base,
            "tasks": options.tasks or params.tasks,
            "prepare": params.prepare.model_copy(update={"train_examples": options.examples}),
        }
    )
    done = {_key(row) for row in _read(options.rows)}
    if not options.table:
        _measure(params, options, done)
    rows = [row for row in _read(options.rows) if not options.tasks or row["task"] in options.tasks]
    if options.table and options.recipes:
        rows = [row for row in rows if row["recipe"] in ("teacher", *options.recipes)]
    print(table(rows, options.measures))
    if options.changed:
        print(changes(rows, options.measures, options.changed))
    if options.plot and options.changed:
        plot_changes(rows, options.measures, options.changed, options.plot)
    elif options.plot:
        plot(rows, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = [Path("params.yaml"), Path("benchmarks/glue.yaml")]
    parser.add_argument("--params", type=Path, nargs="+", default=files, help="settings; later files over earlier ones")
    parser.add_argument("--recipes", nargs="+", help="in place of `makd` and those of baseline.recipes (--table: all)")
    parser.add_argument("--model", help="base.model, in place of that in --params")
    parser.add_argument("--source", default="bundled", help="data.source: bundled, hub or a folder")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--tasks", nargs="+", help="in place of those in --params")
    parser.add_argument("--examples", type=int, help="training examples, drawn with the seed; all without it")
    parser.add_argument("--workers", type=int, default=1, help="models trained side by side; set OMP_NUM_THREADS too")
    parser.add_argument("--rows", type=Path, default=Path("docs/results.csv"), help="CSV to append to")
    parser.add_argument("--work", type=Path, default=Path(".makd/budgets"), help="folder for models")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")
    parser.add_argument("--measures", nargs="+", help="columns of the table, in place of the score with its retention")
    parser.add_argument("--changed", help="also print what adding this does: recipes <x>_<this> less their <x>")
    parser.add_argument("--plot", type=Path, help="also draw score against budget, or --changed, to this file")
    return parser.parse_args()


def _measure(params: Params, options: argparse.Namespace, done: set) -> None:
    """Measures what is not yet in the CSV: first the teachers, then all students of theirs, several at a time."""
    teachers = [(params, task, seed, options) for seed in options.seeds for task in params.tasks]
    students = [
        (params, task, seed, options, budget, recipe)
        for _, task, seed, _ in teachers
        for budget in options.budgets
        for recipe in options.recipes or ["makd", *params.baseline.recipes]
        if (task, str(seed), f"{budget:g}", recipe) not in done
    ]
    fresh = {"mp_context": get_context("spawn"), "max_tasks_per_child": 1}  # a process keeps what its models needed
    text = OF_TEXT if any(params.task(name).kind == "causal_lm" for name in params.tasks) else []
    with ProcessPoolExecutor(options.workers, **fresh) as pool:
        for work, jobs in ((_teacher, teachers), (_student, students)):
            for future in as_completed([pool.submit(work, *job) for job in jobs]):
                if error := future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise error
                if _key(row := future.result()) not in done:
                    append(options.rows, row, COLUMNS + text)


def _teacher(params: Params, task: str, seed: int, options: argparse.Namespace) -> dict:
    place = options.work / task / str(seed)
    data, teacher = place / "prepare/data", place / "finetune/model"
    common = {"seed": seed, "run": Run()}
    if not data.exists():
        prepare(
            name=task, task=params.task(task), data=params.data, base=params.base, settings=params.prepare,
            output=fresh(place / "prepare"), **common,
        )  # fmt: skip
    if not teacher.exists():
        output, state = fresh(place / "finetune"), place / "state"
        finetune(params.finetune, base=params.base, data=data, output=output, state=state, **common)
    found = measure(params.evaluate, data=data, model=teacher, seed=seed, title="teacher").row
    return {"task": task, "seed": seed, "budget": "1", "recipe": "teacher"} | _figures(found)


def _student(params: Params, task: str, seed: int, options: argparse.Namespace, budget: float, recipe: str) -> dict:
    place = options.work / task / str(seed)
    student, training = _blocks(params, recipe, budget)
    output = fresh(place / f"{recipe}-{budget:g}")
    found = baseline(
        student, training, params.evaluate, data=place / "prepare/data", teacher=place / "finetune/model",
        output=output, state=output / "state", seed=seed, run=Run(),
    )  # fmt: skip
    row = {"task": task, "seed": seed, "budget": f"{budget:g}", "recipe": recipe}
    return row | _figures(found["student"]) | {"seconds": round(found["seconds"])}


def _blocks(params: Params, recipe: str, budget: float) -> tuple[Factorize, Distill | None]:
    blocks = (params.factorize, params.distill) if recipe == "makd" else params.recipe(recipe)
    return blocks[0].model_copy(update={"budget": budget}), blocks[1]


def fresh(folder: Path) -> Path:
    """Without what a run that was stopped left there, but for its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "state":
            shutil.rmtree(entry)
    return folder


def _figures(found: dict) -> dict:
    low, high = found["interval"]
    figures = found["metrics"] | found | {"low": low, "high": high}
    return {name: round(value, 3) for name, value in figures.items() if isinstance(value, int | float)}


def _key(row: dict) -> tuple:
    return row["task"], str(row["seed"]), str(row["budget"]), row["recipe"]


def _read(rows: Path) -> list[dict]:
    return list(csv.DictReader(rows.open())) if rows.exists() else []


def append(rows: Path, row: dict, columns: list[str]) -> None:
    """One more row, in the columns of the file; of a new file, in these."""
    known = _read(rows)
    rows.parent.mkdir(parents=True, exist_ok=True)
    with rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(known[0]) if known else columns, restval="", extrasaction="ignore")
        if not known:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
