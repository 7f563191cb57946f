"""The block that says how a student is made of the teacher, before it is trained."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.schema.block import Block, Count


class Calibration(Block):
    """Training text that the `whitened` and `fisher` decompositions take their statistics from."""

    examples: Count = 1024
    """Training examples, drawn with the seed."""
    batch_size: Count = 32
    """Examples per forward pass; changes the speed only."""


class Factorize(Block):
    """The teacher in; a student of the wanted size out: some of its layers, narrower, the rest by low rank."""

    renamed: ClassVar = {"start": "pretrained_student"}

    budget: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the teacher's layer parameters that the student may keep; met within 1 % from below. What is over it
    after the cuts below is factorized away: 0.334, not 0.333, keeps 2 of 6 layers dense."""
    count: Literal["layers", "all"] = "layers"
    """What the budget is a share of: the Transformer layers, or all parameters with embeddings and head."""
    pretrained_student: str | None = None
    """A smaller pretrained model with the teacher's vocabulary to start from, such as one of `prune`'s: a folder or a
    hub id. It takes the place of the teacher's own layers; null: those."""
    layers: Literal["all", "first", "last", "every"] | list[int] = "all"
    """The teacher's layers that the student starts from. `every`: the last of each block (2, 4, 6 of 6). A list counts
    from 1."""
    depth: Count | None = None
    """Layers to take with `first`, `last` or `every`; null: the fewest that reach the budget."""
    hidden_size: Count | None = None
    """Width of a narrower residual stream, a multiple of the head count: as many heads, each smaller; null: as wide as
    the teacher's. The dimensions with the largest weights stay."""
    intermediate_size: Count | None = None
    """Inner width of the feed-forward; null: the teacher's, or with `hidden_size` what the budget leaves for it."""
    decomposition: Literal["svd", "fisher", "whitened"] = "whitened"
    """`svd`: weights alone. `fisher`: rows weighted by the loss's gradients (Fisher information). `whitened`: whitening
    by the input's covariance, which makes each matrix's output error the smallest that its rank allows."""
    rank_rule: Literal["ratio", "uniform", "global", "speed"] = "global"
    """`ratio`: every matrix the same share. `uniform`: one rank for all. `global`: ranks go where they save the most
    output error per parameter; `speed`: per multiplication, of which a last layer that the head reads one token of
    costs next to none."""
    multiple_of: Count = 8
    """Ranks, and an `intermediate_size` made from the budget, are multiples of this (vector width); smaller models may
    need 1 to meet the budget."""
    embeddings: Count | None = None
    """Rank of the word embedding's factors; null leaves it whole."""
    calibration: Calibration = Calibration()
    """Calibration text for `whitened` and `fisher`."""

    @model_validator(mode="after")
    def _choose_layers_once(self) -> Self:
        listed = self.layers if isinstance(self.layers, list) else None
        if listed is not None and (not listed or min(listed) < 1 or listed != sorted(set(listed))):
            raise ValueError(f"layers {listed} must count from 1 and ascend without repeats, like [2, 4, 6]")
        if self.depth is not None and (listed is not None or self.layers == "all"):
            raise ValueError(
                f"depth {self.depth} has no meaning with layers {self.layers}; use layers first, last or every, "
                "or take depth out"
            )
        if self.pretrained_student and (self.layers != "all" or self.hidden_size or self.intermediate_size):
            raise ValueError(
                f"pretrained_student {self.pretrained_student} is taken as it is; take layers, hidden_size, "
                "intermediate_size out"
            )
        return self
