"""How much memory the objectives on logits need at a large vocabulary."""

from collections.abc import Callable

import pytest
import torch

from stages.objectives import Ranking
from stages.objectives.inputs import Batch
from stages.objectives.row_chunks import CHUNK_ENTRIES
from tests.makers.logits import LOGIT_TERMS, wrap_logits


def measure_peak(function: Callable[[], object]) -> int:
    """Most bytes that were allocated at once beyond those at the start, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    allocated = highest = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        highest = max(highest, allocated)
    return highest


@pytest.mark.parametrize("term", LOGIT_TERMS, ids=lambda t: type(t).__name__)
def test_memory_is_the_gradient_and_a_few_rows(term, monkeypatch):
    """At a vocabulary of 20,000: the gradient that is saved and that which is passed on, in the student's precision."""
    monkeypatch.setitem(CHUNK_ENTRIES, "cpu", 40_000)
    # PyTorch on a CPU adds up what was gathered in float32
    dtype = torch.float32 if isinstance(term, Ranking) else torch.bfloat16
    student, teacher = (torch.randn(200, 20_000, dtype=dtype) for _ in range(2))
    student.requires_grad_()
    batch = Batch(mask=torch.ones(1, 1), labels=torch.arange(200), rows=torch.zeros(200, dtype=torch.long))
    peak = measure_peak(lambda: term(wrap_logits(student), wrap_logits(teacher), batch).backward())
    assert peak < 2.5 * student.nbytes
    known = measure_peak(lambda: student.detach().double().exp())
    assert known == 16 * student.numel(), "what is measured is what is meant"
