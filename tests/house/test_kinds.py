"""What differs between kinds of tasks lies in stages/kinds: no other code asks which kind a task is."""

import ast
from pathlib import Path
from typing import get_args

from stages.kinds import get_corpus_kind, get_kind
from stages.kinds.base import CorpusKind, TaskKind
from stages.schema.corpus import Corpus
from stages.schema.task import KINDS, Row
from tests.house.imports import ROOT, is_inside, list_files, parse

NAMES = {*KINDS, Corpus.model_fields["kind"].default}
PLACES = ["stages/schema", "stages/kinds", "serving/predictor.py", "serving/generator.py"]
"""Those who describe kinds, those who implement them, and the service's readers, each of which opens its own."""
HOMONYMS = {
    ("stages/models/loading.py", "regression"),  # transformers' `problem_type`
    ("stages/settings/data.py", "masked_lm"),  # a source of words, `prepare.augment.source`
    ("stages/tasks/candidates.py", "masked_lm"),
    ("serving/http/infer.py", "classification"),  # a parameter of KServe's v2 protocol
}
"""The same words for something else."""


def find_kind_names(file: Path, root: Path = ROOT) -> list[str]:
    """String constants that are a kind's name, each with its line."""
    name = str(file.relative_to(root))
    nodes = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Constant) and node.value in NAMES]
    return [f"{name}:{node.lineno} {node.value}" for node in nodes if (name, node.value) not in HOMONYMS]


def test_no_code_asks_for_a_kind() -> None:
    files = [file for file in list_files("stages", "serving", "pipelines", "benchmarks") if not is_inside(file, PLACES)]
    assert [line for file in files for line in find_kind_names(file)] == []


def test_a_planted_question_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "verb.py"
    file.write_text('"""Of a causal_lm."""\nif task.kind == "causal_lm":\n    pass\n')
    assert find_kind_names(file, tmp_path) == ["verb.py:2 causal_lm"]


def test_each_kind_is_complete() -> None:
    """Every kind implements, itself or by what it inherits, all that a verb may ask of it."""
    corpus = get_corpus_kind(Corpus(source="bundled"))
    kinds = [get_kind(row.model_construct(kind=name)) for name, row in zip(KINDS, get_args(Row), strict=True)]
    for kind, base in [*((kind, TaskKind) for kind in kinds), (corpus, CorpusKind)]:
        missing = [name for name in vars(base) if not name.startswith("_") and is_abstract(kind, name)]
        assert not missing, f"{type(kind).__name__} lacks {missing}"


def is_abstract(kind: object, name: str) -> bool:
    """Whether a method does nothing but raise NotImplementedError."""
    function = getattr(type(kind), name)
    return callable(function) and "NotImplementedError" in function.__code__.co_names
