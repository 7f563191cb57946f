"""Every score in; one table, the plots and the student to take out.

Collects the results of the other verbs for each task: teacher, student and baselines side by side, score (mean over
seeds, 95 % confidence interval, significance against the best) against size, latency and training time; which students
no other beats (Pareto front), and which one to take under `compare.limit`. What has not been run is left out, with a
note.

`metrics.json` holds the few figures that experiments are compared by (`dvc exp show`, `dvc metrics diff`).

    python -m stages.compare
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import OUTPUTS, command
from stages.errors import BadInput
from stages.settings import Compare, Distill, Factorize, Params
from stages.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from stages.comparison.collect import ComparedModel
    from stages.schema.task import Row
    from stages.tracking import Run

Blocks = tuple[Factorize, Distill | None]


@dataclass(frozen=True, kw_only=True)
class ComparisonInputs:
    """What is compared."""

    outputs: Path
    """The folder that has one per verb."""
    tasks: "dict[str, Row]"
    students: dict[str, Blocks]
    """How each was made: `student` (the main chain), then the baselines."""
    seeds: list[int]
    """Of the baselines."""
    resamples: int
    """Of the bootstrap."""

    @classmethod
    def from_params(cls, params: Params) -> "ComparisonInputs":
        """All tasks and baselines of params.yaml."""
        return cls(
            outputs=OUTPUTS,
            tasks={name: params.get_task(name) for name in params.tasks},
            students={"student": (params.factorize, params.distill)}
            | {name: params.resolve_recipe(name) for name in params.baseline.recipes},
            seeds=params.baseline.seeds,
            resamples=params.evaluate.bootstrap,
        )


def compare(settings: Compare, work: Workspace, inputs: ComparisonInputs) -> "pd.DataFrame":
    """Writes `table.csv`, `table.md`, `summary.json`, `metrics.json`, `bars.png`, `curves.png` and `score_*.png`.

    Returns:
        The table: see `stages.comparison.collect.make_rows`, and whether the student is on the Pareto front.

    Raises:
        BadInput: nothing has been evaluated yet, or models were scored on different examples.
    """
    import pandas as pd

    from stages.comparison.collect import StageOutputs, TaskComparison, collect_models, make_rows
    from stages.comparison.table import format_table
    from stages.kinds import get_kind

    outputs, baselines = StageOutputs(folder=inputs.outputs), [name for name in inputs.students if name != "student"]
    rows: dict[str, list[dict[str, Any]]] = {}
    models: dict[str, list[ComparedModel]] = {}
    for name, task in inputs.tasks.items():
        if collected := collect_models(name, baselines, inputs.seeds, outputs):
            models[name] = collected
            rows[name] = make_rows(
                TaskComparison(
                    task=name,
                    scorer=get_kind(task).make_scorer(task),
                    models=collected,
                    outputs=outputs,
                    settings=settings,
                    resamples=inputs.resamples,
                    seed=work.seed,
                )
            )
    if not rows:
        raise BadInput(f"{inputs.outputs} holds no scores of {', '.join(inputs.tasks)}; run `dvc repro evaluate` first")
    summaries = {name: _summarize(own, settings) for name, own in rows.items()}
    for name, own in rows.items():
        for row in own:
            row["pareto"] = row["model"] in summaries[name]["pareto"]
    table = pd.DataFrame([row for own in rows.values() for row in own])
    table.to_csv(work.output / "table.csv", index=False)
    text = format_table(table, {name: _format_notes(summary) for name, summary in summaries.items()}, settings)
    (work.output / "table.md").write_text(text, encoding="utf8")
    headline = {name: _pick_headline(own) for name, own in rows.items()}
    for name, content in {"summary": summaries, "metrics": headline}.items():
        (work.output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
    titles = {name: f"{name}: {inputs.tasks[name].metrics[0]}" for name in rows}
    _plot(table, models, titles, settings, work.output)
    _track(work.run, table, summaries, inputs.students)
    work.run.describe_pipeline(text)
    return table


def _summarize(rows: list[dict[str, Any]], settings: Compare) -> dict[str, Any]:
    """The student's retention (%), the best baseline, how many points the student lies above it; the Pareto front, the
    student to take.
    """
    from stages.comparison.pick import find_pareto_front, pick_student

    scores = {row["model"]: row["score"] for row in rows}
    baselines = {name: score for name, score in scores.items() if name not in ("teacher", "student")}
    summary: dict[str, Any] = {}
    if "student" in scores:
        summary["retention"] = next(row["retention"] for row in rows if row["model"] == "student")
        if baselines:
            best = max(baselines, key=baselines.__getitem__)
            summary |= {"best_baseline": best, "margin": scores["student"] - baselines[best]}
    students = [row for row in rows if row["model"] != "teacher"]
    summary["pareto"] = find_pareto_front(students)
    if settings.limit:
        choice = pick_student(students, settings.limit)
        summary |= {"pick": choice.model, "why": choice.sentence}
    return summary


def _pick_headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What experiments are compared by: the student's score, retention, size and latency, beside the best baseline."""
    by_model = {row["model"]: row for row in rows}
    baselines = [row["score"] for name, row in by_model.items() if name not in ("teacher", "student")]
    student = by_model.get("student", {})
    figures = {
        "score": student.get("score"),
        "retention": student.get("retention"),
        "teacher_score": by_model.get("teacher", {}).get("score"),
        "best_baseline_score": max(baselines, default=None),
        "layer_parameters": student.get("layer_parameters"),
        "megabytes": student["bytes"] / 1e6 if student.get("bytes") else None,
        "latency_ms": student.get("p50_ms"),
        "speedup": student.get("speedup"),
    }
    known = {
        name: value for name, value in figures.items() if value is not None and value == value
    }  # NaN is not itself
    return {name: value if isinstance(value, int) else round(value, 4) for name, value in known.items()}


def _format_notes(summary: dict[str, Any]) -> list[str]:
    notes = [f"Pareto front, best score first: {', '.join(summary['pareto']) or 'no students'}."]
    return [*notes, "", summary["why"]] if "why" in summary else notes


def _plot(
    table: "pd.DataFrame",
    models: "dict[str, list[ComparedModel]]",
    titles: dict[str, str],
    settings: Compare,
    output: Path,
) -> None:
    from stages.comparison import plots
    from stages.comparison.collect import describe_cell

    size, speed = "layer parameters (millions)", f"p50 latency (ms), {describe_cell(settings)}"
    plots.plot_scatter(table, titles, "layer_parameters", size, 1e6, output / "score_size.png")
    plots.plot_scatter(table, titles, "p50_ms", speed, 1, output / "score_latency.png")
    plots.plot_scatter(table, titles, "seconds", "training time (seconds)", 1, output / "score_cost.png")
    plots.plot_bars(table, titles, output / "bars.png")
    plots.plot_loss_curves(models, output / "curves.png")


def _track(
    run: "Run", table: "pd.DataFrame", summaries: dict[str, dict[str, Any]], students: dict[str, Blocks]
) -> None:
    """The summary on this run, and below it a run per task and model, for MLflow's views that compare runs."""
    run.log_metrics({f"{t}/{k}": v for t, own in summaries.items() for k, v in own.items() if isinstance(v, float)})
    for row in table.to_dict("records"):
        task, model = row.pop("task"), row.pop("model")
        settings: dict[str, Any] = {"task": task, "recipe": model, "seeds": row.pop("seeds")}
        if model in students:
            blocks = zip(("factorize", "distill"), students[model], strict=True)
            settings |= {name: block.model_dump() if block else None for name, block in blocks}
        run.log_child_run(f"{task}-{model}", settings, {name: value for name, value in row.items() if value == value})


if __name__ == "__main__":
    with command("compare", Compare, __doc__) as job:
        compare(job.params.compare, job.work, ComparisonInputs.from_params(job.params))
        print((job.output / "table.md").read_text(encoding="utf8"))
