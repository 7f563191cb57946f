"""Every score in; one table, the plots and the student to take out.

Collects what the other verbs found for each task: teacher, student and rivals side by side, score (mean over seeds,
95 % interval, significance against the best) against size, latency and training time; which students no other beats,
and which one to take under `compare.limit`. What has not been run is left out, with a note.

    python -m stages.compare
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import OUTPUTS, command
from stages.comparison import plots
from stages.comparison.collect import Model, Sources, cell_of, models, rows
from stages.comparison.pick import front, pick
from stages.comparison.table import markdown
from stages.settings import BadInput, Compare, Distill, Factorize

if TYPE_CHECKING:
    import pandas as pd

    from stages.tasks import Task
    from stages.tracking import Run


def compare(
    settings: Compare,
    *,
    tasks: dict[str, "Task"],
    students: dict[str, tuple[Factorize, Distill | None]],
    seeds: list[int],
    resamples: int,
    sources: Sources,
    output: Path,
    seed: int,
    run: "Run",
) -> "pd.DataFrame":
    """Writes `table.csv`, `table.md`, `metrics.json`, `bars.png`, `curves.png` and `score_*.png`.

    Args:
        students: how each was made: `student` (the main chain), then the rivals.
        seeds: of the rivals.
        resamples, seed: of the bootstrap.

    Returns:
        The table: see `stages.comparison.collect.rows`, and whether the student is on the Pareto front.

    Raises:
        BadInput: nothing has been evaluated yet, or models were scored on different examples.
    """
    import pandas as pd

    rivals = [name for name in students if name != "student"]
    found = {name: models(name, rivals, seeds, sources) for name in tasks}
    found = {name: trained for name, trained in found.items() if trained}
    if not found:
        raise BadInput(f"{sources.outputs} holds no scores of {', '.join(tasks)}; run `dvc repro evaluate` first")
    lines = {name: rows(name, tasks[name], found[name], sources, settings, resamples, seed) for name in found}
    metrics = {name: _summary(own, settings) for name, own in lines.items()}
    for name, own in lines.items():
        for row in own:
            row["pareto"] = row["model"] in metrics[name]["pareto"]
    table = pd.DataFrame([row for own in lines.values() for row in own])
    table.to_csv(output / "table.csv", index=False)
    text = markdown(table, {name: _notes(summary) for name, summary in metrics.items()}, settings)
    (output / "table.md").write_text(text, encoding="utf8")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    _plot(table, found, {name: f"{name}: {tasks[name].metrics[0]}" for name in found}, settings, output)
    _track(run, table, metrics, students)
    print(text)
    return table


def _summary(table: list[dict[str, Any]], settings: Compare) -> dict[str, Any]:
    """The student's retention (%), the best rival, how many points the student lies above it; the front, the pick."""
    scores = {row["model"]: row["score"] for row in table}
    rivals = {name: score for name, score in scores.items() if name not in ("teacher", "student")}
    summary: dict[str, Any] = {}
    if "student" in scores:
        summary["retention"] = next(row["retention"] for row in table if row["model"] == "student")
        if rivals:
            best = max(rivals, key=rivals.__getitem__)
            summary |= {"best_baseline": best, "margin": scores["student"] - rivals[best]}
    small = [row for row in table if row["model"] != "teacher"]
    summary["pareto"] = front(small)
    if settings.limit:
        chosen = pick(small, settings.limit)
        summary |= {"pick": chosen.model, "why": chosen.sentence}
    return summary


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = [f"Pareto front, best score first: {', '.join(summary['pareto']) or 'no students'}."]
    return [*notes, "", summary["why"]] if "why" in summary else notes


def _plot(
    table: "pd.DataFrame", found: dict[str, list[Model]], titles: dict[str, str], settings: Compare, output: Path
) -> None:
    size, speed = "layer parameters (millions)", f"p50 latency (ms), {cell_of(settings)}"
    plots.scatter(table, titles, "layer_parameters", size, 1e6, output / "score_size.png")
    plots.scatter(table, titles, "p50_ms", speed, 1, output / "score_latency.png")
    plots.scatter(table, titles, "seconds", "training time (seconds)", 1, output / "score_cost.png")
    plots.bars(table, titles, output / "bars.png")
    plots.curves(found, output / "curves.png")


def _track(
    run: "Run",
    table: "pd.DataFrame",
    metrics: dict[str, dict[str, Any]],
    students: dict[str, tuple[Factorize, Distill | None]],
) -> None:
    """The summary on this run, and below it a run per task and model, for MLflow's views that compare runs."""
    run.metrics({f"{t}/{k}": v for t, own in metrics.items() for k, v in own.items() if isinstance(v, float)})
    for row in table.to_dict("records"):
        task, model = row.pop("task"), row.pop("model")
        made: dict[str, Any] = {"task": task, "recipe": model, "seeds": row.pop("seeds")}
        if model in students:
            blocks = zip(("factorize", "distill"), students[model], strict=True)
            made |= {name: block.model_dump() if block else None for name, block in blocks}
        run.child(f"{task}-{model}", made, {name: value for name, value in row.items() if value == value})


if __name__ == "__main__":
    with command(Compare, __doc__) as job:
        params = job.params
        compare(
            params.compare,
            tasks={name: params.task(name) for name in params.tasks},
            students={"student": (params.factorize, params.distill)}
            | {name: params.recipe(name) for name in params.baseline.recipes},
            seeds=params.baseline.seeds,
            resamples=params.evaluate.bootstrap,
            sources=Sources(outputs=OUTPUTS),
            output=job.output,
            seed=params.seed,
            run=job.run,
        )
