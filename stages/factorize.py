"""The teacher in; a student of the wanted size, its rank table and its spectra out.

First the student is cut: some of the teacher's layers, narrower if set so; or it is another pretrained model. What is
still over the budget is factorized away: calibration text tells which directions a matrix is used in; an SVD in that
norm gives each its factors; ranks are allocated within the budget; each matrix W becomes two thin ones, A B. Nothing is
trained here.

    python -m stages.factorize --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Base, Factorize
from stages.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.schema.task import Row


def factorize(settings: Factorize, work: Workspace, *, data: Path, teacher: Path) -> dict[str, Any]:
    """Writes `model/`, `ranks.csv`, `spectra.png` and `metrics.json`; returns the metrics.

    A student that needs no factorization is saved as the plain architecture, any other as a low-rank model.

    Raises:
        BadInput: the budget cannot be met, or layers or widths that the teacher cannot be cut to; or a pretrained
            student that has another vocabulary.
    """
    from transformers import AutoTokenizer

    from stages.lowrank.budget import matrix_budget
    from stages.lowrank.factorization import factorize_model
    from stages.lowrank.report import plot_spectra, tabulate_ranks
    from stages.models.loading import load_checkpoint
    from stages.pruning.cut import cut_to_plan
    from stages.pruning.plan import plan_from_budget, plan_from_model
    from stages.tasks.splits import read_task

    model, tokenizer = load_checkpoint(teacher), AutoTokenizer.from_pretrained(teacher)
    if settings.pretrained_student:
        student = _load_student(settings.pretrained_student, tokenizer, read_task(data), work.seed)
        plan = plan_from_model(settings, model, student)
    else:
        plan = plan_from_budget(settings, model)
        student = cut_to_plan(model, plan)
    batches = _calibration_batches(settings, tokenizer, data, work.seed)
    result = factorize_model(settings, student, matrix_budget(settings, model, student), batches)
    result.model.save_pretrained(work.output / "model")
    tokenizer.save_pretrained(work.output / "model")

    ranks = tabulate_ranks(result)
    sizes = _compare_sizes(model, result.model, ranks)
    metrics = sizes | {"layers": plan.layers, "hidden_size": plan.width, "intermediate_size": plan.neurons}
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    ranks.to_csv(work.output / "ranks.csv", index=False)
    plot_spectra(result, settings, work.output / "spectra.png")
    work.run.log_metrics(sizes)
    return metrics


def _load_student(model: str, tokenizer: "PreTrainedTokenizerBase", task: "Row", seed: int) -> "PreTrainedModel":
    """A pretrained model of the task's kind, with the teacher's tokenizer; a classifier with a fresh head."""
    from transformers import set_seed

    from stages.kinds import get_kind
    from stages.models.pretrained import locate_model
    from stages.models.vocabulary import require_same_vocabulary

    base, setting = Base(model=model), "factorize.pretrained_student"
    require_same_vocabulary(
        locate_model(base, setting=setting),
        tokenizer,
        model=f"{setting} {model}",
        other="the teacher",
        cure="start from a model with the teacher's tokenizer",
    )
    set_seed(seed)
    return get_kind(task).load_base(base, task, complete=False, setting=setting).eval()


def _calibration_batches(
    settings: Factorize, tokenizer: "PreTrainedTokenizerBase", data: Path, seed: int
) -> "Iterator[dict[str, Tensor]]":
    """Batches of training text; nothing is read until the first one is consumed."""
    from stages.tasks.batches import iterate_batches
    from stages.tasks.splits import read_split

    train = read_split(data, "train").shuffle(seed=seed)
    train = train.select(range(min(settings.calibration.examples, len(train))))
    for _, batch in iterate_batches(train, tokenizer, settings.calibration.batch_size, "factorize: calibration"):
        yield batch


def _compare_sizes(teacher: "PreTrainedModel", student: "PreTrainedModel", ranks: "pd.DataFrame") -> dict[str, float]:
    """Sizes, and the mean error of the matrices' outputs (0 where none is factorized)."""
    from stages.models.anatomy import ModelParts

    before, after = (ModelParts(model).count_layer_parameters() for model in (teacher, student))
    errors = {name: float(ranks[name].mean()) if len(ranks) else 0.0 for name in ("output_error", "output_error_svd")}
    return {
        "layer_parameters": after,
        "layer_share": after / before,
        "parameters": student.num_parameters(),
        "share": student.num_parameters() / teacher.num_parameters(),
        **{f"mean_{name}": value for name, value in errors.items()},
    }


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    return (
        f"{name}: student of {metrics['layer_parameters']:,} layer parameters ({metrics['layer_share']:.1%}), "
        f"output error {metrics['mean_output_error']:.3f} (plain SVD {metrics['mean_output_error_svd']:.3f})"
    )


if __name__ == "__main__":
    with command("factorize", Factorize, __doc__, "task") as job:
        factorized = factorize(
            job.params.factorize,
            job.work,
            data=job.find_output("prepare", "data"),
            teacher=job.find_output("finetune", "model"),
        )
        print(report(job.name, factorized))
