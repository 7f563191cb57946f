"""pretrain: a checkpoint gets a masked-LM head; one that has a head is taken as it is."""

from pathlib import Path

import numpy as np
import torch

from stages.pretrain import pretrain
from stages.settings import Base, Pretrain
from tests.makers.prune_runs import describe_corpus, pretrain_teacher
from tests.makers.runs import make_work, read_weights


def test_the_body_stays_and_a_head_is_trained_only_once(tiny_model: Path, tmp_path: Path):
    metrics = pretrain_teacher(tiny_model, tmp_path)
    assert metrics["fresh_head"] and metrics["head_loss"] < np.log(200)
    body, weights = read_weights(tiny_model), read_weights(tmp_path / "pretrain/model")
    assert all(
        torch.equal(weights[f"bert.{name}"], value) for name, value in body.items() if not name.startswith("pooler")
    )
    settings = Pretrain(base=Base(model=str(tmp_path / "pretrain/model")))
    work = make_work(tmp_path / "second", seed=2)
    metrics = pretrain(settings, work, corpus=describe_corpus(tmp_path), data=tmp_path / "pack/data")
    same = read_weights(tmp_path / "second/model")
    assert metrics == {"fresh_head": False} and all(torch.equal(same[name], weights[name]) for name in weights)
