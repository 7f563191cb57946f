"""Instruction data: conversations in, token ids and labels out; the loss counts the assistant's tokens and no others.

    prompt and response      prompt, as the tokenizer begins a text | response, end token
    messages                 as the chat template writes them; each turn of the assistant with its end mark

What does not fit `prepare.max_length` loses the beginning of the prompt, never any of the last response; a row whose
last response does not fit is left out and counted.
"""

import logging
from collections.abc import Iterator
from typing import Any

from datasets import Dataset, Features, List, Value
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.errors import BadInput
from stages.progress import track
from stages.schema.task import IGNORED, CausalLMTask
from stages.tasks.conversations import read_conversations
from stages.tasks.preparation import Preparation
from stages.tasks.sources import load_examples
from stages.tasks.splits import fingerprint_splits

log = logging.getLogger(__name__)

Tokens = tuple[list[int], list[int]]
"""Ids and labels of one conversation."""


def write_conversations(given: Preparation[CausalLMTask]) -> tuple[str, dict[str, dict[str, Any]]]:
    """Writes the splits of prompts and responses, or of chats.

    Returns:
        The content's fingerprint, and a report on each split.
    """
    splits = load_examples(given, read_conversations)
    content = fingerprint_splits(splits)
    reports = {}
    for split, rows in splits.items():
        tokens, reports[split] = tokenize_conversations(
            rows, given.task, given.tokenizer, given.settings.max_length, split
        )
        # the content's own fingerprint: the library's changes from run to run
        tokens.select(range(len(tokens)), new_fingerprint=f"{content}{split}").save_to_disk(str(given.folder / split))
    return content, reports


def tokenize_conversations(
    rows: Dataset, task: CausalLMTask, tokenizer: PreTrainedTokenizerBase, max_length: int, split: str
) -> tuple[Dataset, dict[str, Any]]:
    """Columns input_ids, labels (int32), length; and how many rows were dropped, what share of the others was cut.

    Raises:
        BadInput: the tokenizer has no chat template, or one that cannot be followed; no row fits.
    """
    encoded = _tokenize_chats(rows, task, tokenizer) if task.messages else _tokenize_pairs(rows, tokenizer)
    first = tokenizer.bos_token_id
    fitted = [
        truncate_conversation(*tokens, max_length, first)
        for tokens in track(encoded, f"prepare: tokenizing {split}", unit="rows", total=len(rows))
    ]
    kept = [tokens for tokens in fitted if tokens]
    if not kept:
        raise BadInput(
            f"prepare.max_length {max_length} is less than any response of {split} needs; raise it, or shorten those"
        )
    if dropped := len(fitted) - len(kept):
        log.warning(
            "%s: %d of %d rows are left out, whose last response does not fit prepare.max_length %d",
            split, dropped, len(fitted), max_length,
        )  # fmt: skip
    cut = sum(was_cut for _, _, was_cut in kept)
    columns: dict[str, list[Any]] = {
        "input_ids": [ids for ids, _, _ in kept],
        "labels": [labels for _, labels, _ in kept],
    }
    columns["length"] = list(map(len, columns["input_ids"]))
    types = {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "length": Value("int64")}
    report = {"dropped": dropped, "truncated": round(cut / len(kept), 6)}
    return Dataset.from_dict(columns, Features(types)), report


def truncate_conversation(
    ids: list[int], labels: list[int], longest: int, first: int | None
) -> tuple[list[int], list[int], bool] | None:
    """The last `longest` tokens, after the token `first` where a text begins with it, and whether any were cut.

    None where the last response, and a token before it to predict it from, are longer; or where it is empty.
    """
    head, response = int(ids[0] == first), len(ids) - find_response(labels)
    if not response or response + max(head, 1) > longest:
        return None
    if len(ids) <= longest:
        return ids, labels, False
    start = len(ids) - longest + head
    return ids[:head] + ids[start:], labels[:head] + labels[start:], True


def find_response(labels: list[int]) -> int:
    """Where the last response begins."""
    return len(labels) - labels[::-1].index(IGNORED)


def _tokenize_pairs(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    """Each side is tokenized by itself, as a prompt is when the model generates."""
    end = [tokenizer.eos_token_id]
    prompts = tokenizer(rows["prompt"][:], verbose=False)["input_ids"]
    responses = tokenizer(rows["response"][:], add_special_tokens=False, verbose=False)["input_ids"]
    for prompt, response in zip(prompts, responses, strict=True):
        given, predicted = prompt or end, response + end
        yield given + predicted, [IGNORED] * len(given) + predicted


def _tokenize_chats(rows: Dataset, task: CausalLMTask, tokenizer: PreTrainedTokenizerBase) -> Iterator[Tokens]:
    if not tokenizer.chat_template:
        raise BadInput(
            "base.model's tokenizer has no chat template; give an instruction-tuned model, or prompt and response "
            "columns in place of messages"
        )
    for messages in rows["messages"]:
        text, spans = _render_chat(messages, tokenizer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        predicted = spans if task.turns == "all" else spans[-1:]
        labels = [
            token if any(start <= begin < end for start, end in predicted) else IGNORED
            for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        yield encoded["input_ids"], [IGNORED, *labels[1:]]  # nothing comes before the first to predict it from


def _render_chat(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, list[tuple[int, int]]]:
    """A chat as text, and the assistant's turns in it: from the end of the generation prompt to the turn's end."""

    def render(turns: int, **options: bool) -> str:
        try:
            return tokenizer.apply_chat_template(messages[:turns], tokenize=False, **options)
        except TemplateError as error:
            raise BadInput(f"base.model's chat template refuses {messages!r:.80} ({error}); correct that row") from None

    whole, spans = render(len(messages)), []
    for number in [number for number, turn in enumerate(messages) if turn["role"] == "assistant"]:
        before, after = render(number, add_generation_prompt=True), render(number + 1)
        if not whole.startswith(after) or not after.startswith(before):
            raise BadInput(
                "base.model's chat template changes earlier turns when later ones come, so that the assistant's tokens "
                "cannot be located; give another template, chats of one turn, or prompt and response columns"
            )
        spans.append((len(before), len(after)))
    return whole, spans
