"""A base model in; the task's teacher out.

The pretrained model gets a fresh head (a causal language model keeps its own) and is trained on the task's labels; the
checkpoint with the best validation score is kept. A killed run goes on from its last checkpoint and ends at the same
place. With `finetune.epochs: 0` the base model is the teacher as it is.

    python -m stages.finetune --task sst2
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from stages.command import command
from stages.settings import Base, Finetune

if TYPE_CHECKING:
    from stages.tracking import Run


def finetune(
    settings: Finetune, *, base: Base, data: Path, output: Path, state: Path, seed: int, run: "Run"
) -> dict[str, float]:
    """Writes `model/`, `history.csv` and `metrics.json`; returns the metrics (points, seconds).

    Raises:
        BadInput: the base model cannot be a model of the task's kind; taken as it is, it lacks weights.
    """
    from transformers import AutoTokenizer, set_seed

    from stages.language.trainer import NextTokenTrainer
    from stages.models.base import load_base
    from stages.tasks.splits import read_split, read_task
    from stages.training import OrderedTrainer, fingerprint, scored_by, train

    task, tokenizer = read_task(data), AutoTokenizer.from_pretrained(data / "tokenizer")
    set_seed(seed)  # the head is drawn here
    trainer, metrics = train(
        NextTokenTrainer if task.kind == "causal_lm" else OrderedTrainer,
        load_base(base, task, complete=not settings.epochs),
        settings,
        goal=scored_by(task, settings),
        train=read_split(data, "train"),
        validation=read_split(data, "validation"),
        tokenizer=tokenizer,
        state=state,
        key=fingerprint(settings.model_dump(), base.model_dump(), seed, data),
        seed=seed,
        run=run,
        history=output / "history.csv",
        grouped=settings.group_by_length,
    )
    trainer.save_model(output / "model")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


if __name__ == "__main__":
    with command(Finetune, __doc__, "task") as job:
        finetune(
            job.params.finetune,
            base=job.params.base,
            data=job.of("prepare", "data"),
            output=job.output,
            state=job.state,
            seed=job.params.seed,
            run=job.run,
        )
