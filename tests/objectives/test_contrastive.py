"""Contrastive distillation against a loop, its memory bank, its draws of negatives."""

import numpy as np
import pytest
import torch

from stages.objectives import Contrastive
from tests.makers.captured import make_captured, make_captured_pair, make_known_batch


def normalize(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def test_contrastive_equals_the_loop_and_updates_its_memory():
    student, teacher = make_captured_pair()
    labels = [0, 1, 1, 0, 2, 1, 0]
    term = Contrastive(width=5, negatives=4, temperature=0.5, momentum=0.25)
    torch.manual_seed(1)
    memory = term.learned_modules(student.shape, teacher.shape, labels).double()
    index = torch.tensor([3, 5, 4])
    banks = memory.students.clone(), memory.teachers.clone()
    torch.manual_seed(2)
    drawn = memory.draw_negatives(index, 4)
    torch.manual_seed(2)
    value = term(student, teacher, make_known_batch(index=index), memory)
    value.backward()

    ours, theirs = (
        [normalize(layer(m["hidden", 2][b, 0]).detach().numpy()) for b in range(3)]
        for m, layer in ((student, memory.student), (teacher, memory.teacher))
    )
    total = 0.0
    for a, c, bank in ((ours, theirs, banks[1]), (theirs, ours, banks[0])):
        for b in range(3):
            positive = np.exp(a[b] @ c[b] / 0.5)
            negatives = sum(np.exp(a[b] @ bank[j].numpy() / 0.5) for j in drawn[b])
            total -= np.log(positive / (positive + negatives)) / 2
    assert value.item() == pytest.approx(total / 3, rel=1e-6)
    assert memory.student.weight.grad.abs().sum() > 0 and memory.teacher.weight.grad.abs().sum() > 0
    for b, i in enumerate(index):
        assert np.allclose(memory.students[i], normalize(0.25 * banks[0][i].numpy() + 0.75 * ours[b]))
        assert np.allclose(memory.teachers[i], normalize(0.25 * banks[1][i].numpy() + 0.75 * theirs[b]))
    untouched = [i for i in range(7) if i not in index]
    assert torch.equal(memory.students[untouched], banks[0][untouched])


def test_negatives_are_of_other_classes_and_drawn_evenly():
    labels = [0, 1, 1, 0, 2, 1, 0, 2]
    shape = make_captured().shape
    memory = Contrastive().learned_modules(shape, shape, labels)
    drawn = memory.draw_negatives(torch.tensor([1, 4]), 30000)
    for row, i in zip(drawn, (1, 4), strict=True):
        counts = torch.bincount(row, minlength=8)
        others = [j for j in range(8) if labels[j] != labels[i]]
        assert counts.sum() == counts[others].sum()
        assert (counts[others] / 30000).numpy() == pytest.approx(1 / len(others), abs=0.01)


def test_negatives_of_a_regression_are_all_other_examples():
    shape = make_captured().shape
    memory = Contrastive().learned_modules(shape, shape, [0.5, 0.5, 2.0])
    assert set(memory.draw_negatives(torch.tensor([1]), 100)[0].tolist()) == {0, 2}


def test_examples_of_a_single_class_are_refused():
    shape = make_captured().shape
    with pytest.raises(ValueError, match="two classes"):
        Contrastive().learned_modules(shape, shape, [1, 1, 1])
