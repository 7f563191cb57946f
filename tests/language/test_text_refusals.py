"""Causal text that cannot be read, and tokenizers that lack what it needs, are refused in one sentence."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.errors import BadInput
from stages.schema.task import CausalLMTask
from tests.makers.checkpoints import save_changed_tokenizer
from tests.makers.conversations import CHATS, make_turns, write_training_rows
from tests.makers.runs import prepare_task
from tests.makers.texts import SUMS

STORIES = CausalLMTask(kind="causal_lm")
REFUSED = [
    (STORIES, {"body": "x"}, "train.jsonl, line 1: no column `text`, but body; set data.custom.mine.text"),
    (STORIES, {"text": "x"}, "task mine: its validation text of 8 tokens fills no block of 32; give it more text"),
    (
        SUMS,
        {"question": "x", "reply": "y"},
        "has no column `answer`, but question, reply; set data.custom.mine.resp",
    ),
    (SUMS, {"question": "x", "answer": " "}, "column `answer` is empty in all rows; set data.custom.mine.response"),
    (SUMS, {"question": "x", "answer": "one " * 40}, "prepare.max_length 32 is less than any response of train"),
    (CHATS, {"messages": "hello"}, "line 1: messages is 'hello', not a list of {role, content}; correct that row"),
    (CHATS, {"messages": [{"role": "user", "content": "x"}]}, "line 1: messages has no turn of the assistant"),
    (CHATS, {"messages": make_turns("user", "assistant", empty=1)}, "turn 2 of messages is empty; fill in or remove"),
    (
        CHATS,
        {"messages": make_turns("system", "assistant")},
        "turn 2 of messages is the assistant's, and none of the us",
    ),
    (
        CHATS,
        {"messages": make_turns("human", "assistant")},
        "line 1: turn 2 of messages is the assistant's, and none o",
    ),
    (
        CHATS,
        {"messages": make_turns("system", "user", "user", "assistant")},
        "turns 2 and 3 of messages are both the user's; user and assistant take turns, correct that row",
    ),
    (
        CHATS,
        {"messages": make_turns("user", "assistant", "assistant")},
        "turns 2 and 3 of messages are both the assist",
    ),
]


@pytest.mark.parametrize(("task", "row", "sentence"), REFUSED)
def test_text_that_cannot_be_read_is_refused(
    tmp_path: Path, tiny_decoder: Path, task: CausalLMTask, row: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput) as refusal:
        prepare_task(tiny_decoder, write_training_rows(tmp_path / "in", row), tmp_path / "out", "mine", task)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_an_empty_response_is_refused_by_its_line(tmp_path: Path, tiny_decoder: Path) -> None:
    rows = {"question": "x", "answer": "y"}, {"question": "x", "answer": " "}
    with pytest.raises(BadInput, match=r"line 2: answer is empty; fill in or remove that row"):
        prepare_task(tiny_decoder, write_training_rows(tmp_path / "in", *rows), tmp_path / "out", "mine", SUMS)


def test_what_the_tokenizer_lacks_is_refused(tmp_path: Path, tiny_decoder: Path, tiny_text: Path) -> None:
    untemplated = save_changed_tokenizer(tiny_decoder, tmp_path / "untemplated", chat_template=None)
    with pytest.raises(BadInput, match=r"base\.model's tokenizer has no chat template; give an instruction-tuned"):
        prepare_task(untemplated, tiny_text, tmp_path / "a", "chats", CHATS)
    endless = save_changed_tokenizer(tiny_decoder, tmp_path / "endless", eos_token=None)
    with pytest.raises(BadInput, match=r"base\.model .*endless has no end token; give a causal language model"):
        prepare_task(endless, tiny_text, tmp_path / "b", "stories", STORIES)
    shutil.copytree(tiny_decoder, tmp_path / "untokenized", ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(BadInput, match=r"^base\.model .*untokenized has no tokenizer; a model folder has config\.json"):
        prepare_task(tmp_path / "untokenized", tiny_text, tmp_path / "e", "stories", STORIES)


def test_settings_that_do_not_suit_a_causal_task_are_refused(
    tmp_path: Path, tiny_decoder: Path, tiny_text: Path
) -> None:
    with pytest.raises(BadInput, match=r"prepare\.max_length 65 is more than .* can read; set it to 64 or less"):
        prepare_task(tiny_decoder, tiny_text, tmp_path / "c", "stories", STORIES, max_length=65)
    with pytest.raises(BadInput, match=r"prepare\.augment makes sentences that have labels; set it to null"):
        prepare_task(tiny_decoder, tiny_text, tmp_path / "d", "stories", STORIES, augment={})


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path, tiny_decoder: Path, tiny_text: Path) -> None:
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = save_changed_tokenizer(tiny_decoder, tmp_path / "model", chat_template=template)
    with pytest.raises(BadInput, match=r"base\.model's chat template changes earlier turns when later ones come"):
        prepare_task(model, tiny_text, tmp_path / "out", "chats", CHATS)
