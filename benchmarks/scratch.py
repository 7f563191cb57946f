"""A corpus in; a small untrained GPT-2 out, with a tokenizer of that corpus: `base.model` to train.

A byte-level BPE of the training text (Sennrich et al. 2016; Radford et al. 2019), and random weights. One pass of
`finetune` and it is a language model, as far as the text goes.

    python -m benchmarks.scratch --source ~/wikitext-2 --documents articles --output gpt2
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.options import make_parser
from stages.corpora.documents import read_documents
from stages.errors import BadInput
from stages.schema.corpus import Corpus

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parse_options(arguments)
    if options.output.exists():
        raise SystemExit(f"--output {options.output} exists; give a new folder, or remove it")
    if options.hidden % options.heads:
        raise SystemExit(f"--hidden {options.hidden} is no multiple of --heads {options.heads}; change one of them")
    try:
        write_model(options)
    except BadInput as error:
        raise SystemExit(str(error)) from None


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = make_parser(__doc__)
    parser.add_argument("--source", required=True, help="file or folder of text, as for data.corpora")
    parser.add_argument("--documents", default="lines", choices=["lines", "blank_lines", "articles"])
    parser.add_argument("--output", type=Path, required=True, help="folder to write, a new one")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="positions")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def write_model(options: argparse.Namespace) -> None:
    """Writes model and tokenizer to `options.output`; prints how many parameters there are.

    Raises:
        BadInput: the source is no text that can be read.
    """
    corpus = Corpus(source=options.source, documents=options.documents)
    documents = read_documents(corpus, "--documents", source="--source")
    tokenizer = train_tokenizer(documents["train"], options)
    model = make_gpt2(options, tokenizer)
    partial = options.output.with_name(options.output.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(options.output)
    print(f"{options.output}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")


def train_tokenizer(texts: Iterator[str], options: argparse.Namespace) -> "PreTrainedTokenizerFast":
    """Byte-level BPE with one special token, the end of a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=options.length
    )


def make_gpt2(options: argparse.Namespace, tokenizer: "PreTrainedTokenizerFast") -> "GPT2LMHeadModel":
    """GPT-2's architecture, smaller, its initialization drawn with the seed."""
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    set_seed(options.seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=options.length,
            n_embd=options.hidden,
            n_layer=options.layers,
            n_head=options.heads,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


if __name__ == "__main__":
    main()
