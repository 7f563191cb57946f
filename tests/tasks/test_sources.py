"""Sources that are no folder: the hub and the bundled task."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from stages.errors import BadInput
from stages.schema.glue import GLUE
from stages.tasks.bundled import read_bundled
from stages.tasks.sources import HUB
from tests.makers.data_folders import load_examples
from tests.makers.dvc_projects import ROOT


def run_code(code: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python whose environment is this and the project's path alone, its output as text."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


def test_a_source_names_its_tasks() -> None:
    with pytest.raises(BadInput, match="bundled has sentiment, not sst2"):
        load_examples("bundled", "sst2", GLUE["sst2"], share=0.1, seed=0)
    with pytest.raises(BadInput, match="hub has cola"):
        load_examples("hub", "sentiment", GLUE["sentiment"], share=0.1, seed=0)


def test_a_hub_that_cannot_be_reached_is_named() -> None:
    code = """
from tests.makers.data_folders import load_examples
from stages.schema.glue import GLUE
load_examples("hub", "sst2", GLUE["sst2"], share=0.1, seed=0)
"""
    done = run_code(code, HF_HUB_OFFLINE="1")
    assert "BadInput: data.source hub: nyu-mll/glue cannot be loaded" in done.stderr


def test_the_hub_is_read_split_by_split(tmp_path: Path) -> None:
    """A copy of the hub's repository (configurations in its card) under the same name stands in for it."""
    repository = tmp_path / HUB
    card = [{"config_name": "mnli", "data_files": []}]
    for split, texts in {"train": "abc", "validation_matched": "d", "validation_mismatched": "ef"}.items():
        path = f"mnli/{split}-00000-of-00001.parquet"
        columns = {"premise": list(texts), "hypothesis": list(texts.upper()), "label": [2] * len(texts)}
        (repository / path).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table(columns), repository / path)
        card[0]["data_files"].append({"split": split, "path": path})
    (repository / "README.md").write_text(f"---\n{json.dumps({'configs': card})}\n---\n")
    code = """
from tests.makers.data_folders import load_examples
from stages.schema.glue import GLUE
for name in ("mnli", "mnli_mismatched"):
    splits = load_examples("hub", name, GLUE[name], share=0.1, seed=0)
    print(splits["train"]["text"][:], splits["validation"].to_dict())
"""
    done = run_code(code, cwd=tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['a', 'b', 'c'] {'text': ['d'], 'text_pair': ['D'], 'labels': [2]}",
        "['a', 'b', 'c'] {'text': ['e', 'f'], 'text_pair': ['E', 'F'], 'labels': [2, 2]}",
    ]


def test_bundled_is_balanced_disjoint_and_the_same_everywhere() -> None:
    tables = read_bundled()
    train, validation = (tables[split].columns for split in ("train", "validation"))
    assert len(train["sentence"]) >= 2400 and len(validation["sentence"]) >= 600
    assert len(set(train["sentence"] + validation["sentence"])) == len(train["sentence"]) + len(validation["sentence"])
    assert np.mean(train["label"]) == np.mean(validation["label"]) == 0.5
    code = "from stages.tasks.bundled import read_bundled; print(read_bundled()['validation'].columns['sentence'])"
    for hash_seed in ("1", "2"):
        done = run_code(code, PYTHONHASHSEED=hash_seed)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{validation['sentence']}\n"


def test_bundled_cannot_be_solved_by_its_words_alone() -> None:
    """The teacher reaches about 95 (see docs/results/bundled.md); a bag of words must stay far below."""
    tables = read_bundled()
    train, validation = (tables[split].columns for split in ("train", "validation"))
    words = CountVectorizer()
    model = LogisticRegression(max_iter=2000).fit(words.fit_transform(train["sentence"]), train["label"])
    assert model.score(words.transform(validation["sentence"]), validation["label"]) < 0.75
