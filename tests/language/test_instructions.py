"""Prompts with responses, and chats: which tokens are predicted, and what is cut of a conversation that is too long."""

import logging
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from stages.language.instructions import find_response, truncate_conversation
from stages.schema.task import IGNORED, CausalLMTask
from stages.tasks.splits import read_split
from tests.makers.conversations import CHATS, make_turns, write_training_rows
from tests.makers.runs import prepare_task
from tests.makers.texts import SUMS, make_sum


def decode_labels(data: Path, split: str, row: int) -> str:
    """The tokens of a row that are predicted, as text."""
    labels = read_split(data, split)["labels"][row]
    return AutoTokenizer.from_pretrained(data / "tokenizer").decode([token for token in labels if token != IGNORED])


def test_only_responses_are_predicted(tmp_path: Path, tiny_decoder: Path, tiny_text: Path) -> None:
    data, metrics = prepare_task(tiny_decoder, tiny_text, tmp_path / "p", "sums", SUMS)
    for row in range(10):
        assert decode_labels(data, "validation", row) == make_sum(row)["answer"] + "</s>"
        ids, labels = (read_split(data, "validation")[name][row] for name in ("input_ids", "labels"))
        assert [label for label in labels if label != IGNORED] == ids[find_response(labels) :]
    assert metrics["train"]["dropped"] == 0 and metrics["train"]["truncated"] == 0


@pytest.mark.parametrize("turns", ["all", "last"])
def test_of_chats_the_assistants_turns_are_predicted(
    tmp_path: Path, tiny_decoder: Path, tiny_text: Path, turns: str
) -> None:
    task = CausalLMTask(kind="causal_lm", messages="messages", turns=turns)
    data, _ = prepare_task(tiny_decoder, tiny_text, tmp_path / "p", "chats", task, max_length=64)
    last = "Yes, very very very sure.</s>"
    assert decode_labels(data, "validation", 3) == ("It is 3.</s>" + last if turns == "all" else last)


def test_too_long_conversations_lose_the_prompts_beginning_and_never_a_response(
    tmp_path: Path, tiny_decoder: Path, tiny_text: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = prepare_task(tiny_decoder, tiny_text, tmp_path / "whole", "sums", SUMS)
    longest = max(read_split(whole, "train")["length"])
    responses = [len(labels) - find_response(labels) for labels in read_split(whole, "train")["labels"]]
    data, metrics = prepare_task(tiny_decoder, tiny_text, tmp_path / "cut", "sums", SUMS, max_length=longest - 3)
    assert metrics["train"]["dropped"] == 0 and metrics["train"]["truncated"] > 0
    expected = [make_sum(n)["answer"] + "</s>" for n in range(10, 40)]
    assert [decode_labels(data, "train", row) for row in range(30)] == expected
    assert max(read_split(data, "train")["length"]) == longest - 3
    limit = sorted(responses)[len(responses) // 2]
    with caplog.at_level(logging.WARNING, "stages"):
        _, metrics = prepare_task(tiny_decoder, tiny_text, tmp_path / "dropped", "sums", SUMS, max_length=limit)
    dropped = sum(length + 1 > limit for length in responses)
    assert metrics["train"]["dropped"] == dropped > 0
    sentence = f"train: {dropped} of 30 rows are left out, whose last response does not fit prepare.max_length {limit}"
    assert sentence in caplog.messages


def test_truncation_keeps_the_first_token_and_the_response() -> None:
    ids, labels = [0, 5, 6, 7, 8, 9], [IGNORED] * 4 + [8, 9]
    assert truncate_conversation(ids, labels, 6, 0) == (ids, labels, False)
    assert truncate_conversation(ids, labels, 4, 0) == ([0, 7, 8, 9], [IGNORED] * 2 + [8, 9], True)
    assert truncate_conversation(ids, labels, 4, None) == ([6, 7, 8, 9], [IGNORED] * 2 + [8, 9], True)
    assert truncate_conversation(ids, labels, 3, None) == ([7, 8, 9], [IGNORED, 8, 9], True)
    assert truncate_conversation(ids, labels, 2, None) is None, "no token is left to predict the response from"
    assert truncate_conversation(ids, [IGNORED] * 6, 6, 0) is None


def test_a_tools_turns_may_stand_between(tmp_path: Path, tiny_decoder: Path) -> None:
    roles = ("system", "user", "assistant", "tool", "tool", "assistant", "user", "assistant", "user", "user")
    source = write_training_rows(tmp_path / "in", {"messages": make_turns(*roles)})
    data, _ = prepare_task(tiny_decoder, source, tmp_path / "out", "mine", CHATS, max_length=64)
    assert decode_labels(data, "train", 0) == "x</s>" * 3
