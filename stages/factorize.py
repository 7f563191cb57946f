"""The teacher in; a student of the wanted size, its rank table and its spectra out.

First the student is cut: some of the teacher's layers, narrower if asked; or it is another pretrained model. What is
still over the budget is factorized away: calibration text says which directions a matrix is used in; an SVD in that
norm gives each its factors; the budget is dealt out as ranks; each matrix W becomes two thin ones, A B. Nothing is
trained here.

    python -m stages.factorize --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import command
from stages.settings import Base, Factorize

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.tasks import Task
    from stages.tracking import Run


def factorize(settings: Factorize, *, data: Path, teacher: Path, output: Path, seed: int, run: "Run") -> dict:
    """Writes `model/`, `ranks.csv`, `spectra.png` and `metrics.json`; returns the metrics.

    A student that needs no factorization is saved as the plain architecture, any other as a low-rank model.

    Raises:
        BadInput: the budget cannot be met, or layers or widths that the teacher cannot be cut to; or a model to start
            from that has another vocabulary.
    """
    from transformers import AutoTokenizer

    from stages.lowrank.budget import room
    from stages.lowrank.reduce import reduce
    from stages.lowrank.report import plot, table
    from stages.models.base import load
    from stages.pruning.cut import cut
    from stages.pruning.plan import fit, taken
    from stages.tasks.splits import read_task

    model, tokenizer = load(teacher), AutoTokenizer.from_pretrained(teacher)
    if settings.start:
        start = _start(settings.start, tokenizer, read_task(data), seed)
        plan = taken(settings, model, start)
    else:
        plan = fit(settings, model)
        start = cut(model, plan)
    made = reduce(settings, start, room(settings, model, start), _calibration(settings, tokenizer, data, seed))
    made.model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")

    rows = table(made)
    metrics = _metrics(model, made.model, rows)
    described = {"layers": plan.layers, "hidden_size": plan.width, "intermediate_size": plan.neurons}
    (output / "metrics.json").write_text(json.dumps(metrics | described, indent=2) + "\n")
    rows.to_csv(output / "ranks.csv", index=False)
    plot(made, settings, output / "spectra.png")
    run.metrics(metrics)
    return metrics | described


def _start(model: str, tokenizer: "PreTrainedTokenizerBase", task: "Task", seed: int) -> "PreTrainedModel":
    """A pretrained model of the task's kind, with the teacher's tokenizer; a classifier with a fresh head."""
    from transformers import set_seed

    from stages.models.base import load_base, locate
    from stages.models.vocabulary import require_same

    base, setting = Base(model=model), "factorize.start"
    cure = "start from a model with the teacher's tokenizer"
    require_same(locate(base, setting=setting), tokenizer, model=f"{setting} {model}", other="the teacher", cure=cure)
    set_seed(seed)
    return load_base(base, task, complete=False, setting=setting).eval()


def _calibration(
    settings: Factorize, tokenizer: "PreTrainedTokenizerBase", data: Path, seed: int
) -> "Iterator[dict[str, Tensor]]":
    """Batches of training text; nothing is read until the first one is asked for."""
    from stages.tasks.batches import batches
    from stages.tasks.splits import read_split

    train = read_split(data, "train").shuffle(seed=seed)
    train = train.select(range(min(settings.calibration.examples, len(train))))
    for _, batch in batches(train, tokenizer, settings.calibration.batch_size, "factorize: calibration"):
        yield batch


def _metrics(teacher: "PreTrainedModel", student: "PreTrainedModel", rows: "pd.DataFrame") -> dict:
    """Sizes, and the mean error of the matrices' outputs (0 where none is factorized)."""
    from stages.models.anatomy import Parts

    before, after = Parts(teacher).layer_parameters(), Parts(student).layer_parameters()
    errors = {name: float(rows[name].mean()) if len(rows) else 0.0 for name in ("output_error", "output_error_svd")}
    return {
        "layer_parameters": after,
        "layer_share": after / before,
        "parameters": student.num_parameters(),
        "share": student.num_parameters() / teacher.num_parameters(),
        **{f"mean_{name}": value for name, value in errors.items()},
    }


if __name__ == "__main__":
    with command(Factorize, __doc__, "task") as job:
        factorize(
            job.params.factorize,
            data=job.of("prepare", "data"),
            teacher=job.of("finetune", "model"),
            output=job.output,
            seed=job.params.seed,
            run=job.run,
        )
