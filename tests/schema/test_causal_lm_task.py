"""Rows of causal language models' tasks: what cannot be is refused by name, and a row reads back as it was written."""

from typing import Any

import pytest
from pydantic import ValidationError

from stages.schema.task import TASK, CausalLMTask
from stages.settings.messages import format_errors
from tests.makers.texts import SUMS


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "q"}, "prompt and response come together"),
        ({"text": ["a"], "messages": "m"}, "a causal_lm task has one text, or prompt and response, or messages"),
        ({"text": ["a", "b"]}, "text = ['a', 'b']: List should have at most 1 item"),
        ({"metrics": ["perplexity", "accuracy"]}, "put likelihood, 100 over it"),
        ({"metrics": ["f1"]}, "metrics.0 = 'f1': Input should be 'accuracy', 'likelihood' or 'perplexity'"),
        ({"labels": ["a", "b"]}, "labels is not a setting of a causal_lm task"),
        ({"match": "x"}, "match is for responses; give prompt and response, or messages"),
        ({"messages": "m", "match": "("}, "match '(' is no regular expression"),
        (
            {"kind": "classification", "labels": ["a", "b"], "messages": "m"},
            "messages is not a setting of a classification task",
        ),
    ],
)
def test_an_impossible_task_is_refused(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TASK.validate_python({"kind": "causal_lm"} | row)
    assert sentence in format_errors(refusal.value)


def test_a_task_reads_back_as_it_was_written() -> None:
    stories, chats = CausalLMTask(kind="causal_lm"), CausalLMTask(kind="causal_lm", messages="messages")
    for task in (stories, SUMS, chats):
        assert TASK.validate_json(task.model_dump_json()) == task
        assert task.metrics == ["accuracy", "perplexity"]
