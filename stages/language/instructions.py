"""Conversations in, token ids and labels out: asked for is what the assistant says, and nothing that it was given.

    prompt and response      prompt, as the tokenizer begins a text | response, end token
    messages                 as the chat template writes them; each turn of the assistant with its end mark

What does not fit `prepare.max_length` loses the beginning of what is given, never any of the last response; a row whose
last response does not fit is left out and counted.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from stages.settings import BadInput
from stages.tasks import IGNORED, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    Tokenizer = PreTrainedTokenizerBase

Tokens = tuple[list[int], list[int]]
"""Ids and labels of one conversation."""


def tokenized(
    rows: "Dataset", task: Task, tokenizer: "Tokenizer", max_length: int, split: str
) -> tuple["Dataset", dict[str, Any]]:
    """Columns input_ids, labels (int32), length; and how many rows were dropped, what share of the others was cut.

    Raises:
        BadInput: the tokenizer has no chat template, or one that cannot be followed; no row fits.
    """
    from datasets import Dataset, Features, List, Value
    from tqdm import tqdm

    written = _chats(rows, task, tokenizer) if task.messages else _pairs(rows, tokenizer)
    fitted = [fit(*tokens, max_length, tokenizer.bos_token_id) for tokens in tqdm(written, "tokenizing", len(rows))]
    kept = [tokens for tokens in fitted if tokens]
    if not kept:
        raise BadInput(
            f"prepare.max_length {max_length} is less than any response of {split} needs; raise it, or shorten those"
        )
    if dropped := len(fitted) - len(kept):
        print(
            f"{split}: {dropped} of {len(fitted)} rows are left out, whose last response does not fit "
            f"prepare.max_length {max_length}",
            flush=True,
        )
    cut = sum(was_cut for _, _, was_cut in kept)
    columns = {"input_ids": [ids for ids, _, _ in kept], "labels": [labels for _, labels, _ in kept]}
    columns["length"] = list(map(len, columns["input_ids"]))
    kinds = {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "length": Value("int64")}
    report = {"dropped": dropped, "truncated": round(cut / len(kept), 6)}
    return Dataset.from_dict(columns, Features(kinds)), report


def fit(ids: list[int], labels: list[int], longest: int, first: int | None) -> tuple[list[int], list[int], bool] | None:
    """The last `longest` tokens, behind the token `first` where a text begins with it, and whether any were cut.

    None where the last response, and a token before it to be asked at, are longer; or where it is nothing.
    """
    head, response = int(ids[0] == first), len(ids) - answer(labels)
    if not response or response + max(head, 1) > longest:
        return None
    if len(ids) <= longest:
        return ids, labels, False
    start = len(ids) - longest + head
    return ids[:head] + ids[start:], labels[:head] + labels[start:], True


def answer(labels: list[int]) -> int:
    """Where the last response begins."""
    return len(labels) - labels[::-1].index(IGNORED)


def _pairs(rows: "Dataset", tokenizer: "Tokenizer") -> Iterator[Tokens]:
    """Each side is tokenized by itself, as the prompt is when the model is asked."""
    end = [tokenizer.eos_token_id]
    prompts = tokenizer(rows["prompt"][:], verbose=False)["input_ids"]
    responses = tokenizer(rows["response"][:], add_special_tokens=False, verbose=False)["input_ids"]
    for prompt, response in zip(prompts, responses, strict=True):
        given, said = prompt or end, response + end
        yield given + said, [IGNORED] * len(given) + said


def _chats(rows: "Dataset", task: Task, tokenizer: "Tokenizer") -> Iterator[Tokens]:
    if not tokenizer.chat_template:
        raise BadInput(
            "base.model's tokenizer has no chat template; give an instruction-tuned model, or prompt and response "
            "columns in place of messages"
        )
    for messages in rows["messages"]:
        text, spans = _written(messages, tokenizer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        asked = spans if task.turns == "all" else spans[-1:]
        labels = [
            token if any(start <= begin < end for start, end in asked) else IGNORED
            for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        ]
        yield encoded["input_ids"], [IGNORED, *labels[1:]]  # nothing comes before the first to ask for it at


def _written(messages: list[dict[str, str]], tokenizer: "Tokenizer") -> tuple[str, list[tuple[int, int]]]:
    """A chat as text, and from where to where the assistant speaks: from what invites it to the end of its turn."""

    def text(turns: int, **options: bool) -> str:
        try:
            return tokenizer.apply_chat_template(messages[:turns], tokenize=False, **options)
        except TemplateError as error:
            raise BadInput(f"base.model's chat template refuses {messages!r:.80} ({error}); correct that row") from None

    whole, spans = text(len(messages)), []
    for number in [number for number, turn in enumerate(messages) if turn["role"] == "assistant"]:
        before, after = text(number, add_generation_prompt=True), text(number + 1)
        if not whole.startswith(after) or not after.startswith(before):
            raise BadInput(
                "base.model's chat template changes earlier turns when later ones come, so that it cannot be told what "
                "the assistant said; give another template, chats of one turn, or prompt and response columns"
            )
        spans.append((len(before), len(after)))
    return whole, spans
