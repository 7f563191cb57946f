"""Kind `masked_lm`: a corpus whose masked tokens are predicted, for encoders before any task is known."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import BadInput
from stages.kinds.base import CorpusKind, Report
from stages.schema.corpus import Corpus
from stages.settings import Base, Calibration, HeadTraining, Pack

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stages.distillation.masked_lm_trainer import MaskedLMTrainer
    from stages.pruning.trainer import PruningTrainer
    from stages.training.train import Validation

MODEL = "pretrain.base.model"
FROZEN_MASKS = 1
"""Stream of random numbers of the validation masks; training's are stream 0."""


class MaskedLM(CorpusKind):
    """Masked-token prediction (Devlin et al. 2019)."""

    def load_tokenizer(self, base: Base, length: int) -> "PreTrainedTokenizerBase":
        from stages.models.pretrained import load_tokenizer, require_length

        tokenizer = load_tokenizer(base, setting=MODEL)
        ids = {"mask": tokenizer.mask_token_id, "first": tokenizer.cls_token_id, "separator": tokenizer.sep_token_id}
        if lacking := [name for name, token in ids.items() if token is None]:
            raise BadInput(f"{MODEL} {base.model} has no {lacking[0]} token; give an encoder such as BERT or RoBERTa")
        require_length(base, tokenizer, length, setting="pack.block_length")
        tokenizer.backend_tokenizer.no_padding()  # the base model's file may pad every text to a fixed length
        tokenizer.backend_tokenizer.no_truncation()
        return tokenizer

    def write_blocks(
        self, corpus: Corpus, name: str, tokenizer: "PreTrainedTokenizerBase", settings: Pack, seed: int, folder: Path
    ) -> tuple[str, int, dict[str, Report]]:
        """Training text is masked anew in every epoch; validation text here, so that all models predict the same."""
        from stages.corpora.blocks import BlockWriter, MaskedBlockWriter, save_blocks
        from stages.corpora.documents import read_documents
        from stages.corpora.fill import fill_blocks
        from stages.corpora.masking import Masking

        length = settings.block_length
        most = settings.max_tokens and settings.max_tokens // length
        masking = Masking.from_settings(tokenizer, settings, seed, FROZEN_MASKS)
        splits: dict[str, BlockWriter] = {
            "train": MaskedBlockWriter(folder / "train", tokenizer, length, most=most),
            "validation": MaskedBlockWriter(folder / "validation", tokenizer, length, masking=masking),
        }
        documents = read_documents(corpus, f"data.corpora.{name}")
        fill_blocks(splits, documents, tokenizer, settings.validation_share, seed)
        held_out = "data.corpora's validation or pack.validation_share"
        content = save_blocks(splits, f"corpus {name}", length="pack.block_length", share=held_out)
        used = int((splits["train"].counts > 0).sum())
        return content, used, {split: writer.statistics() for split, writer in splits.items()}

    def load_teacher(self, base: Base) -> tuple["PreTrainedModel", frozenset[str]]:
        from stages.models.masked_lm import load_masked_lm

        return load_masked_lm(base, setting=MODEL)

    def train_head(
        self,
        model: "PreTrainedModel",
        fresh: frozenset[str],
        tokenizer: "PreTrainedTokenizerBase",
        data: Path,
        settings: HeadTraining,
        seed: int,
    ) -> list[float]:
        from stages.corpora.blocks import read_blocks
        from stages.models.masked_lm import train_head

        return train_head(model, fresh, tokenizer, read_blocks(data, "train")["input_ids"], settings, seed)

    def open_checkpoint(self, folder: Path) -> "PreTrainedModel":
        from transformers import AutoModelForMaskedLM

        return AutoModelForMaskedLM.from_pretrained(folder)

    def make_trainer_options(self, tokenizer: "PreTrainedTokenizerBase", settings: Pack, seed: int) -> dict[str, Any]:
        from transformers import default_data_collator

        from stages.corpora.masking import Masking

        masking = Masking.from_settings(tokenizer, settings, seed)
        return {"masking": masking, "data_collator": default_data_collator, "group_by_length": False}

    def get_distillation_trainer(self) -> "type[MaskedLMTrainer]":
        from stages.distillation.masked_lm_trainer import MaskedLMTrainer

        return MaskedLMTrainer

    def get_pruning_trainer(self) -> "type[PruningTrainer]":
        from stages.pruning.trainer import PruningTrainer

        return PruningTrainer

    def make_calibration_batches(
        self, blocks: "Dataset", calibration: Calibration, tokenizer: "PreTrainedTokenizerBase", packed: Pack, seed: int
    ) -> "Iterator[dict[str, Tensor]]":
        import torch

        from stages.corpora.masking import Masking, mask_tokens
        from stages.progress import track

        masking = Masking.from_settings(tokenizer, packed, seed)
        count, size = min(calibration.examples, len(blocks)), calibration.batch_size
        rows = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(masking.seed))[:count]
        for index in track(rows.split(size), "prune: calibration"):
            batch = blocks.with_format("torch")[index.tolist()]
            ids, labels = mask_tokens(batch["input_ids"].long(), batch["starts"], index, 0, masking)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

    def make_validation(self) -> "Validation":
        from stages.distillation.masked_lm_trainer import validate_masked_lm

        return validate_masked_lm()

    def score_blocks(
        self,
        model: "PreTrainedModel",
        teacher: "PreTrainedModel",
        blocks: "Dataset",
        batch_size: int,
        title: str,
    ) -> dict[str, float]:
        from stages.distillation.masked_lm_trainer import score_masked_lm

        return score_masked_lm(model, teacher, blocks, batch_size, title)


KIND = MaskedLM()
