"""The most probable classes, and how far two models agree on them."""

import pytest
import torch

from stages.objectives.top_k import agreement_rates, overlap_rate, top_k
from tests.makers.logits import make_logits


def test_agreement_equals_the_slow_loop():
    student, teacher = make_logits(classes=30, scale=4.0)
    rates = agreement_rates(student, teacher)
    for row, (s, t) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        ours, theirs = (sorted(range(30), key=lambda c, z=z: -z[c]) for z in (s, t))
        for k in (1, 2, 3, 4, 5):
            assert rates[f"cr@{k}"][row] == (ours[:k] == theirs[:k])
        for k in (3, 5, 10, 20):
            assert rates[f"mor@{k}"][row].item() == pytest.approx(len(set(ours[:k]) & set(theirs[:k])) / k)
    assert rates["mor@5"].tolist() == overlap_rate(student, teacher, 5).tolist()
    assert len(set(rates["mor@10"].tolist())) > 1 and 0 < rates["cr@1"].mean() < 1
    few = agreement_rates(student[:, :4], teacher[:, :4])
    assert set(few) == {"cr@1", "cr@2", "cr@3", "cr@4", "mor@3"}


@pytest.mark.parametrize("classes", [4095, 4096, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_top_of_a_large_vocabulary(classes, dtype):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(30, classes, generator=draw)
    logits[:10] += torch.linspace(0, 9, classes)  # the best are neighbors, and among the last
    logits[10:20, 100:103] = 50.0
    logits = logits.to(dtype)
    for k in (1, 10, 100):
        assert torch.equal(logits.gather(-1, top_k(logits, k)), logits.topk(k).values)
        assert all(len(set(row)) == k for row in top_k(logits, k).tolist())
