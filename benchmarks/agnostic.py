"""Smaller pretrained models made in several ways, compared on their corpus and fine-tuned on tasks.

    python -m benchmarks.agnostic --corpus ~/wikitext-2 --steps 150 --source ~/glue --tasks sst2 cola mrpc

`FAMILIES` are narrowed to every target of `prune.targets` in turn, `--steps` each; `RIVALS` are cut to the size of one
target at once and trained for as many steps as a family has had by then. What was measured is appended to the CSV
`--rows` as soon as it is there; a run that was stopped goes on after its last row. `--table` prints the rows again.
"""

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.budgets import fresh
from stages.corpora.blocks import read_blocks
from stages.corpora.corpus import Corpus
from stages.evaluate import measure
from stages.finetune import finetune
from stages.pack import pack
from stages.prepare import prepare
from stages.pretrain import pretrain
from stages.prune import prune
from stages.settings import Base, Data, Params, Prune, load
from stages.tracking import Run

FAMILIES: dict[str, dict[str, Any]] = {
    "iterative": {},
    "oneshot": {"schedule": "oneshot"},
    "random": {"importance": "random"},
}
_MAKD = {"kl": {}, "attention_kl": {}, "hidden": {}}
_NONE = dict.fromkeys(("hard", "kl", "attention_mse", "attention_kl", "hidden", "embedding", "matrices"))
_TWO = {"layers": "every", "depth": 2, "intermediate_size": 1144, "budget": 0.278}
RIVALS: dict[str, tuple[int, dict[str, Any]]] = {
    "distilbert": (1, {"start": _TWO, "objectives": _NONE | {"hard": {}, "kl": {}, "hidden_cosine": {}}}),
    "attention": (1, {"start": _TWO, "objectives": _NONE | {"hard": {}, "kl": {}, "attention_kl": {}}}),
    "minilmv2": (1, {"start": _TWO, "objectives": _NONE | {"hard": {}, "kl": {}, "relations": {}}}),
    "lowrank_makd": (1, {"start": {"budget": 0.278}, "objectives": _NONE | _MAKD | {"hard": {}, "matrices": {}}}),
    "minilmv2_narrow": (
        2,
        {
            "start": {"hidden_size": 192, "intermediate_size": 768, "budget": 0.251},
            "objectives": _NONE | {"hard": {}, "kl": {}, "relations": {}},
        },
    ),
}
"""Name -> the target whose size it has (from 1), for MiniLM, and what it changes in the block `prune`."""
COLUMNS = ["made", "model", "steps", "parameters", "layer_parameters", "measure", "value", "low", "high"]


def main() -> None:
    options = _options()
    if not options.table:
        _measure(options)
    print(table(options.rows))
    if options.plot:
        plot(options.work, options.plot)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    files = [Path("params.yaml"), Path("benchmarks/agnostic.yaml")]
    parser.add_argument("--params", type=Path, nargs="+", default=files, help="settings; later files over earlier ones")
    parser.add_argument("--corpus", default="bundled", help="text: data.corpora's source")
    parser.add_argument("--steps", type=int, default=150, help="for each target")
    parser.add_argument("--made", nargs="+", default=[*FAMILIES, *RIVALS], help="only these")
    parser.add_argument("--source", default="bundled", help="data.source of the tasks")
    parser.add_argument("--tasks", nargs="*", default=[], help="to fine-tune the models on")
    parser.add_argument("--examples", type=int, help="training examples of a task, drawn with the seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="models trained side by side; set OMP_NUM_THREADS too")
    parser.add_argument("--rows", type=Path, default=Path("docs/agnostic.csv"), help="CSV to append to")
    parser.add_argument("--work", type=Path, default=Path(".makd/agnostic"), help="folder for models")
    parser.add_argument("--table", action="store_true", help="only print the table of --rows")
    parser.add_argument("--plot", type=Path, help="also draw the discrepancy of the families to this file")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> None:
    """The teacher first, then all students, then each of them on each task."""
    params = load(*options.params)
    done = {(row["made"], row["model"], row["measure"]) for row in _read(options.rows)}
    _teacher(params, options)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [n for n in options.made if not any(n == made and what == "perplexity" for made, _, what in done)]
        _all(pool, [(_student, params, options, name) for name in waiting], options.rows)
        models = {(row["made"], row["model"]): row for row in _read(options.rows) if row["made"] in options.made}
        models |= {("whole", "teacher"): {"made": "whole", "model": "teacher", "steps": 0}}
        for task in options.tasks:
            _data(params, options, task)
        todo = [(task, row) for task in options.tasks for key, row in models.items() if (*key, task) not in done]
        _all(pool, [(_tuned, params, options, task, row) for task, row in todo], options.rows)


def _all(pool: ProcessPoolExecutor, jobs: list[tuple], rows: Path) -> None:
    for future in as_completed([pool.submit(*job) for job in jobs]):
        if error := future.exception():
            pool.shutdown(cancel_futures=True)
            raise error
        _append(rows, future.result())


def _teacher(params: Params, options: argparse.Namespace) -> None:
    common = {"seed": options.seed, "run": Run()}
    if not (options.work / "pack/data").exists():
        corpus = Corpus(source=options.corpus)
        output = fresh(options.work / "pack")
        pack(name="corpus", corpus=corpus, base=params.pretrain.base, settings=params.pack, output=output, **common)
    if not (options.work / "pretrain/model").exists():
        pretrain(params.pretrain, data=options.work / "pack/data", output=fresh(options.work / "pretrain"), **common)


def _student(params: Params, options: argparse.Namespace, name: str) -> list[dict]:
    """Corpus figures of what one way of pruning makes, the teacher's among them."""
    targets = len(params.prune.targets)
    parts, changes = (targets, FAMILIES[name]) if name in FAMILIES else RIVALS[name]
    data, output = options.work / "pack/data", fresh(options.work / name)
    per_epoch = -(-len(read_blocks(data, "train")) // params.prune.batch_size)
    often = {"epochs": parts * options.steps / per_epoch, "evaluations_per_epoch": -(-2 * per_epoch // options.steps)}
    settings = Prune.model_validate(params.prune.model_dump(exclude_unset=True) | often | changes)
    found = prune(
        settings, params.pack, data=data, teacher=options.work / "pretrain/model", output=output,
        state=output / "state", seed=options.seed, run=Run(),
    )  # fmt: skip
    made = [(model, row) for model, row in found.items() if model not in ("teacher", "training")]
    rows = []
    for part, (model, row) in enumerate(made, 1):
        steps = options.steps * (part if name in FAMILIES else parts)
        rows += [_row(name, model, steps, row, what, row[what]) for what in ("perplexity", "accuracy", "discrepancy")]
    whole = found["teacher"]
    return rows + [_row("whole", "teacher", 0, whole, what, whole[what]) for what in ("perplexity", "accuracy")]


def _data(params: Params, options: argparse.Namespace, task: str) -> None:
    place = options.work / task
    if not (place / "data").exists():
        prepare(
            name=task, task=params.task(task), data=Data(source=options.source), base=params.base, seed=options.seed,
            settings=params.prepare.model_copy(update={"train_examples": options.examples}), output=fresh(place),
            run=Run(),
        )  # fmt: skip


def _tuned(params: Params, options: argparse.Namespace, task: str, row: dict) -> list[dict]:
    """One pretrained model's score on one task; the teacher's is that of the model before any pruning."""
    data, made = options.work / task / "data", row["made"]
    folder = str(options.work / made / "models" / row["model"])
    base = params.base if made == "whole" else Base(model=folder)
    output = fresh(options.work / f"tuned/{task}-{made}-{row['model']}")
    finetune(params.finetune, base=base, data=data, output=output, state=output / "state", seed=options.seed, run=Run())
    title = f"{task} {made}"
    found = measure(params.evaluate, data=data, model=output / "model", seed=options.seed, title=title).row
    low, high = (f"{bound:.2f}" for bound in found["interval"])
    return [_row(made, row["model"], row["steps"], found, task, found["score"]) | {"low": low, "high": high}]


def _row(made: str, model: str, steps: int, sizes: dict, what: str, value: float) -> dict:
    counts = {name: sizes[name] for name in ("parameters", "layer_parameters")}
    return {"made": made, "model": model, "steps": steps, **counts, "measure": what, "value": f"{value:.4g}"}


def _read(rows: Path) -> list[dict]:
    return list(csv.DictReader(rows.open())) if rows.exists() else []


def _append(rows: Path, found: list[dict]) -> None:
    known = {(row["made"], row["model"], row["measure"]) for row in _read(rows)}
    new = not rows.exists()
    with rows.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        for row in found:
            if (row["made"], row["model"], row["measure"]) not in known:
                writer.writerow(row)
                print(row, flush=True)


def table(rows: Path) -> str:
    """Markdown: a row per model, large to small, a column per measure."""
    import pandas as pd
    from tabulate import tabulate

    frame = pd.read_csv(rows)
    sizes = frame[frame["measure"].isin(["perplexity"])].set_index(["made", "model"])[["steps", "parameters"]]
    values = frame.pivot(index=["made", "model"], columns="measure", values="value")
    order = [name for name in ("perplexity", "accuracy", "discrepancy") if name in values]
    order += [name for name in frame["measure"].unique() if name not in order]
    joined = sizes.join(values[order]).sort_values("parameters", ascending=False, kind="stable").reset_index()
    return tabulate(joined.astype(object).fillna(""), headers="keys", tablefmt="github", showindex=False)


def plot(work: Path, path: Path) -> None:
    """How far each family is from its teacher, on the batches it trains on and on validation blocks."""
    import pandas as pd
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = dict(zip(("loss/kl", "validation/discrepancy"), figure.subplots(1, 2, sharey=True), strict=True))
    for name in FAMILIES:
        history = pd.read_csv(work / name / "history.csv")
        for column, axes in panels.items():
            points = history[["step", column]].dropna()
            axes.plot(points["step"], points[column], marker="o" * ("validation" in column), label=name)
    for axes, title in zip(panels.values(), ("training batches", "validation blocks"), strict=True):
        axes.set(title=title, xlabel="step", ylim=(0, None))
    panels["loss/kl"].set_ylabel("KL(teacher, student), nats per token")
    panels["loss/kl"].legend()
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
