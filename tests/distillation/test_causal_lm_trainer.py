"""Distilling a causal language model: the terms of the first step against a plain loop."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stages.models.loading import load_checkpoint
from stages.schema.task import IGNORED
from stages.tasks.splits import read_split
from tests.makers.chains import SHORT_CAUSAL, run_distill
from tests.makers.token_losses import loop_over_tokens


def read_first_value(output: Path, column: str) -> float:
    return pd.read_csv(output / "history.csv")[column].dropna().iloc[0]


def test_the_loss_is_the_mean_over_examples_of_the_mean_over_tokens(causal_chain: Path, tmp_path: Path) -> None:
    """`hard` in the first step of an untouched order of one batch, against the loop."""
    rows = read_split(causal_chain / "prepare/data", "train")
    settings = SHORT_CAUSAL | {"batch_size": len(rows), "hierarchy": "joint", "objectives": {"hard": {}}}
    run_distill(causal_chain, tmp_path / "d", **settings)
    sums = loop_over_tokens(load_checkpoint(causal_chain / "factorize/model"), list(rows))
    expected = np.mean([loss / tokens for loss, _, tokens in sums])
    assert read_first_value(tmp_path / "d", "loss/hard") == pytest.approx(expected, rel=1e-4)


def test_inner_states_are_compared_where_a_token_is_predicted(causal_chain: Path, tmp_path: Path) -> None:
    """The first step's hidden states of the first layer, row by row without padding, in float64."""
    rows = read_split(causal_chain / "prepare/data", "train")
    hidden = {"hidden": {"layers": [1]}}
    settings = SHORT_CAUSAL | {"batch_size": len(rows), "hierarchy": "joint", "objectives": hidden}
    run_distill(causal_chain, tmp_path / "d", **settings)
    models = [load_checkpoint(causal_chain / f"{stage}/model").double() for stage in ("factorize", "finetune")]
    distances = []
    for row in rows:
        positions = np.flatnonzero(np.array(row["labels"][1:]) != IGNORED)
        with torch.no_grad():
            student, teacher = (
                model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states[1][
                    0, positions
                ]
                for model in models
            )
        distances.append(float((student - teacher).square().sum() / teacher.square().sum()))
    assert read_first_value(tmp_path / "d", "loss/hidden") == pytest.approx(np.mean(distances), rel=1e-4)
