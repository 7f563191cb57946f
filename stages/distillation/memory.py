"""What contrastive distillation learns and remembers: two projections, and the last projections of every example."""

import torch
from torch import Tensor, nn
from torch import distributed as dist

from stages.distillation.distances import unit


class Memory(nn.Module):
    """Projections of student and teacher to one space, and a bank of both for each training example.

    Shapes: students, teachers (examples, width), every row of length 1.

    Raises:
        ValueError: all examples are of one class, so that there is nothing to tell them from.
    """

    def __init__(self, student: int, teacher: int, width: int, labels: list) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(student, width), nn.Linear(teacher, width)
        # a regression has no classes: every example is its own
        values = torch.as_tensor(labels)
        classes = torch.arange(len(values)) if values.is_floating_point() else values
        order = classes.argsort(stable=True)
        place = classes[order].contiguous()
        self.examples = len(values)
        self.register_buffer("order", order)
        self.register_buffer("first", torch.searchsorted(place, classes))
        self.register_buffer("own", torch.searchsorted(place, classes, right=True) - self.first)
        self.register_buffer("students", unit(torch.randn(self.examples, width)))
        self.register_buffer("teachers", unit(torch.randn(self.examples, width)))
        if int(self.own.max()) == self.examples:
            raise ValueError("needs training examples of two classes or more")

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, hidden) each -> (batch, width) each, rows of length 1."""
        return unit(self.student(student)), unit(self.teacher(teacher.clone()))  # a copy: made in inference mode

    def draw(self, index: Tensor, count: int) -> Tensor:
        """For each example `count` others of other classes, uniformly, with repetition; (batch, count)."""
        first, own = self.first[index].unsqueeze(1), self.own[index].unsqueeze(1)
        uniform = torch.rand(len(index), count, device=index.device, dtype=torch.float64)
        drawn = (uniform * (self.examples - own)).long()
        return self.order[drawn + own * (drawn >= first)]  # in the order by class, jump over one's own

    def remember(self, index: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Moves the bank towards these projections; those of all processes."""
        if dist.is_available() and dist.is_initialized():
            index, student, teacher = (_gathered(x) for x in (index, student, teacher))
        for bank, new in ((self.students, student), (self.teachers, teacher)):
            bank[index] = unit(momentum * bank[index] + (1 - momentum) * new.to(bank.dtype))


def _gathered(mine: Tensor) -> Tensor:
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine.contiguous())
    return torch.cat(parts)
