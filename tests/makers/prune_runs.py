"""The verbs pack, pretrain and prune on tiny text, as the command line would run them."""

from pathlib import Path
from typing import Any

import torch

from stages.pack import pack
from stages.pretrain import pretrain
from stages.prune import prune
from stages.schema.corpus import Corpus
from stages.settings import Base, HeadTraining, Pack, Pretrain, Prune, Target
from tests.makers.runs import make_work, read_weights
from tests.makers.texts import make_reviews

PACK = Pack(block_length=16)
SETTINGS = {
    "epochs": 1,
    "batch_size": 8,
    "every": 2,
    "log_every": 1,
    "learning_rate": 2e-3,
    "evaluations_per_epoch": 4,
    "targets": [Target(hidden_size=24), Target(hidden_size=16)],
}


def describe_corpus(folder: Path) -> Corpus:
    """The corpus that `pretrain_teacher` writes to the folder."""
    return Corpus(source=str(folder / "train.txt"))


def pretrain_teacher(model: Path, folder: Path) -> dict[str, Any]:
    """Packs a corpus and trains the model's fresh masked-LM head on it; returns what pretrain measured."""
    (folder / "train.txt").write_text("\n".join(text for text, _ in make_reviews(300)))
    base, corpus = Base(model=str(model)), describe_corpus(folder)
    pack(PACK, make_work(folder / "pack"), name="mine", corpus=corpus, base=base)
    head = HeadTraining(steps=100, trains="head", learning_rate=1e-2, batch_size=16)
    work = make_work(folder / "pretrain")
    return pretrain(Pretrain(base=base, head=head), work, corpus=corpus, data=folder / "pack/data")


def run_prune(folder: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Prunes the teacher of `pretrain_teacher` in that folder."""
    return prune(
        Prune.model_validate(SETTINGS | changes),
        make_work(output),
        corpus=describe_corpus(folder),
        packed=PACK,
        data=folder / "pack/data",
        teacher=folder / "pretrain/model",
    )


def read_pruned_weights(output: Path) -> dict[str, torch.Tensor]:
    """Of all pruned models, under `<model>/<name>`."""
    models = sorted((output / "models").iterdir())
    return {f"{model.name}/{name}": value for model in models for name, value in read_weights(model).items()}
