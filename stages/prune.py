"""A pretrained model and a corpus in; smaller pretrained models, of any task, out (HomoDistil).

The student starts as a copy of the teacher. While it is distilled on the corpus, the dimensions that matter least go, a
few at a time, so that it never says something much different from its teacher; at each target it is saved as a plain,
narrower model that `from_pretrained` loads without any code of ours. With `prune.start` it is cut at once instead, in
layers, widths or ranks, and then distilled, as a rival to compare with. A killed run goes on from its last checkpoint
to the same weights.

    python -m stages.prune --corpus wikitext
    accelerate launch -m stages.prune --corpus wikitext        # several GPUs or machines

To compress for a task from here: base.model: outputs/prune/wikitext/models/6x192
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.settings import BadInput, Distill, Factorize, Pack, Prune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from stages.corpora.masking import Masking
    from stages.distillation.masked_lm import MaskedLMTrainer
    from stages.pruning.compact import Axis
    from stages.pruning.trainer import PruningTrainer
    from stages.settings import Objectives
    from stages.tracking import Run


def prune(
    settings: Prune, packed: Pack, *, data: Path, teacher: Path, output: Path, state: Path, seed: int, run: "Run"
) -> dict[str, Any]:
    """Writes `models/<layers>x<width>/` for each target, `metrics.json`, `history.csv`, `discrepancy.png`, `gone.png`.

    Returns the metrics: for the teacher and each model perplexity, accuracy (points), discrepancy (KL to the teacher,
    nats per masked token), sizes.

    Raises:
        BadInput: a target that cannot be reached, or a family that cannot be narrowed.
    """
    from transformers import AutoTokenizer, default_data_collator

    from stages.corpora.blocks import read_blocks
    from stages.corpora.masking import Masking
    from stages.distillation.masked_lm import goal
    from stages.models.size import named
    from stages.training import fingerprint, train

    tokenizer, blocks = AutoTokenizer.from_pretrained(data / "tokenizer"), read_blocks(data, "train")
    validation = _first(read_blocks(data, "validation"), settings.validation_blocks)
    key = fingerprint(settings.model_dump(), packed.model_dump(), seed, data, teacher)
    made = state / key / "models"
    kind, model = _student(settings, teacher, blocks, Masking.of(tokenizer, packed, seed), made, seed)
    trainer, metrics = train(
        kind,
        model,
        settings,
        goal=goal(),
        train=blocks,
        validation=validation,
        tokenizer=tokenizer,
        state=state,
        key=key,
        seed=seed,
        run=run,
        history=output / "history.csv",
        data_collator=default_data_collator,
    )
    trainer.close()
    if settings.start:
        trainer.save_student(made / named(model))
    if trainer.is_world_process_zero():
        shutil.copytree(made, output / "models")
        metrics = _measured(teacher, output / "models", validation, 2 * settings.batch_size) | {"training": metrics}
        _report(metrics, {} if settings.start else trainer.masks.gone(), output, run)
    return metrics


def _student(
    settings: Prune, teacher: Path, blocks: "Dataset", masking: "Masking", made: Path, seed: int
) -> "tuple[Callable[..., MaskedLMTrainer], PreTrainedModel]":
    """What is trained, and with which trainer.

    Args:
        made: the folder that the targets' models go to.
    """
    from transformers import AutoModelForMaskedLM, set_seed

    from stages.distillation.masked_lm import MaskedLMTrainer
    from stages.training import with_dropout

    model, reference = (AutoModelForMaskedLM.from_pretrained(teacher) for _ in range(2))
    set_seed(seed)
    if settings.start:
        kind, model = MaskedLMTrainer, _cut(settings.start, model, blocks, masking)
    else:
        kind = _pruning(settings, model, made, seed)
    distill = Distill(hierarchy="layers", objectives=settings.objectives)
    # without dropout it can match its teacher exactly, and where it is pruned it starts so
    return partial(kind, grouped=False, teacher=reference, distill=distill, masking=masking), with_dropout(model, 0.0)


def _pruning(settings: Prune, model: "PreTrainedModel", made: Path, seed: int) -> "Callable[..., PruningTrainer]":
    """The trainer under which the whole model shrinks to one target after the other."""
    from stages.models.anatomy import Parts
    from stages.pruning.importance import Importance
    from stages.pruning.schedule import Schedule, Widths
    from stages.pruning.targets import resolve
    from stages.pruning.trainer import PruningTrainer

    parts = Parts(model)
    schedule = Schedule(
        whole=Widths(residual=parts.width, neurons=parts.neurons),
        targets=resolve(settings.targets, model),
        warmup=settings.warmup,
        reached=settings.reached,
        shape=settings.schedule,
    )
    return partial(
        PruningTrainer,
        importance=Importance(model, settings.importance, settings.betas, seed),
        schedule=schedule,
        every=settings.every,
        folder=made,
        beside=_projections(settings.objectives, parts.width),
    )


def _cut(start: Factorize, model: "PreTrainedModel", blocks: "Dataset", masking: "Masking") -> "PreTrainedModel":
    """The model at its size from the start; the corpus calibrates the ranks."""
    from stages.lowrank.budget import room
    from stages.lowrank.reduce import reduce
    from stages.pruning.cut import cut
    from stages.pruning.plan import fit

    try:
        made = cut(model, fit(start, model))
        return reduce(start, made, room(start, model, made), _calibration(start, blocks, masking)).model
    except BadInput as error:
        raise BadInput(str(error).replace("factorize.", "prune.start.")) from None


def _calibration(start: Factorize, blocks: "Dataset", masking: "Masking") -> "Iterator[dict[str, Tensor]]":
    """Masked blocks from all over the corpus; nothing is read until the first is asked for."""
    import torch
    from tqdm import tqdm

    from stages.corpora.masking import mask

    count, size = min(start.calibration.examples, len(blocks)), start.calibration.batch_size
    rows = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(masking.seed))[:count]
    for index in tqdm(rows.split(size), desc="prune: calibration", unit="batch"):
        batch = blocks.with_format("torch")[index.tolist()]
        ids, labels = mask(batch["input_ids"].long(), batch["starts"], index, 0, masking)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


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


def _first(blocks: "Dataset", count: int | None) -> "Dataset":
    return blocks if count is None or count >= len(blocks) else blocks.select(range(count))


def _measured(teacher: Path, models: Path, validation: "Dataset", batch_size: int) -> dict[str, Any]:
    """The teacher, and each saved model as anybody would load it, large to small."""
    import torch
    from transformers import AutoModelForMaskedLM

    from stages.distillation.masked_lm import measure
    from stages.models.size import sizes

    def loaded(folder: Path) -> "PreTrainedModel":
        return AutoModelForMaskedLM.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu").eval()

    reference, found = loaded(teacher), {}
    folders = {"teacher": teacher} | {folder.name: folder for folder in models.iterdir()}
    for name, folder in folders.items():
        model = loaded(folder)
        row = measure(model, reference, validation, batch_size, f"prune: {name}")
        found[name] = row | sizes(model, folder, len(validation[0]["input_ids"]))
    return dict(sorted(found.items(), key=lambda row: -row[1]["parameters"]))


def _report(metrics: dict[str, Any], gone: "dict[Axis, Tensor]", output: Path, run: "Run") -> None:
    """Beside the models: `metrics.json`, the plots, the tracked figures."""
    from stages.pruning import plots

    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    plots.discrepancy(output / "history.csv", output / "discrepancy.png")
    plots.gone(gone, output / "gone.png")
    run.metrics({f"{name}/{key}": value for name, found in metrics.items() for key, value in found.items()})


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
