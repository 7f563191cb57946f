"""How a verb starts and ends on the command line."""

import sys
from pathlib import Path

import pytest
import yaml

from stages.command import command
from stages.errors import BadInput
from stages.settings import Baseline

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["baseline", "--task", "sentiment", "--recipe", "svd", "--seed"]
AXES = ("task", "recipe", "seed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the shipped params.yaml and no tracking."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKD_TRACKING", "off")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def test_a_seed_given_by_name_takes_the_place_of_the_one_in_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What DVC calls `baseline@sentiment-svd-7` works with seed 7, in a folder of its own."""
    monkeypatch.setattr(sys, "argv", [*WORDS, "7"])
    with command("baseline", Baseline, "doc", *AXES) as job:
        assert (job.params.seed, job.recipe, job.params.resolve_recipe("svd")[1]) == (7, "svd", None)
        assert (job.work.seed, job.work.output, job.work.run) == (7, job.output, job.run)
        assert job.work.state == Path(".makd/state/baseline/sentiment/svd/7")
        with pytest.raises(BadInput, match="run `dvc repro baseline@sentiment-svd-7` first"):
            job.find_output("baseline", "svd", "7", "model")
        with pytest.raises(BadInput, match="run `dvc repro export@sentiment` first"):
            job.find_output("teacher")
        (job.output / "made.txt").write_text("")
        assert not (folder / "outputs/baseline/sentiment/svd/7").exists(), "moved there at the end"
    assert (folder / "outputs/baseline/sentiment/svd/7/made.txt").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*WORDS, "x"], "baseline: --seed x: a whole number from 0 on is needed"),
        ([*WORDS, "-1"], "baseline: --seed -1: a whole number from 0 on is needed"),
        (["baseline", "--task", "sst3", *WORDS[3:], "7"], "baseline: tasks names `sst3`; known are sentiment, "),
        (["baseline", "--task", "sst2", "--recipe", "svt", "--seed", "7"], "--recipe svt: the recipes are svd, "),
    ],
)
def test_what_the_command_line_cannot_name_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=sentence):
        command("baseline", Baseline, "doc", *AXES).__enter__()
    assert not (folder / "outputs").exists()


def test_settings_that_cannot_work_are_refused_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump({"factorize": {"budget": 2}}))
    monkeypatch.setattr(sys, "argv", [*WORDS, "7"])
    with pytest.raises(SystemExit, match=r"baseline: params\.yaml: factorize\.budget = 2: "):
        command("baseline", Baseline, "doc", *AXES).__enter__()
    assert not (folder / "outputs").exists()


def test_a_verb_that_fails_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*WORDS, "7"])
    place = folder / "outputs/baseline/sentiment/svd/7"
    place.mkdir(parents=True)
    (place / "metrics.json").write_text("before")
    with pytest.raises(RuntimeError, match="half-way"), command("baseline", Baseline, "doc", *AXES) as job:
        (job.output / "metrics.json").write_text("after")
        raise RuntimeError("half-way")
    assert (place / "metrics.json").read_text() == "before"
    assert [path.name for path in place.parent.iterdir()] == ["7"], "nothing half-written is left"
