"""What contrastive distillation learns and keeps: two projections, and a bank of the last ones of every example."""

import torch
from torch import Tensor, nn
from torch import distributed as dist

from stages.objectives.distances import normalize_vectors


class MemoryBank(nn.Module):
    """Projections of student and teacher to one space, and a bank of both for each training example.

    Shapes: students, teachers (examples, width), every row of length 1.

    Raises:
        ValueError: all examples are of one class, so that there are no negatives.
    """

    order: Tensor
    """Indices of the examples, sorted by class; (examples,)."""
    first: Tensor
    """Where an example's class begins in that order; (examples,)."""
    class_size: Tensor
    """Number of examples of an example's class; (examples,)."""
    students: Tensor
    teachers: Tensor

    def __init__(self, student: int, teacher: int, width: int, labels: list[float]) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(student, width), nn.Linear(teacher, width)
        # a regression has no classes: every example is its own
        values = torch.as_tensor(labels)
        classes = torch.arange(len(values)) if values.is_floating_point() else values
        order = classes.argsort(stable=True)
        sorted_classes = classes[order].contiguous()
        self.examples = len(values)
        self.register_buffer("order", order)
        self.register_buffer("first", torch.searchsorted(sorted_classes, classes))
        self.register_buffer("class_size", torch.searchsorted(sorted_classes, classes, right=True) - self.first)
        self.register_buffer("students", normalize_vectors(torch.randn(self.examples, width)))
        self.register_buffer("teachers", normalize_vectors(torch.randn(self.examples, width)))
        if int(self.class_size.max()) == self.examples:
            raise ValueError("needs training examples of two classes or more")

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hidden) each -> (batch, width) each, rows of length 1."""
        teacher = teacher.clone()  # what inference mode made cannot be saved for the backward pass
        return normalize_vectors(self.student(student)), normalize_vectors(self.teacher(teacher))

    def draw_negatives(self, index: Tensor, count: int) -> Tensor:
        """For each example `count` others of other classes, uniformly, with repetition; (batch, count)."""
        first, own = self.first[index].unsqueeze(1), self.class_size[index].unsqueeze(1)
        uniform = torch.rand(len(index), count, device=index.device, dtype=torch.float64)
        drawn = (uniform * (self.examples - own)).long()
        return self.order[drawn + own * (drawn >= first)]  # in the order by class, skip one's own

    def update(self, index: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Moves the bank towards these projections; those of all processes."""
        if dist.is_available() and dist.is_initialized():
            index, student, teacher = (_gather(x) for x in (index, student, teacher))
        for bank, new in ((self.students, student), (self.teachers, teacher)):
            bank[index] = normalize_vectors(momentum * bank[index] + (1 - momentum) * new.to(bank.dtype))


def _gather(own: Tensor) -> Tensor:
    """That tensor of all processes, one after the other."""
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own.contiguous())
    return torch.cat(parts)
