"""A task's plain text in, blocks of tokens out: documents run on from block to block, the end token between them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.corpora.corpus import Corpus
from stages.corpora.documents import documents
from stages.settings import BadInput, Data
from stages.tasks import Task, folder
from stages.tasks.preparation import Preparation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def packed(given: Preparation) -> tuple[str, dict[str, dict[str, Any]]]:
    """Writes `train/` and `validation/`; returns the content's name and what is to be said of each split.

    Raises:
        BadInput: the source cannot be read or fills no block, or the task's end token is none of the tokenizer's.
    """
    from stages.corpora.blocks import CausalBlocks, save
    from stages.corpora.fill import fill

    name, task, tokenizer, settings = given.name, given.task, given.tokenizer, given.settings
    end, length = _end(name, task, tokenizer), settings.max_length
    corpus = Corpus(source=_source(given.data, name, task), text=task.text[0], documents=task.documents)
    writers = {
        "train": CausalBlocks(given.place / "train", tokenizer, length, end=end, most=settings.train_examples),
        "validation": CausalBlocks(given.place / "validation", tokenizer, length, end=end),
    }
    parts = documents(corpus, f"data.custom.{name}", source="data.source")
    fill(writers, parts, tokenizer, settings.validation_share, given.seed)
    content = save(writers, f"task {name}", length="prepare.max_length", share="prepare.validation_share")
    return content, {split: writer.statistics() for split, writer in writers.items()}


def _source(data: Data, name: str, task: Task) -> str:
    """Where the text stands: a folder, or `bundled`."""
    if data.source == "hub":
        raise BadInput(f"data.source hub has GLUE's tasks, not {name}; set data.source to a folder, or to bundled")
    if data.source == "bundled":
        return data.source
    return str(folder.places(Path(data.source).expanduser(), name, task)[0])


def _end(name: str, task: Task, tokenizer: "PreTrainedTokenizerBase") -> int:
    if not task.end:
        return tokenizer.eos_token_id
    if task.end not in (vocabulary := tokenizer.get_vocab()):
        raise BadInput(
            f"data.custom.{name}.end {task.end} is no token of base.model; take {tokenizer.eos_token}, or leave it out"
        )
    return vocabulary[task.end]
