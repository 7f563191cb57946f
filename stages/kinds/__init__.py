"""The kinds of tasks: one file each, with all that the verbs do differently for it.

A verb asks the kind and names none. Rooms are imported in the methods that use them, so that a stage depends on no more
than it does (tests/house/test_dvc_graph.py follows the methods that a verb calls).

To add a kind: a row class in stages/schema/task.py, and a file here with its `KIND`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stages.kinds.base import CorpusKind, TaskKind
    from stages.schema.corpus import Corpus
    from stages.schema.task import Row


def get_kind(task: "Row") -> "TaskKind[Any]":
    """The kind of a task."""
    return import_module(f"stages.kinds.{task.kind}").KIND


def get_corpus_kind(corpus: "Corpus") -> "CorpusKind":
    """The kind of model that a corpus is for."""
    return import_module(f"stages.kinds.{corpus.kind}").KIND
