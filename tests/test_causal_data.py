"""What a causal language model reads and is asked: packed text, prompts with responses, chats."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SUMS, prepared, story, sums

from stages.language.instructions import answer, fit
from stages.settings import BadInput
from stages.tasks import IGNORED, Task
from stages.tasks.splits import read_split

STORIES = Task(kind="causal_lm")
CHATS = Task(kind="causal_lm", messages="messages")


def asked_text(data: Path, split: str, row: int) -> str:
    """What the row's labels say, as text."""
    from transformers import AutoTokenizer

    labels = read_split(data, split)["labels"][row]
    return AutoTokenizer.from_pretrained(data / "tokenizer").decode([token for token in labels if token != IGNORED])


def test_text_is_packed_as_a_slow_loop_packs_it(tmp_path, tiny_decoder, tiny_text):
    from transformers import AutoTokenizer

    data, metrics = prepared(tiny_decoder, tiny_text, tmp_path / "p", "stories", STORIES)
    tokenizer, stream = AutoTokenizer.from_pretrained(tiny_decoder), []
    for number in range(15, 60):
        stream += [*tokenizer(story(number), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    blocks = [stream[start : start + 32] for start in range(0, len(stream) - 31, 32)]
    rows = read_split(data, "train")
    assert rows["input_ids"][:] == blocks and rows["labels"][:] == blocks and set(rows["length"]) == {32}
    assert metrics["train"]["documents"] == 45 and metrics["train"]["examples"] == len(blocks)
    few, _ = prepared(tiny_decoder, tiny_text, tmp_path / "few", "stories", STORIES, train_examples=3)
    assert read_split(few, "train")["input_ids"][:] == blocks[:3]
    _, again = prepared(tiny_decoder, tiny_text, tmp_path / "again", "stories", STORIES)
    assert again == metrics


def test_another_token_may_end_documents(tmp_path, tiny_decoder, tiny_text):
    data, _ = prepared(tiny_decoder, tiny_text, tmp_path / "p", "stories", STORIES.model_copy(update={"end": "<s>"}))
    ids = np.concatenate(read_split(data, "train")["input_ids"])
    assert (ids == 0).sum() > 30 and not (ids == 1).any()
    with pytest.raises(BadInput, match=r"data\.custom\.stories\.end <x> is no token of base\.model; take </s>"):
        prepared(tiny_decoder, tiny_text, tmp_path / "q", "stories", STORIES.model_copy(update={"end": "<x>"}))


@pytest.mark.parametrize("suffix", ["csv", "txt", "parquet"])
def test_text_comes_in_any_format(tmp_path, tiny_decoder, suffix):
    import pandas as pd

    (tmp_path / "in").mkdir()
    texts, path = [story(n) for n in range(60)], tmp_path / f"in/train.{suffix}"
    table = pd.DataFrame({"text": texts})
    {"csv": lambda: table.to_csv(path), "txt": lambda: path.write_text("\n".join(texts)),
     "parquet": lambda: table.to_parquet(path)}[suffix]()  # fmt: skip
    _, metrics = prepared(tiny_decoder, tmp_path / "in", tmp_path / "out", "stories", STORIES, validation_share=0.3)
    assert metrics["train"]["documents"] + metrics["validation"]["documents"] == 60


def test_only_responses_are_asked_for(tmp_path, tiny_decoder, tiny_text):
    data, metrics = prepared(tiny_decoder, tiny_text, tmp_path / "p", "sums", SUMS)
    for row in range(10):
        assert asked_text(data, "validation", row) == sums(row)["answer"] + "</s>"
        ids, labels = (read_split(data, "validation")[name][row] for name in ("input_ids", "labels"))
        assert [label for label in labels if label != IGNORED] == ids[answer(labels) :]
    assert metrics["train"]["dropped"] == 0 and metrics["train"]["truncated"] == 0


@pytest.mark.parametrize("turns", ["all", "last"])
def test_of_chats_the_assistants_turns_are_asked_for(tmp_path, tiny_decoder, tiny_text, turns):
    task = CHATS.model_copy(update={"turns": turns})
    data, _ = prepared(tiny_decoder, tiny_text, tmp_path / "p", "chats", task, max_length=64)
    last = "Yes, very very very sure.</s>"
    assert asked_text(data, "validation", 3) == ("It is 3.</s>" + last if turns == "all" else last)


def test_too_long_conversations_lose_what_was_given_and_never_a_response(tmp_path, tiny_decoder, tiny_text, capsys):
    whole, _ = prepared(tiny_decoder, tiny_text, tmp_path / "whole", "sums", SUMS)
    longest = max(read_split(whole, "train")["length"])
    responses = [len(labels) - answer(labels) for labels in read_split(whole, "train")["labels"]]
    data, metrics = prepared(tiny_decoder, tiny_text, tmp_path / "cut", "sums", SUMS, max_length=longest - 3)
    assert metrics["train"]["dropped"] == 0 and metrics["train"]["truncated"] > 0
    assert [asked_text(data, "train", row) for row in range(30)] == [sums(n)["answer"] + "</s>" for n in range(10, 40)]
    assert max(read_split(data, "train")["length"]) == longest - 3
    limit = sorted(responses)[len(responses) // 2]
    _, metrics = prepared(tiny_decoder, tiny_text, tmp_path / "dropped", "sums", SUMS, max_length=limit)
    dropped = sum(length + 1 > limit for length in responses)
    assert metrics["train"]["dropped"] == dropped > 0
    said = f"train: {dropped} of 30 rows are left out, whose last response does not fit prepare.max_length {limit}\n"
    assert said in capsys.readouterr().out


def test_what_fits():
    ids, labels = [0, 5, 6, 7, 8, 9], [IGNORED] * 4 + [8, 9]
    assert fit(ids, labels, 6, 0) == (ids, labels, False)
    assert fit(ids, labels, 4, 0) == ([0, 7, 8, 9], [IGNORED] * 2 + [8, 9], True), "the first token stays"
    assert fit(ids, labels, 4, None) == ([6, 7, 8, 9], [IGNORED] * 2 + [8, 9], True)
    assert fit(ids, labels, 3, None) == ([7, 8, 9], [IGNORED, 8, 9], True)
    assert fit(ids, labels, 2, None) is None, "no token is left to ask for the response at"
    assert fit(ids, [IGNORED] * 6, 6, 0) is None


def written(folder: Path, *rows: dict) -> Path:
    """A source with these training rows, twenty times."""
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
    return folder


def spoken(*roles: str, empty: int | None = None) -> list[dict[str, str]]:
    return [{"role": role, "content": "" if turn == empty else "x"} for turn, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("task", "row", "sentence"),
    [
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
        (CHATS, {"messages": spoken("user", "assistant", empty=1)}, "turn 2 of messages is empty; fill in or remove"),
        (
            CHATS,
            {"messages": spoken("system", "assistant")},
            "turn 2 of messages is the assistant's, and none of the us",
        ),
        (
            CHATS,
            {"messages": spoken("human", "assistant")},
            "line 1: turn 2 of messages is the assistant's, and none o",
        ),
        (
            CHATS,
            {"messages": spoken("system", "user", "user", "assistant")},
            "turns 2 and 3 of messages are both the user's; user and assistant speak in turns, correct that row",
        ),
        (
            CHATS,
            {"messages": spoken("user", "assistant", "assistant")},
            "turns 2 and 3 of messages are both the assist",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, tiny_decoder, task, row, sentence):
    with pytest.raises(BadInput) as refusal:
        prepared(tiny_decoder, written(tmp_path / "in", row), tmp_path / "out", "mine", task)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_tools_turns_may_stand_between(tmp_path, tiny_decoder):
    roles = ("system", "user", "assistant", "tool", "tool", "assistant", "user", "assistant", "user", "user")
    source = written(tmp_path / "in", {"messages": spoken(*roles)})
    data, _ = prepared(tiny_decoder, source, tmp_path / "out", "mine", CHATS, max_length=64)
    assert asked_text(data, "train", 0) == "x</s>" * 3


def test_one_empty_response_is_refused_by_its_line(tmp_path, tiny_decoder):
    rows = {"question": "x", "answer": "y"}, {"question": "x", "answer": " "}
    with pytest.raises(BadInput, match=r"line 2: answer is empty; fill in or remove that row"):
        prepared(tiny_decoder, written(tmp_path / "in", *rows), tmp_path / "out", "mine", SUMS)


def changed(model: Path, folder: Path, **changes) -> Path:
    """The model's tokenizer with other properties, and its config."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(folder)
    AutoConfig.from_pretrained(model).save_pretrained(folder)
    return folder


def test_what_the_tokenizer_lacks_is_refused(tmp_path, tiny_decoder, tiny_text):
    lame = changed(tiny_decoder, tmp_path / "lame", chat_template=None)
    with pytest.raises(BadInput, match=r"base\.model's tokenizer has no chat template; give an instruction-tuned"):
        prepared(lame, tiny_text, tmp_path / "a", "chats", CHATS)
    endless = changed(tiny_decoder, tmp_path / "endless", eos_token=None)
    with pytest.raises(BadInput, match=r"base\.model .*endless has no end token; give a causal language model"):
        prepared(endless, tiny_text, tmp_path / "b", "stories", STORIES)
    shutil.copytree(tiny_decoder, tmp_path / "mute", ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(BadInput, match=r"^base\.model .*mute has no tokenizer; a model folder has config\.json"):
        prepared(tmp_path / "mute", tiny_text, tmp_path / "e", "stories", STORIES)
    with pytest.raises(BadInput, match=r"prepare\.max_length 65 is more than .* can read; set it to 64 or less"):
        prepared(tiny_decoder, tiny_text, tmp_path / "c", "stories", STORIES, max_length=65)
    with pytest.raises(BadInput, match=r"prepare\.augment makes sentences that have labels; set it to null"):
        prepared(tiny_decoder, tiny_text, tmp_path / "d", "stories", STORIES, augment={})


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path, tiny_decoder, tiny_text):
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    model = changed(tiny_decoder, tmp_path / "model", chat_template=template)
    with pytest.raises(BadInput, match=r"base\.model's chat template changes earlier turns when later ones come"):
        prepared(model, tiny_text, tmp_path / "out", "chats", CHATS)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ({"prompt": "q"}, "prompt and response come together"),
        ({"text": ["a"], "messages": "m"}, "a causal_lm task has one text, or prompt and response, or messages"),
        ({"text": ["a", "b"]}, "a causal_lm task has one text"),
        ({"metrics": ["perplexity", "accuracy"]}, "put likelihood, 100 over it"),
        ({"metrics": ["f1"]}, "metrics ['f1'] do not fit kind causal_lm; use accuracy, likelihood, perplexity"),
        ({"labels": ["a", "b"]}, "a causal_lm task has no labels"),
        ({"match": "x"}, "match is for responses; give prompt and response, or messages"),
        ({"messages": "m", "match": "("}, "match '(' is no regular expression"),
        ({"kind": "classification", "labels": ["a", "b"], "messages": "m"}, "has text and no prompt, response or mess"),
    ],
)
def test_a_task_that_cannot_be_is_refused(task, sentence):
    with pytest.raises(ValueError) as refusal:
        Task(**{"kind": "causal_lm"} | task)
    assert sentence in str(refusal.value)


def test_a_task_reads_back_what_it_writes():
    for task in (STORIES, SUMS, CHATS):
        assert Task.model_validate_json(task.model_dump_json()) == task
        assert task.metrics == ["accuracy", "perplexity"]
