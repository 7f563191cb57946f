"""A task's plain text in, blocks of tokens out (packing): documents run on from block to block, the end token between
them.
"""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.corpora.blocks import BlockWriter, CausalBlockWriter, save_blocks
from stages.corpora.documents import read_documents
from stages.corpora.fill import fill_blocks
from stages.errors import BadInput
from stages.schema.corpus import Corpus
from stages.schema.task import CausalLMTask
from stages.settings import Data
from stages.tasks.data_folder import find_task_folders
from stages.tasks.preparation import Preparation


def write_packed_text(given: Preparation[CausalLMTask]) -> tuple[str, dict[str, dict[str, Any]]]:
    """Writes `train/` and `validation/`; returns the content's fingerprint and a report on each split.

    Raises:
        BadInput: the source cannot be read or fills no block, or the task's end token is none of the tokenizer's.
    """
    name, task, tokenizer, settings = given.name, given.task, given.tokenizer, given.settings
    end, length = _find_end_token(name, task, tokenizer), settings.max_length
    corpus = Corpus(source=_locate_source(given.data, name, task), text=task.text[0], documents=task.documents)
    writers: dict[str, BlockWriter] = {
        "train": CausalBlockWriter(given.folder / "train", tokenizer, length, end=end, most=settings.train_examples),
        "validation": CausalBlockWriter(given.folder / "validation", tokenizer, length, end=end),
    }
    documents = read_documents(corpus, f"data.custom.{name}", source="data.source")
    fill_blocks(writers, documents, tokenizer, settings.validation_share, given.seed)
    content = save_blocks(writers, f"task {name}", length="prepare.max_length", share="prepare.validation_share")
    return content, {split: writer.statistics() for split, writer in writers.items()}


def _locate_source(data: Data, name: str, task: CausalLMTask) -> str:
    """The source of the text: a folder, or `bundled`."""
    if data.source == "hub":
        raise BadInput(f"data.source hub has GLUE's tasks, not {name}; set data.source to a folder, or to bundled")
    if data.source == "bundled":
        return data.source
    return str(find_task_folders(Path(data.source).expanduser(), name, task)[0])


def _find_end_token(name: str, task: CausalLMTask, tokenizer: PreTrainedTokenizerBase) -> int:
    if not task.end:
        return tokenizer.eos_token_id
    if task.end not in (vocabulary := tokenizer.get_vocab()):
        raise BadInput(
            f"data.custom.{name}.end {task.end} is no token of base.model; take {tokenizer.eos_token}, or leave it out"
        )
    return vocabulary[task.end]
