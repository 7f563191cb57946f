"""A pretrained encoder in; the masked-language-model teacher of a corpus out.

A checkpoint that has a masked-LM head is taken as it is. One that has none gets one: tied to its word embeddings and
trained on the corpus while everything else stays as it was, so that the teacher's inside is the checkpoint's.

    python -m stages.pretrain --corpus wikitext
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Pretrain

if TYPE_CHECKING:
    from stages.tracking import Run


def pretrain(settings: Pretrain, *, data: Path, output: Path, seed: int, run: "Run") -> dict[str, Any]:
    """Writes `model/` and `metrics.json`; returns the metrics: whether the head is new, its last steps' loss (nats).

    Raises:
        BadInput: the base model has no masked-LM form, or lacks more than the head.
    """
    from transformers import AutoTokenizer, set_seed

    from stages.corpora.blocks import read_blocks
    from stages.models.masked_lm import load_masked_lm, warm_up

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    set_seed(seed)  # a new head is drawn here
    model, fresh = load_masked_lm(settings.base, setting="pretrain.base.model")
    metrics: dict[str, Any] = {"fresh_head": bool(fresh)}
    if fresh:
        print(f"pretrain: {settings.base.model} has no masked-LM head; training one for {settings.head.steps} steps")
        losses = warm_up(model, fresh, tokenizer, read_blocks(data, "train")["input_ids"], settings.head, seed)
        for step in range(0, len(losses), 10):
            run.metrics({"head/loss": losses[step]}, step=step + 1)
        metrics["head_loss"] = sum(losses[-50:]) / len(losses[-50:])
    else:
        print(f"pretrain: {settings.base.model} has a masked-LM head and is taken as it is")
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    run.metrics({name: float(value) for name, value in metrics.items()})
    return metrics


if __name__ == "__main__":
    with command(Pretrain, __doc__, "corpus") as job:
        pretrain(job.params.pretrain, data=job.of("pack", "data"), output=job.output, seed=job.params.seed, run=job.run)
