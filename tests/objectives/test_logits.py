"""Objectives on labels and logits of a classifier or a regression, against loops."""

import numpy as np
import pytest
import torch

from stages.objectives import KL, Hard, LogitMSE, Ramp
from tests.makers.captured import make_captured_pair, make_known_batch
from tests.makers.references import kl_divergence


def test_hard_is_cross_entropy():
    student, teacher = make_captured_pair()
    batch = make_known_batch()
    expected = torch.nn.functional.cross_entropy(student.logits.float(), batch.labels)
    assert Hard()(student, teacher, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_kl_equals_the_loop():
    student, teacher = make_captured_pair()
    rows = [kl_divergence(teacher.logits[b].numpy() / 3, student.logits[b].numpy() / 3) for b in range(3)]
    expected = 9 * np.mean(rows)
    assert KL(temperature=3)(student, teacher, make_known_batch()).item() == pytest.approx(expected, rel=1e-5)
    ramp = KL(temperature=Ramp(start=5, end=1, until=0.5))  # 3 at a quarter of the way
    assert ramp(student, teacher, make_known_batch(progress=0.25)).item() == pytest.approx(expected, rel=1e-5)


def test_logit_mse_equals_the_loop():
    student, teacher = make_captured_pair()
    s, t = student.logits.numpy(), teacher.logits.numpy()
    expected = np.mean([sum((s[b, c] - t[b, c]) ** 2 for c in range(5)) / 5 for b in range(3)])
    assert LogitMSE()(student, teacher, make_known_batch()).item() == pytest.approx(expected, rel=1e-5)


def test_regression_compares_values():
    student, teacher = make_captured_pair()
    student.logits, teacher.logits = student.logits[:, :1], teacher.logits[:, :1]
    labels = torch.tensor([0.5, -1.0, 2.0])
    s, t = student.logits[:, 0].numpy(), teacher.logits[:, 0].numpy()
    value = KL()(student, teacher, make_known_batch())
    assert value.item() == pytest.approx(np.mean((s - t) ** 2) / 2, rel=1e-5)
    value = Hard()(student, teacher, make_known_batch(labels=labels))
    assert value.item() == pytest.approx(np.mean((s - labels.numpy()) ** 2), rel=1e-5)
