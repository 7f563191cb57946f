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

Training text is masked anew in every epoch; validation text once, here, so that all models predict the same tokens.
"""

import json
from typing import Any

from stages.command import command
from stages.schema.corpus import Corpus
from stages.settings import Base, Pack
from stages.workspace import Workspace


def pack(settings: Pack, work: Workspace, *, name: str, corpus: Corpus, base: Base) -> dict[str, Any]:
    """Freezes a corpus's blocks, and returns their statistics.

    Raises:
        BadInput: the corpus cannot be read or fills no block, or the base model's tokenizer has no mask token, or the
            model reads no such block.
    """
    from stages.kinds import get_corpus_kind

    kind, data = get_corpus_kind(corpus), work.output / "data"
    tokenizer = kind.load_tokenizer(base, settings.block_length)
    content, used, reports = kind.write_blocks(corpus, name, tokenizer, settings, work.seed, data)
    tokenizer.save_pretrained(str(data / "tokenizer"))
    facts = {"name": name, **corpus.model_dump(), "block_length": settings.block_length, "base": base.model_dump()}
    (data / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf8")

    metrics = {"fingerprint": content, "vocabulary": {"size": len(tokenizer), "used": used}, **reports}
    (work.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf8")
    work.run.log_dataset(name, content, sum(report["blocks"] for report in reports.values()))
    work.run.log_metrics({f"{split}/{k}": v for split, report in reports.items() for k, v in report.items()})
    return metrics


def report(name: str, metrics: dict[str, Any]) -> str:
    """One line for the terminal."""
    train, validation = metrics["train"], metrics["validation"]
    return f"{name}: {train['tokens']:,} tokens in {train['blocks']:,} blocks, {validation['blocks']:,} for validation"


if __name__ == "__main__":
    with command("pack", Pack, __doc__, "corpus") as job:
        packed = pack(job.params.pack, job.work, name=job.name, corpus=job.corpus, base=job.params.pretrain.base)
        print(report(job.name, packed))
