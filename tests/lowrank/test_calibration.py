"""Statistics of padded batches against one backward pass per unpadded example."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stages.lowrank.calibration import collect_statistics
from stages.models.anatomy import ModelParts
from stages.models.modeling import replace_conv1d
from tests.makers.decoders import make_causal_batch, make_decoder
from tests.makers.encoders import make_encoder


def add_up_single_examples(
    model: PreTrainedModel, name: str, examples: Sequence[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over examples, each a batch of one (ids, labels): second moments and sums of a matrix's inputs, and
    the squared gradients of its rows.
    """
    weight, moments, sums, fisher = model.get_submodule(name).weight, 0, 0, 0
    for ids, labels in examples:
        inputs: list[Tensor] = []
        handle = model.get_submodule(name).register_forward_hook(lambda m, i, o, inputs=inputs: inputs.append(i[0][0]))
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        handle.remove()
        moments = moments + inputs[0].double().T @ inputs[0].double()
        sums = sums + inputs[0].double().sum(0)
        fisher = fisher + weight.grad.double().square().sum(1)
    return moments, sums, fisher


def test_statistics_equal_a_loop_over_single_examples():
    """Means, second moments and Fisher rows of a padded batch; each example has its own backward pass."""
    model = make_encoder("bert", hidden_dropout_prob=0.0)
    name = ModelParts(model).list_matrix_names()[4]
    ids, mask = torch.randint(5, 50, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:], mask[2, 2:] = 0, 0
    labels = torch.tensor([0, 1, 1])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    statistics = collect_statistics(model, [name], [batch], fisher=True)[name]

    examples = [(row[m][None], label[None]) for row, m, label in zip(ids, mask.bool(), labels, strict=True)]
    moments, sums, fisher = add_up_single_examples(model, name, examples)
    assert torch.allclose(statistics.inputs, moments / mask.sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(statistics.mean, sums / mask.sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(statistics.rows, fisher / 3, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_statistics_equal_a_loop_over_single_sequences(family: str):
    """Second moments and Fisher rows of a padded batch against a backward pass of each sequence's own mean loss."""
    model, batch = replace_conv1d(make_decoder(family)), make_causal_batch()
    name = ModelParts(model).list_matrix_names()[1]
    statistics = collect_statistics(model, [name], [batch], fisher=True)[name]

    rows = zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    examples = [(row[mask][None], row[mask][None]) for row, mask in rows]
    moments, _, fisher = add_up_single_examples(model, name, examples)
    assert torch.allclose(statistics.inputs, moments / batch["attention_mask"].sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(statistics.rows, fisher / 3, rtol=1e-3, atol=1e-12)
