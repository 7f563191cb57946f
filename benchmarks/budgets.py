"""Score against size on real tasks: every recipe at every budget, with seeds; the table of docs/results.md.

    python -m benchmarks.budgets --source ~/glue --budgets 0.5 0.25 0.1 --seeds 1 2 3 --rows docs/results.csv

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

from stages.baseline import baseline
from stages.evaluate import measure
from stages.finetune import finetune
from stages.prepare import prepare
from stages.settings import Data, Distill, Factorize, Params, load
from stages.tracking import Run

COLUMNS = ["task", "seed", "budget", "recipe", "score", "low", "high", "retention", "agreement", "layer_parameters",
           "parameters", "macs_per_token", "seconds"]  # fmt: skip


def main() -> None:
    options = _options()
    params = load(*options.params)
    params = params.model_copy(
        update={
            "data": Data(source=options.source, custom=params.data.custom),
            "tasks": options.tasks or params.tasks,
            "prepare": params.prepare.model_copy(update={"train_examples": options.examples}),
        }
    )
    done = {_key(row) for row in _read(options.rows)}
    if not options.table:
        _measure(params, options, done)
    rows = _read(options.rows)
    if options.table and options.recipes:
        rows = [row for row in rows if row["recipe"] in ("teacher", *options.recipes)]
    print(table(rows))
    if options.plot:
        plot(rows, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = [Path("params.yaml"), Path("benchmarks/glue.yaml")]
    parser.add_argument("--params", type=Path, nargs="+", default=files, help="settings; later files over earlier ones")
    parser.add_argument("--recipes", nargs="+", help="in place of `makd` and those of baseline.recipes (--table: all)")
    parser.add_argument("--source", default="bundled", help="data.source: bundled, hub or a folder")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--tasks", nargs="+", help="in place of those in --params")
    parser.add_argument("--examples", type=int, help="training examples, drawn with the seed; all without it")
    parser.add_argument("--workers", type=int, default=1, help="models trained side by side; set OMP_NUM_THREADS too")
    parser.add_argument("--rows", type=Path, default=Path("docs/results.csv"), help="CSV to append to")
    parser.add_argument("--work", type=Path, default=Path(".makd/budgets"), help="folder for models")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")
    parser.add_argument("--plot", type=Path, help="also draw score against budget to this file")
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
    with ProcessPoolExecutor(options.workers, **fresh) as pool:
        for work, jobs in ((_teacher, teachers), (_student, students)):
            for future in as_completed([pool.submit(work, *job) for job in jobs]):
                if error := future.exception():
                    pool.shutdown(cancel_futures=True)
                    raise error
                if _key(row := future.result()) not in done:
                    _append(options.rows, row)


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
    figures = {name: found[name] for name in COLUMNS if name in found} | dict(
        zip(("low", "high"), found["interval"], strict=True)
    )
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in figures.items()}


def _key(row: dict) -> tuple:
    return row["task"], str(row["seed"]), str(row["budget"]), row["recipe"]


def _read(rows: Path) -> list[dict]:
    return list(csv.DictReader(rows.open())) if rows.exists() else []


def _append(rows: Path, row: dict) -> None:
    new = not rows.exists()
    rows.parent.mkdir(parents=True, exist_ok=True)
    with rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(json.dumps(row), flush=True)


def table(rows: list[dict]) -> str:
    """Markdown: a row per budget and recipe, a column per task: mean ± standard deviation over seeds, and retention.

    Within a budget by the first task's retention, the best first.
    """
    import pandas as pd
    from tabulate import tabulate

    frame = pd.DataFrame(rows)
    numbers = ["budget", "score", "retention", "low", "high"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    lines = []
    for (budget, recipe), group in frame.groupby(["budget", "recipe"], sort=False):
        kept = group[group["task"] == frame["task"].iloc[0]]["retention"].mean()
        line = {"budget": f"{budget:g}", "kept": kept, "student": recipe}
        for task in frame["task"].unique():
            line[task] = _cell(group[group["task"] == task])
        lines.append(line)
    lines.sort(key=lambda line: (-float(line["budget"]), -line.pop("kept")))
    return tabulate(lines, headers="keys", tablefmt="github", disable_numparse=True)


def _cell(found) -> str:
    if found.empty:
        return ""
    spread = f" ± {found['score'].std():.1f}" if len(found) > 1 else ""
    kept = f" ({found['retention'].mean():.1f} %)" if found["retention"].notna().any() else ""
    return f"{found['score'].mean():.1f}{spread}{kept}"


def plot(rows: list[dict], path: Path) -> None:
    """Score against budget: a panel per task, a line per recipe (mean over seeds), the teacher as a level."""
    import pandas as pd
    from matplotlib.figure import Figure

    frame = pd.DataFrame(rows).astype({"budget": float, "score": float})
    tasks = list(frame["task"].unique())
    colors = {recipe: f"C{i}" for i, recipe in enumerate(r for r in frame["recipe"].unique() if r != "teacher")}
    figure = Figure(figsize=(4.6 * len(tasks), 3.8), layout="constrained")
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        means = frame[frame["task"] == task].groupby(["recipe", "budget"], sort=False)["score"].mean()
        axis.axhline(means["teacher"].iloc[0], color="gray", ls="--", label="teacher")
        for recipe in [r for r in means.index.unique("recipe") if r != "teacher"]:
            line = means[recipe].sort_index()
            axis.plot(line.index, line, marker="o", color=colors[recipe], label=recipe)
        axis.set(title=task, xlabel="budget (share of layer parameters)", xlim=(0, None))
    figure.axes[0].set_ylabel("score, points")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
