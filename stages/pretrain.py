"""A pretrained encoder in; the masked-language-model teacher of a corpus out.

A checkpoint that has a masked-LM head is taken as it is. One that has none gets one: tied to its word embeddings and
trained on the corpus while the body is frozen, so that the teacher's inner states are the checkpoint's.

    python -m stages.pretrain --corpus wikitext
"""

import json
from pathlib import Path
from typing import Any

from stages.command import command
from stages.schema.corpus import Corpus
from stages.settings import Pretrain
from stages.workspace import Workspace


def pretrain(settings: Pretrain, work: Workspace, *, corpus: Corpus, data: Path) -> dict[str, Any]:
    """Writes `model/` and `metrics.json`; returns the metrics: whether the head is new, its last steps' loss (nats).

    Raises:
        BadInput: the base model has no masked-LM form, or lacks more than the head.
    """
    from transformers import AutoTokenizer, set_seed

    from stages.kinds import get_corpus_kind

    kind, tokenizer = get_corpus_kind(corpus), AutoTokenizer.from_pretrained(data / "tokenizer")
    set_seed(work.seed)  # a new head is drawn here
    model, fresh = kind.load_teacher(settings.base)
    metrics: dict[str, Any] = {"fresh_head": bool(fresh)}
    if fresh:
        losses = kind.train_head(model, fresh, tokenizer, data, settings.head, work.seed)
        for step in range(0, len(losses), 10):
            work.run.log_metrics({"head/loss": losses[step]}, step=step + 1)
        metrics["head_loss"] = sum(losses[-50:]) / len(losses[-50:])
    model.save_pretrained(work.output / "model")
    tokenizer.save_pretrained(work.output / "model")
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    work.run.log_metrics({name: float(value) for name, value in metrics.items()})
    return metrics


def report(name: str, base: str, settings: Pretrain, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    if not metrics["fresh_head"]:
        return f"{name}: {base} has a masked-LM head and is taken as it is"
    steps, loss = settings.head.steps, metrics["head_loss"]
    return f"{name}: {base} has no masked-LM head; one was trained for {steps} steps (loss {loss:.2f})"


if __name__ == "__main__":
    with command("pretrain", Pretrain, __doc__, "corpus") as job:
        settings = job.params.pretrain
        trained = pretrain(settings, job.work, corpus=job.corpus, data=job.find_output("pack", "data"))
        print(report(job.name, settings.base.model, settings, trained))
