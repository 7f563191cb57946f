"""A corpus in; tokenized blocks of one length out.

Reads a corpus document by document, tokenizes it as pretrain.base does, and cuts it into the blocks that `prune` trains
on. However large it is, only some documents are in memory. The same settings give the same bytes.

    python -m stages.pack --corpus wikitext

    in   data.corpora: a file, a folder, the hub, or `bundled`
    out  outputs/pack/<corpus>/data/   train/, validation/ (datasets), corpus.json, tokenizer/
         outputs/pack/<corpus>/        metrics.json (documents, blocks, tokens, vocabulary in use, fingerprint)

A corpus of your own is a few lines of params.yaml:

    corpora: [wikitext, stories]
    data:
      corpora:
        wikitext:
          source: wikitext-2          # a folder with wiki.train.tokens, wiki.valid.tokens
          documents: articles         # lines and blank_lines are the other ways to end a document in plain text
        stories:
          source: roneneldan/TinyStories
          text: text                  # the column

Training text is masked anew in every epoch; validation text once, here, so that all models make the same guesses.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.command import command
from stages.corpora.corpus import Corpus
from stages.corpora.documents import documents
from stages.models.base import load_tokenizer, require_length
from stages.settings import BadInput, Base, Pack

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from stages.tracking import Run

MODEL = "pretrain.base.model"
FROZEN_MASKS = 1
"""Stream of random numbers, beside training's 0 and what is held out."""


def pack(
    *, name: str, corpus: Corpus, base: Base, settings: Pack, seed: int, output: Path, run: "Run"
) -> dict[str, Any]:
    """Freezes a corpus's blocks in `output` and returns their statistics.

    Raises:
        BadInput: the corpus cannot be read or fills no block, or the base model reads no masks or no such block.
    """
    from stages.corpora.blocks import MaskedBlocks, save
    from stages.corpora.fill import fill
    from stages.corpora.masking import Masking

    tokenizer = _tokenizer(base, settings.block_length)
    masking = Masking.of(tokenizer, settings, seed, FROZEN_MASKS)
    length, most = settings.block_length, settings.tokens and settings.tokens // settings.block_length
    data = output / "data"
    splits = {
        "train": MaskedBlocks(data / "train", tokenizer, length, most=most),
        "validation": MaskedBlocks(data / "validation", tokenizer, length, masking=masking),
    }
    fill(splits, documents(corpus, f"data.corpora.{name}"), tokenizer, settings.validation_share, seed)
    held_out = "data.corpora's validation or pack.validation_share"
    content = save(splits, f"corpus {name}", length="pack.block_length", share=held_out)
    tokenizer.save_pretrained(str(data / "tokenizer"))
    described = {"name": name, **corpus.model_dump(), "block_length": length, "base": base.model_dump()}
    (data / "corpus.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf8")

    metrics = {
        "fingerprint": content,
        "vocabulary": {"size": len(tokenizer), "used": int((splits["train"].counts > 0).sum())},
        **{split: writer.statistics() for split, writer in splits.items()},
    }
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    run.dataset(name, content, sum(writer.blocks for writer in splits.values()))
    run.metrics({f"{split}/{k}": v for split in splits for k, v in metrics[split].items()})
    return metrics


def _tokenizer(base: Base, length: int) -> "PreTrainedTokenizerBase":
    tokenizer = load_tokenizer(base, setting=MODEL)
    ids = {"mask": tokenizer.mask_token_id, "first": tokenizer.cls_token_id, "separator": tokenizer.sep_token_id}
    if lacking := [kind for kind, token in ids.items() if token is None]:
        raise BadInput(f"{MODEL} {base.model} has no {lacking[0]} token; give an encoder such as BERT or RoBERTa")
    require_length(base, tokenizer, length, setting="pack.block_length")
    tokenizer.backend_tokenizer.no_padding()  # the base model's file may pad every text to a fixed length
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


if __name__ == "__main__":
    with command(Pack, __doc__, "corpus") as job:
        pack(
            name=job.name,
            corpus=job.corpus,
            base=job.params.pretrain.base,
            settings=job.params.pack,
            seed=job.params.seed,
            output=job.output,
            run=job.run,
        )
