"""The blocks that say what came out: scores, graphs, latencies, the comparison, the model registry."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.schema.block import Block, Count, Seconds, Share

Variant = Literal["fp32", "portable", "fp16", "int8"]
"""Graphs of an exported model."""


class Generation(Block):
    """Greedy generation after prompts."""

    renamed: ClassVar = {"new_tokens": "max_new_tokens"}

    examples: Annotated[int, Field(ge=0)] = 100
    """Generate for this many prompts of the validation split, the first; 0: none. Plain text has no prompts."""
    max_new_tokens: Count = 128
    """Most tokens to generate for a prompt."""


class Evaluate(Block):
    """Teacher and student in; scores, retention, sizes out."""

    renamed: ClassVar = {"answers": "generation"}

    batch_size: Count = 64
    """Examples per forward pass; changes the speed only."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Resamples of the validation split for the 95 % confidence intervals."""
    generation: Generation = Generation()
    """Of a causal_lm with prompts: generated responses, scored by ROUGE-L and by the task's `match`."""


class Export(Block):
    """The student in; an ONNX folder that any runtime loads out."""

    variants: list[Variant] = ["fp32", "portable", "int8"]
    """`fp32`: opset 23 with standard Attention and Gelu, rewritten for speed. `portable`: opset 18 for older runtimes.
    `fp16`: for GPUs. `int8`: dynamic quantization, 8-bit weights and activations."""
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    """Parity: largest difference of a logit between the graph and PyTorch (fp32, portable); of a language model,
    throughout greedy generations."""
    int8_score_drop: Annotated[float, Field(ge=0)] = 0.5
    """Points of score that int8 or fp16 may lose against fp32; beyond that it is refused, with the figures. A language
    model's score is the accuracy of its next tokens on the validation split, or its likelihood (100 / perplexity)."""
    calibration_examples: Count = 128
    """Calibration of int8: training examples that its smoothing takes ranges from."""
    triton: Variant = "portable"
    """Graph for Triton (its ONNX Runtime may be an older one); fp32 where that one is not made, or refused."""


class Benchmark(Block):
    """Teacher's and student's graphs in; latency, throughput, memory side by side out."""

    batch_sizes: list[Count] = [1, 8, 32]
    """Sentences per request; of a language model, texts generated at once."""
    lengths: list[Literal["real"] | Count] = ["real", 128]
    """`real`: the validation split's own lengths; a number: every input (or prompt) that many tokens."""
    threads: Count = 1
    """ONNX Runtime's intra-op threads; spinning is off."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """Execution provider; `cuda` is an error when the session falls back to the CPU."""
    variants: list[Variant] = ["fp32", "int8"]
    """Student graphs to time; the teacher is always fp32."""
    seconds: Seconds = 1.0
    """Time spent on each cell (model x length x batch), in interleaved rounds."""


class Limit(Block):
    """What the student to take must meet; all that are given."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    """Highest p50 latency in milliseconds, in the cell that the table shows."""
    params: Count | None = None
    """Most parameters, embeddings and head included."""
    layer_params: Count | None = None
    """Most parameters in the layers."""
    bytes: Count | None = None
    """Most bytes of weights on disk."""
    retention: Share | None = None
    """Least share of the teacher's score, such as 0.98; of those that keep as much, the smallest is taken."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"limit names nothing; give one of {', '.join(type(self).model_fields)}, or null")
        return self


class Compare(Block):
    """Every score in; one table, the plots and the student to take out."""

    variant: Variant = "fp32"
    """Student graph whose latency is shown; the teacher's is always fp32."""
    length: Literal["real"] | Count = "real"
    """Length whose latency is shown, one of `benchmark.lengths`."""
    batch_size: Count = 1
    """Batch whose latency is shown, one of `benchmark.batch_sizes`."""
    limit: Limit | None = None
    """Names the student to take: the best score among those within it; null names none."""


class Promote(Block):
    """Gates of the model registry between `challenger` and `champion`; all must hold for the alias to move."""

    score_drop: Annotated[float, Field(ge=0)] = 0.5
    """Points of score that the challenger may lie under the champion."""
    size_growth: Annotated[float, Field(gt=0)] = 1.0
    """Largest size of the challenger as a share of the champion's."""
    latency_growth: Annotated[float, Field(gt=0)] = 1.05
    """Largest latency of the challenger as a share of the champion's."""


class Tracking(Block):
    """MLflow. The server is named by MLFLOW_TRACKING_URI; without it, a SQLite file under `.makd/`."""

    experiment: str = "makd"
    """Experiment that the runs appear under."""
    system_metrics: bool = True
    """Log CPU, memory and GPU use while a stage runs."""
