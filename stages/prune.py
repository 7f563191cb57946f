"""A pretrained model and a corpus in; smaller pretrained models, of any task, out (HomoDistil).

Task-agnostic distillation with homotopic pruning: the student starts as a copy of the teacher. While it is distilled on
the corpus, the least important dimensions are removed, a few at a time, so that its predictions are never far from its
teacher's; at each target it is saved as a plain, narrower model that `from_pretrained` loads without any code of ours.
With `prune.factorize` it is cut at once instead, in layers, widths or ranks, and then distilled, as a baseline to
compare with. A killed run resumes from its last checkpoint and ends with the same weights.

    python -m stages.prune --corpus wikitext
    accelerate launch -m stages.prune --corpus wikitext        # several GPUs or machines

To compress for a task from here: base.model: outputs/prune/wikitext/models/6x192
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.errors import BadInput
from stages.schema.corpus import Corpus
from stages.settings import Distill, Factorize, Pack, Prune
from stages.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from stages.distillation.masked_lm_trainer import MaskedLMTrainer
    from stages.kinds.base import CorpusKind
    from stages.objectives import Objectives
    from stages.pruning.compact import Axis
    from stages.tracking import Run

    MakeBatches = Callable[[Factorize], Iterator[dict[str, Tensor]]]


def prune(
    settings: Prune,
    work: Workspace,
    *,
    corpus: Corpus,
    packed: Pack,
    data: Path,
    teacher: Path,
    title: str = "prune",
) -> dict[str, Any]:
    """Writes `models/<layers>x<width>/` for each target, `metrics.json`, `summary.json`, `history.csv`,
    `discrepancy.png`, `removals.png`.

    Returns the metrics: for the teacher and each model perplexity, accuracy (points), discrepancy (KL to the teacher,
    nats per masked token), sizes.

    Raises:
        BadInput: a target that cannot be reached, or a family that cannot be narrowed.
    """
    from transformers import AutoTokenizer

    from stages.corpora.blocks import read_blocks
    from stages.kinds import get_corpus_kind
    from stages.models.size import name_by_size
    from stages.training.fingerprint import fingerprint_inputs
    from stages.training.train import TrainingJob, train

    kind, tokenizer, blocks = (
        get_corpus_kind(corpus),
        AutoTokenizer.from_pretrained(data / "tokenizer"),
        read_blocks(data, "train"),
    )
    validation = _take_first(read_blocks(data, "validation"), settings.validation_blocks)
    job = TrainingJob(
        title=title,
        settings=settings,
        train=blocks,
        validation=validation,
        tokenizer=tokenizer,
        validated=kind.make_validation(),
        fingerprint=fingerprint_inputs(settings.model_dump(), packed.model_dump(), work.seed, data, teacher),
        work=work,
    )
    models = work.state / job.fingerprint / "models"

    def make_batches(student: Factorize) -> "Iterator[dict[str, Tensor]]":
        return kind.make_calibration_batches(blocks, student.calibration, tokenizer, packed, work.seed)

    make_trainer, model = _make_student(settings, kind, teacher, models, make_batches, work.seed)
    options = kind.make_trainer_options(tokenizer, packed, work.seed)
    trainer, metrics = train(job, model, partial(make_trainer, **options))
    trainer.close()
    if settings.factorize:
        trainer.save_student(models / name_by_size(model))
    if trainer.is_world_process_zero():
        shutil.copytree(models, work.output / "models")
        rows = _score_models(kind, teacher, work.output / "models", validation, 2 * settings.batch_size, title)
        metrics = rows | {"training": metrics}
        _write_report(metrics, {} if settings.factorize else trainer.masks.removal_steps(), work.output, work.run)
    return metrics


def _make_student(
    settings: Prune,
    kind: "CorpusKind",
    teacher: Path,
    models: Path,
    make_batches: "MakeBatches",
    seed: int,
) -> "tuple[Callable[..., MaskedLMTrainer], PreTrainedModel]":
    """The trainer, its arguments bound, and the model that it trains.

    Args:
        models: the folder that the targets' models go to.
        make_batches: calibration text.
    """
    from transformers import set_seed

    from stages.models.loading import set_dropout

    model, reference = (kind.open_checkpoint(teacher) for _ in range(2))
    set_seed(seed)
    if settings.factorize:
        make_trainer: Callable[..., MaskedLMTrainer] = kind.get_distillation_trainer()
        model = _factorize_at_once(settings.factorize, model, make_batches)
    else:
        make_trainer = _bind_pruning(settings, kind, model, models, seed)
    distill = Distill(hierarchy="joint", objectives=settings.objectives)
    # without dropout it can match its teacher exactly, and where it is pruned it starts so
    return partial(make_trainer, teacher=reference, distill=distill), set_dropout(model, 0.0)


def _bind_pruning(
    settings: Prune, kind: "CorpusKind", model: "PreTrainedModel", models: Path, seed: int
) -> "Callable[..., MaskedLMTrainer]":
    """The trainer under which the whole model shrinks to one target after the other."""
    from stages.models.anatomy import ModelParts
    from stages.pruning.importance import Importance
    from stages.pruning.schedule import PruningSchedule, Widths
    from stages.pruning.targets import resolve_targets

    parts = ModelParts(model)
    schedule = PruningSchedule(
        whole=Widths(residual=parts.width, neurons=parts.neurons),
        targets=resolve_targets(settings.targets, model),
        warmup_ratio=settings.warmup_ratio,
        pruning_end=settings.pruning_end,
        shape=settings.schedule,
    )
    return partial(
        kind.get_pruning_trainer(),
        importance=Importance(model, settings.importance, settings.betas, seed),
        schedule=schedule,
        every=settings.every,
        folder=models,
        extra_modules=_make_projections(settings.objectives, parts.width),
    )


def _factorize_at_once(settings: Factorize, model: "PreTrainedModel", make_batches: "MakeBatches") -> "PreTrainedModel":
    """The model at its size from the start; the corpus calibrates the ranks."""
    from stages.lowrank.budget import matrix_budget
    from stages.lowrank.factorization import factorize_model
    from stages.pruning.cut import cut_to_plan
    from stages.pruning.plan import plan_from_budget

    try:
        student = cut_to_plan(model, plan_from_budget(settings, model))
        budget = matrix_budget(settings, model, student)
        return factorize_model(settings, student, budget, make_batches(settings)).model
    except BadInput as error:
        raise BadInput(str(error).replace("factorize.", "prune.factorize.")) from None


def _make_projections(objectives: "Objectives", width: int) -> "dict[str, nn.Module]":
    """From the student's hidden states to the teacher's, one map for each objective; the identity to start with.

    Source: HomoDistil, eq. 3; the start is ours: at first the student is the teacher.
    """
    from torch import nn

    projections: dict[str, nn.Module] = {}
    for name in ("hidden", "embedding"):
        if name in objectives.active_terms():
            linear = nn.Linear(width, width, bias=False)
            projections[name] = nn.ModuleDict({"hidden": linear})
            nn.init.eye_(linear.weight)
    return projections


def _take_first(blocks: "Dataset", count: int | None) -> "Dataset":
    return blocks if count is None or count >= len(blocks) else blocks.select(range(count))


def _score_models(
    kind: "CorpusKind", teacher: Path, models: Path, validation: "Dataset", batch_size: int, title: str
) -> dict[str, Any]:
    """The teacher, and each saved model as anybody would load it, large to small."""
    import torch

    from stages.models.size import measure_size

    def load(folder: Path) -> "PreTrainedModel":
        return kind.open_checkpoint(folder).to("cuda" if torch.cuda.is_available() else "cpu").eval()

    reference, rows = load(teacher), {}
    folders = {"teacher": teacher} | {folder.name: folder for folder in models.iterdir()}
    for name, folder in folders.items():
        model = load(folder)
        scores = kind.score_blocks(model, reference, validation, batch_size, f"{title}: {name}")
        rows[name] = scores | measure_size(model, folder, len(validation[0]["input_ids"]))
    return dict(sorted(rows.items(), key=lambda row: -row[1]["parameters"]))


def _write_report(metrics: dict[str, Any], removals: "dict[Axis, Tensor]", output: Path, run: "Run") -> None:
    """Beside the models: `metrics.json`, `summary.json`, the plots, the tracked metrics."""
    from stages.pruning import plots

    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    short = {
        name: {key: row[key] for key in ("perplexity", "parameters")}
        for name, row in metrics.items()
        if name != "training"
    }
    (output / "summary.json").write_text(json.dumps(short, indent=2) + "\n")
    plots.plot_discrepancy(output / "history.csv", output / "discrepancy.png")
    plots.plot_removals(removals, output / "removals.png")
    run.log_metrics({f"{name}/{key}": value for name, row in metrics.items() for key, value in row.items()})


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line per model, for the terminal."""
    rows = {model: row for model, row in metrics.items() if model != "training"}
    return "\n".join(
        f"{name}: {model}, {row['parameters']:,} parameters, perplexity {row['perplexity']:.2f}"
        for model, row in rows.items()
    )


if __name__ == "__main__":
    with command("prune", Prune, __doc__, "corpus") as job:
        pruned = prune(
            job.params.prune,
            job.work,
            corpus=job.corpus,
            packed=job.params.pack,
            data=job.find_output("pack", "data"),
            teacher=job.find_output("pretrain", "model"),
            title=f"prune {job.name}",
        )
        print(report(job.name, pruned))
