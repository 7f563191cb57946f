"""Smaller pretrained models made by several methods, compared on their corpus and fine-tuned on tasks.

    python -m benchmarks.agnostic --corpus ~/wikitext-2 --steps 150 --source ~/glue --tasks sst2 cola mrpc

`FAMILIES` are narrowed to every target of `prune.targets` in turn, `--steps` each; `BASELINES` are cut to the size of
one target at once and trained for as many steps as a family has had by then. A row is appended to the CSV `--rows` as
soon as it is measured; a run that was stopped goes on after its last row. `--table` prints the rows again.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import add_training_options, make_parser
from benchmarks.rows import Row, append_row, make_pool, make_workspace, read_rows, run_jobs
from stages.corpora.blocks import read_blocks
from stages.evaluate import evaluate_model
from stages.finetune import finetune
from stages.pack import pack
from stages.prepare import prepare
from stages.pretrain import pretrain
from stages.prune import prune
from stages.schema.corpus import Corpus
from stages.settings import Base, Data, Params, Prune, read_params

FAMILIES: dict[str, dict[str, Any]] = {
    "iterative": {},
    "oneshot": {"schedule": "oneshot"},
    "random": {"importance": "random"},
}
"""Method -> what it changes in the block `prune`."""
_TWO_LAYERS = {"layers": "every", "depth": 2, "intermediate_size": 1144, "budget": 0.278}
_NARROW = {"hidden_size": 192, "intermediate_size": 768, "budget": 0.251}
_RELATIONS: dict[str, Any] = {"hard": {}, "kl": {}, "relations": {}}
_MAKD: dict[str, Any] = {"hard": {}, "kl": {}, "attention_kl": {}, "hidden": {}, "matrices": {}}
BASELINES: dict[str, tuple[int, dict[str, Any]]] = {
    "distilbert": (1, {"factorize": _TWO_LAYERS, "objectives": {"hard": {}, "kl": {}, "hidden_cosine": {}}}),
    "attention": (1, {"factorize": _TWO_LAYERS, "objectives": {"hard": {}, "kl": {}, "attention_kl": {}}}),
    "minilmv2": (1, {"factorize": _TWO_LAYERS, "objectives": _RELATIONS}),
    "lowrank_makd": (1, {"factorize": {"budget": 0.278}, "objectives": _MAKD}),
    "minilmv2_narrow": (2, {"factorize": _NARROW, "objectives": _RELATIONS}),
}
"""Method -> the target whose size it has (from 1), for MiniLM, and what it changes in the block `prune`."""
COLUMNS = ["method", "model", "steps", "parameters", "layer_parameters", "measure", "value", "low", "high"]
TEACHER = ("whole", "teacher")
"""Method and model of the rows of the model before any pruning."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    if not options.table:
        measure_models(read_params(*options.params), options)
    print(format_table(options.rows))
    if options.plot:
        plot_discrepancy(options.work, options.plot)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    add_training_options(
        parser, params="benchmarks/agnostic.yaml", rows="docs/results/pruning.csv", work=".makd/agnostic"
    )
    methods = [*FAMILIES, *BASELINES]
    parser.add_argument("--corpus", default="bundled", help="text: data.corpora's source")
    parser.add_argument("--steps", type=int, default=150, help="for each target")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods, help="only these")
    parser.add_argument("--tasks", nargs="*", default=[], help="to fine-tune the models on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="also draw the discrepancy of the families to this file")
    return parser.parse_args(arguments)


def measure_models(params: Params, options: argparse.Namespace) -> None:
    """The teacher first, then all students, then each of them on each task."""
    known = {identify_row(row) for row in read_rows(options.rows)}
    pruned = {method for method, _, measure in known if measure == "perplexity"}
    make_teacher(params, options)
    with make_pool(options.workers) as pool:
        jobs: list[tuple[Any, ...]] = [(params, options, method) for method in options.methods if method not in pruned]
        add_rows(options.rows, run_jobs(pool, measure_students, jobs))
        models = {
            (row["method"], row["model"]): row for row in read_rows(options.rows) if row["method"] in options.methods
        }
        models[TEACHER] = {"method": TEACHER[0], "model": TEACHER[1], "steps": 0}
        for task in options.tasks:
            prepare_task(params, options, task)
        pairs = [(task, row) for task in options.tasks for key, row in models.items() if (*key, task) not in known]
        add_rows(options.rows, run_jobs(pool, finetune_model, [(params, options, *pair) for pair in pairs]))


def add_rows(path: Path, measured: Iterable[list[Row]]) -> None:
    """Writes and prints those rows that the file has not yet, as soon as they are measured."""
    for rows in measured:
        known = {identify_row(row) for row in read_rows(path)}
        for row in rows:
            if identify_row(row) not in known:
                append_row(path, row, COLUMNS)
                print(row, flush=True)


def make_teacher(params: Params, options: argparse.Namespace) -> None:
    """The packed corpus and its masked-LM teacher, unless an earlier run wrote them."""
    corpus, data = Corpus(source=options.corpus), options.work / "pack/data"
    if not data.exists():
        work = make_workspace(options.work / "pack", options.seed)
        pack(params.pack, work, name="corpus", corpus=corpus, base=params.pretrain.base)
    if not (options.work / "pretrain/model").exists():
        work = make_workspace(options.work / "pretrain", options.seed)
        pretrain(params.pretrain, work, corpus=corpus, data=data)


def measure_students(params: Params, options: argparse.Namespace, method: str) -> list[Row]:
    """Makes a method's models; rows of their figures on the corpus, with the teacher's."""
    is_family = method in FAMILIES
    parts, changes = (len(params.prune.targets), FAMILIES[method]) if is_family else BASELINES[method]
    data = options.work / "pack/data"
    per_epoch = -(-len(read_blocks(data, "train")) // params.prune.batch_size)
    length = {"epochs": parts * options.steps / per_epoch, "evaluations_per_epoch": -(-2 * per_epoch // options.steps)}
    metrics = prune(
        Prune.model_validate(params.prune.model_dump(exclude_unset=True) | length | changes),
        make_workspace(options.work / method, options.seed),
        corpus=Corpus(source=options.corpus),
        packed=params.pack,
        data=data,
        teacher=options.work / "pretrain/model",
        title=method,
    )
    models = [(model, figures) for model, figures in metrics.items() if model not in ("teacher", "training")]
    rows = []
    for part, (model, figures) in enumerate(models, 1):
        steps = options.steps * (part if is_family else parts)
        measures = ("perplexity", "accuracy", "discrepancy")
        rows += [make_row(method, model, steps, figures, measure, figures[measure]) for measure in measures]
    whole = metrics["teacher"]
    return rows + [make_row(*TEACHER, 0, whole, measure, whole[measure]) for measure in ("perplexity", "accuracy")]


def prepare_task(params: Params, options: argparse.Namespace, task: str) -> None:
    """A task's data, unless an earlier run wrote it."""
    folder = options.work / task
    if not (folder / "data").exists():
        settings = params.prepare.model_copy(update={"train_examples": options.examples})
        work, data = make_workspace(folder, options.seed), Data(source=options.source)
        prepare(settings, work, name=task, task=params.get_task(task), data=data, base=params.base)


def finetune_model(params: Params, options: argparse.Namespace, task: str, row: Row) -> list[Row]:
    """A pretrained model's score on a task; the teacher's is that of the model before any pruning."""
    data, method, model = options.work / task / "data", row["method"], row["model"]
    base = params.base if method == TEACHER[0] else Base(model=str(options.work / method / "models" / model))
    title = f"{task} {method} {model}"
    work = make_workspace(options.work / f"tuned/{task}-{method}-{model}", options.seed)
    finetune(params.finetune, work, base=base, data=data, title=title)
    trained = work.output / "model"
    evaluated = evaluate_model(params.evaluate, data=data, model=trained, seed=options.seed, title=title).row
    low, high = (f"{bound:.2f}" for bound in evaluated["interval"])
    scored = make_row(method, model, row["steps"], evaluated, task, evaluated["score"])
    return [scored | {"low": low, "high": high}]


def make_row(method: str, model: str, steps: int, sizes: dict[str, Any], measure: str, value: float) -> Row:
    """A row of the CSV file."""
    counts = {name: sizes[name] for name in ("parameters", "layer_parameters")}
    return {"method": method, "model": model, "steps": steps, **counts, "measure": measure, "value": f"{value:.4g}"}


def identify_row(row: Row) -> tuple[str, str, str]:
    """What a row is of."""
    return row["method"], row["model"], row["measure"]


def format_table(rows: Path) -> str:
    """Markdown: a row per model, large to small, a column per measure."""
    import pandas as pd
    from tabulate import tabulate

    frame = pd.read_csv(rows)
    sizes = frame[frame["measure"].isin(["perplexity"])].set_index(["method", "model"])[["steps", "parameters"]]
    values = frame.pivot(index=["method", "model"], columns="measure", values="value")
    order = [name for name in ("perplexity", "accuracy", "discrepancy") if name in values]
    order += [name for name in frame["measure"].unique() if name not in order]
    joined = sizes.join(values[order]).sort_values("parameters", ascending=False, kind="stable").reset_index()
    return tabulate(joined.astype(object).fillna("").to_dict("list"), headers="keys", tablefmt="github")


def plot_discrepancy(work: Path, path: Path) -> None:
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
