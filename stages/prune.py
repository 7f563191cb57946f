"""A pretrained model and a corpus in; smaller pretrained models, of any task, out (HomoDistil).

The student starts as a copy of the teacher. While it is distilled on the corpus, the dimensions that matter least go, a
few at a time, so that it never says something much different from its teacher; at each target it is saved as a plain,
narrower model that `from_pretrained` loads without any code of ours. A killed run goes on from its last checkpoint and
ends with the same weights.

    python -m stages.prune --corpus wikitext
    accelerate launch -m stages.prune --corpus wikitext        # several GPUs or machines

To compress for a task from here: base.model: outputs/prune/wikitext/models/192
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import Distill, Pack, Prune

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from stages.pruning.compact import Axis
    from stages.settings import Objectives
    from stages.tracking import Run


def prune(
    settings: Prune, packed: Pack, *, data: Path, teacher: Path, output: Path, state: Path, seed: int, run: "Run"
) -> dict[str, Any]:
    """Writes `models/<hidden size>/` for each target, `metrics.json`, `history.csv`, `discrepancy.png`, `gone.png`.

    Returns the metrics: for the teacher and each model perplexity, accuracy (points), discrepancy (KL to the teacher,
    nats per masked token), parameters.

    Raises:
        BadInput: a target that cannot be reached, or a family that cannot be narrowed.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer, default_data_collator, set_seed

    from stages.corpora.blocks import read_blocks
    from stages.corpora.masking import Masking
    from stages.distillation.masked_lm import goal
    from stages.models.anatomy import Parts
    from stages.pruning.importance import Importance
    from stages.pruning.schedule import Schedule, Widths
    from stages.pruning.targets import resolve
    from stages.pruning.trainer import PruningTrainer
    from stages.training import fingerprint, train

    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    model, reference = (AutoModelForMaskedLM.from_pretrained(teacher) for _ in range(2))
    targets = resolve(settings.targets, model)
    set_seed(seed)
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0  # it can match the teacher exactly, and starts so
    validation = _first(read_blocks(data, "validation"), settings.validation_blocks)
    key = fingerprint(settings.model_dump(), packed.model_dump(), seed, data, teacher)
    parts = Parts(model)
    trainer, metrics = train(
        PruningTrainer,
        model,
        settings,
        goal=goal(),
        train=read_blocks(data, "train"),
        validation=validation,
        tokenizer=tokenizer,
        state=state,
        key=key,
        seed=seed,
        run=run,
        history=output / "history.csv",
        data_collator=default_data_collator,
        grouped=False,
        teacher=reference,
        distill=Distill(hierarchy="layers", objectives=settings.objectives),
        masking=Masking.of(tokenizer, packed, seed),
        importance=Importance(model, settings.importance, settings.betas, seed),
        schedule=Schedule(
            whole=Widths(residual=parts.width, neurons=parts.neurons),
            targets=targets,
            warmup=settings.warmup,
            reached=settings.reached,
            shape=settings.schedule,
        ),
        every=settings.every,
        folder=state / key / "models",
        beside=_projections(settings.objectives, parts.width),
    )
    if not trainer.is_world_process_zero():
        return metrics
    trainer.close()
    shutil.copytree(state / key / "models", output / "models")
    metrics = _measured(output / "models", trainer.teacher, validation, 2 * settings.batch_size) | {"training": metrics}
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    _plot_discrepancy(output / "history.csv", output / "discrepancy.png")
    _plot_gone(trainer.masks.gone(), output / "gone.png")
    run.metrics({f"{name}/{key}": value for name, found in metrics.items() for key, value in found.items()})
    return metrics


def _first(blocks: "Dataset", count: int | None) -> "Dataset":
    return blocks if count is None or count >= len(blocks) else blocks.select(range(count))


def _projections(objectives: "Objectives", width: int) -> dict[str, "nn.Module"]:
    """From the student's hidden states to the teacher's, one map for each objective; the identity to start with.

    Source: HomoDistil, eq. 3; the start is ours: at first the student is the teacher.
    """
    from torch import nn

    found: dict[str, nn.Module] = {}
    for name in ("hidden", "embedding"):
        if name in objectives.active():
            found[name] = nn.ModuleDict({"hidden": nn.Linear(width, width, bias=False)})
            nn.init.eye_(found[name]["hidden"].weight)
    return found


def _measured(models: Path, teacher: "PreTrainedModel", validation: "Dataset", batch_size: int) -> dict[str, Any]:
    """The teacher, and each saved model as anybody would load it, wide to narrow."""
    from transformers import AutoModelForMaskedLM

    from stages.distillation.masked_lm import measure
    from stages.models.size import sizes

    found = {}
    for folder in [None, *sorted(models.iterdir(), key=lambda path: -int(path.name))]:
        model = AutoModelForMaskedLM.from_pretrained(folder).to(teacher.device).eval() if folder else teacher
        name = folder.name if folder else "teacher"
        row = measure(model, teacher, validation, batch_size, f"prune: {name}")
        found[name] = row | sizes(model, folder or models, len(validation[0]["input_ids"]))
    return found


def _plot_discrepancy(history: Path, path: Path) -> None:
    """How far the student is from its teacher while it shrinks."""
    import pandas as pd
    from matplotlib.figure import Figure

    table = pd.read_csv(history)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for column, label, marker in (("loss/kl", "training", ""), ("validation/discrepancy", "validation", "o")):
        if column in table:
            points = table[["step", column]].dropna()
            axes.plot(points["step"], points[column], marker=marker, label=label)
    axes.set(xlabel="step", ylabel="KL(teacher, student), nats per token", ylim=(0, None))
    kept = axes.twinx()
    points = table[["step", "kept/residual"]].dropna()
    kept.plot(points["step"], points["kept/residual"], color="gray", ls="--", label="width")
    kept.set(ylabel="share of the width", ylim=(0, 1.02))
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _plot_gone(gone: "dict[Axis, Tensor]", path: Path) -> None:
    """Which dimension of which layer went when: a panel per group, a row per layer; white ones stayed."""
    import numpy as np
    from matplotlib.figure import Figure

    groups: dict[str, list[np.ndarray]] = {}
    for (group, _), steps in gone.items():
        groups.setdefault(group, []).append(np.where(steps.cpu() > 0, steps.cpu(), np.nan))
    heights = [max(1, len(rows)) for rows in groups.values()]
    figure = Figure(figsize=(9, 1.2 * len(groups) + 0.25 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[2 + height for height in heights])[:, 0]
    last = max(float(steps.max()) for steps in gone.values())
    for axes, (group, rows) in zip(panels, groups.items(), strict=True):
        image = axes.imshow(np.stack(rows), aspect="auto", interpolation="none", cmap="viridis", vmin=0, vmax=last)
        axes.set(title=group, ylabel="layer", xlabel="dimension")
        axes.set_yticks(range(len(rows)), [str(i + 1) for i in range(len(rows))] if len(rows) > 1 else ["all"])
    figure.colorbar(image, ax=list(panels), label="step at which it went")
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    with command(Prune, __doc__, "corpus") as job:
        prune(
            job.params.prune,
            job.params.pack,
            data=job.of("pack", "data"),
            teacher=job.of("pretrain", "model"),
            output=job.output,
            state=job.state,
            seed=job.params.seed,
            run=job.run,
        )
