"""Which tokens are predicted: the head is applied there alone, and padding changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from stages.language.token_targets import next_token_targets, sum_per_example, token_nll
from stages.models.loading import load_checkpoint
from stages.models.selective_head import logits_at_positions
from stages.schema.task import IGNORED
from stages.tasks.batches import iterate_batches, make_collator
from stages.tasks.splits import read_split
from tests.makers.token_losses import loop_over_tokens


def collate_validation(data: Path) -> dict[str, torch.Tensor]:
    """The validation split as one batch."""
    rows = read_split(data, "validation").select_columns(["input_ids", "labels"])
    collate = make_collator(rows, AutoTokenizer.from_pretrained(data / "tokenizer"))
    return dict(collate([rows[i] for i in range(len(rows))]))


@pytest.mark.parametrize("stage", ["finetune", "factorize"])
@torch.no_grad()
def test_the_head_is_applied_where_a_token_is_predicted_and_padding_changes_nothing(
    stage: str, causal_chain: Path
) -> None:
    batch = collate_validation(causal_chain / "prepare/data")
    model = load_checkpoint(causal_chain / stage / "model")
    targets = next_token_targets(batch)
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    logits = logits_at_positions(model, targets.inputs, targets.positions)
    torch.testing.assert_close(logits, whole[targets.positions])
    assert torch.equal(model(**targets.inputs).logits, whole), "the head is the model's own again"
    sums = sum_per_example(token_nll(whole[targets.positions], targets.tokens), targets.positions)
    expected = loop_over_tokens(model, list(read_split(causal_chain / "prepare/data", "validation")))
    np.testing.assert_allclose(sums, [row[:2] for row in expected], rtol=1e-4)
    assert targets.positions.sum(1).tolist() == [row[2] for row in expected]


def test_padded_labels_are_not_predicted(causal_chain: Path) -> None:
    data = causal_chain / "prepare/data"
    tokenizer, rows = AutoTokenizer.from_pretrained(data / "tokenizer"), read_split(data, "validation")
    for indices, batch in iterate_batches(rows, tokenizer, 3, "x"):
        for i, row in enumerate(indices):
            labels, length = rows["labels"][row], rows["length"][row]
            assert batch["labels"][i].tolist() == labels + [IGNORED] * (batch["labels"].shape[1] - length)
            assert int(batch["attention_mask"][i].sum()) == length
