"""The table of tasks: what each kind has, and what cannot be is refused by name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.errors import BadInput
from stages.schema.glue import GLUE
from stages.schema.task import TASK, CausalLMTask, ClassificationTask, RegressionTask
from stages.settings import Params, read_params


def test_a_task_of_ones_own() -> None:
    params = Params(tasks=["mine"], data={"source": "x", "custom": {"mine": {"labels": ["a", "b"]}}})
    assert params.get_task("mine") == ClassificationTask(labels=["a", "b"])


def test_the_kind_chooses_columns_and_metrics() -> None:
    classes = TASK.validate_python({"labels": ["a", "b"]})
    assert isinstance(classes, ClassificationTask) and classes.kind == "classification"
    assert (classes.text, classes.metrics) == (["sentence"], ["accuracy"])
    values = TASK.validate_python({"kind": "regression"})
    assert isinstance(values, RegressionTask)
    assert (values.text, values.metrics) == (["sentence"], ["pearson", "spearman"])
    plain = TASK.validate_python({"kind": "causal_lm"})
    assert isinstance(plain, CausalLMTask)
    assert (plain.text, plain.metrics) == (["text"], ["accuracy", "perplexity"])
    for columns in ({"prompt": "q", "response": "a"}, {"messages": "m"}):
        assert TASK.validate_python({"kind": "causal_lm"} | columns).text == []


def test_rows_come_back_from_what_is_saved_of_them() -> None:
    chats = CausalLMTask(kind="causal_lm", messages="m", turns="last", match=r"\d+")
    for task in (*GLUE.values(), CausalLMTask(kind="causal_lm"), chats):
        assert TASK.validate_json(task.model_dump_json()) == task


def test_glue_is_frozen() -> None:
    for task in GLUE.values():
        with pytest.raises(ValidationError, match="frozen"):
            task.metrics = ["accuracy"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("3", "data.custom.mine = 3: Input should be a valid dictionary"),
        ("{kind: ranking}", "mine.kind = 'ranking': the kinds are classification, regression, causal_lm"),
        ("{labels: [one]}", "mine: labels must name at least two classes, not ['one']"),
        ("{labels: [a, b, c], metrics: [f1]}", "f1 is for two classes; use accuracy or matthews"),
        ("{labels: [a, b], metrics: [pearson]}", "metrics.0 = 'pearson': Input should be 'accuracy', 'f1' or 'matth"),
        ("{labels: [a, b], metrics: []}", "mine.metrics = []: List should have at least 1 item"),
        ("{labels: [a, b], text: []}", "mine.text = []: List should have at least 1 item"),
        ("{labels: [a, b], text: [a, b, c]}", "List should have at most 2 items"),
        ("{labels: [a, b], prompt: q}", "mine.prompt is not a setting of a classification task"),
        ("{labels: [a, b], match: x}", "mine.match is not a setting of a classification task"),
        ("{kind: regression, labels: [a, b]}", "mine.labels is not a setting of a regression task"),
        ("{kind: regression, metrics: [accuracy]}", "metrics.0 = 'accuracy': Input should be 'pearson' or 'spearman'"),
        ("{kind: causal_lm, labels: [a, b]}", "mine.labels is not a setting of a causal_lm task"),
        (
            "{kind: causal_lm, metrics: [f1]}",
            "metrics.0 = 'f1': Input should be 'accuracy', 'likelihood' or 'perpl",
        ),
        (
            "{kind: causal_lm, metrics: [perplexity]}",
            "metrics begins with perplexity, which is better when lower",
        ),
        ("{kind: causal_lm, text: [a, b]}", "List should have at most 1 item"),
        (
            "{kind: causal_lm, text: [a], prompt: q, response: a}",
            "mine: a causal_lm task has one text, or prompt and response, or messages",
        ),
        ("{kind: causal_lm, prompt: q}", "prompt and response come together; text without prompts is `text`"),
        ("{kind: causal_lm, match: x}", "match is for responses; give prompt and response, or messages"),
        ("{kind: causal_lm, messages: m, match: '('}", "match '(' is no regular expression: missing )"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_name(tmp_path: Path, row: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"data: {{custom: {{mine: {row}}}}}")
    with pytest.raises(BadInput) as refusal:
        read_params(path)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
