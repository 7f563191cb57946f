"""Kind `causal_lm`: text whose next token is predicted; plain text, prompts with responses, or chats."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import BadInput
from stages.kinds.base import Reference, Report, TaskKind
from stages.schema.task import CausalLMTask
from stages.settings import Base, Distill, Evaluate, TaskTraining

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy import ndarray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from stages.graph.exporter import Exporter
    from stages.tasks.predictions import Predictions
    from stages.tasks.preparation import Preparation
    from stages.tasks.scorers import Scorer
    from stages.timing.workloads import Workload
    from stages.training.train import Validation

NOTHING_TO_LABEL = "distill.augmented is for tasks with labels, and this one is a causal_lm; set it to false"


class CausalLM(TaskKind[CausalLMTask]):
    """Next-token prediction, where a label says so."""

    def write_splits(self, given: "Preparation[CausalLMTask]") -> tuple[str, dict[str, Report]]:
        from stages.language.instructions import write_conversations
        from stages.language.packing import write_packed_text

        tokenizer = given.tokenizer
        if tokenizer.eos_token_id is None:
            raise BadInput(
                f"base.model {given.base.model} has no end token; give a causal language model whose tokenizer has one"
            )
        if given.settings.augment:
            raise BadInput("prepare.augment makes sentences that have labels; set it to null for a causal_lm task")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        tokenizer.padding_side = "right"
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
        return write_packed_text(given) if given.task.text else write_conversations(given)

    def load_base(
        self, base: Base, task: CausalLMTask, *, complete: bool, setting: str = "base.model"
    ) -> "PreTrainedModel":
        from stages.models.loading import load_causal_lm

        options = {} if complete else {"dtype": "float32"}
        return load_causal_lm(base, setting=setting, **options)

    def get_finetuning_trainer(self) -> "type[Trainer]":
        from stages.language.trainer import NextTokenTrainer

        return NextTokenTrainer

    def get_distillation_trainer(self, task: CausalLMTask, settings: Distill) -> "type[Trainer]":
        from stages.distillation.causal_lm_trainer import CausalLMTrainer

        if settings.augmented:
            raise BadInput(NOTHING_TO_LABEL)
        return CausalLMTrainer

    def label_by_teacher(self, logits: "ndarray") -> list[float]:
        raise BadInput(NOTHING_TO_LABEL)

    def make_scorer(self, task: CausalLMTask) -> "Scorer":
        from stages.tasks.scorers import TokenScorer

        return TokenScorer(task.metrics)

    def validate_distillation(self, task: CausalLMTask, settings: TaskTraining) -> "Validation":
        from stages.distillation.causal_lm_trainer import validate_causal_lm

        return validate_causal_lm(self.make_scorer(task), settings)

    def predict_split(
        self,
        model: "PreTrainedModel",
        task: CausalLMTask,
        split: "Dataset",
        tokenizer: "PreTrainedTokenizerBase",
        settings: Evaluate,
        title: str,
        teacher: Reference | None = None,
    ) -> tuple["Predictions", Report]:
        """With prompts, also scores of generated responses."""
        from stages.distillation.teacher_comparison import predict_tokens
        from stages.language.generation_scores import score_generations
        from stages.models.loading import load_checkpoint

        reference = load_checkpoint(teacher.folder).to(model.device) if teacher else None
        predictions, figures = predict_tokens(model, split, tokenizer, settings.batch_size, title, teacher=reference)
        report: Report = dict(figures)
        if settings.generation.examples and not task.text:
            report["generation"] = score_generations(model, split, tokenizer, settings, task.match, title)
        return predictions, report

    def make_exporter(self, model: "PreTrainedModel", task: CausalLMTask, data: Path, max_length: int) -> "Exporter":
        from stages.graph.decoder import DecoderExporter

        return DecoderExporter(model, data, metric=task.metrics[0])

    def make_workload(self, data: Path) -> "Workload[Any]":
        from stages.timing.workloads import GenerationWorkload

        return GenerationWorkload(data)


KIND = CausalLM()
