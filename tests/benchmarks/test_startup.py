"""`python -m benchmarks.startup`: verbs and limits, whatever the machine's speed."""

from pathlib import Path

import pytest

from benchmarks import startup

GRAPH = """
stages:
  first:
    cmd: python -m stages.first --task a
  second:
    cmd: python -m stages.second
"""


def test_commands_are_timed_against_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    times = {"stages.first": 0.21, "stages.second": 0.52, "dvc": 1.25}
    monkeypatch.setattr(startup, "time_python", lambda *words: times[words[1]])
    monkeypatch.setattr(startup, "run_python", lambda *words: startup.subprocess.CompletedProcess(words, 0))
    rows = startup.measure_startup(tmp_path / "dvc.yaml")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in startup.format_table(rows).splitlines()]
    assert lines[2:] == [
        ["python -m stages.first --help", "0.21", "0.5", "ok"],
        ["python -m stages.second --help", "0.52", "0.5", "TOO SLOW"],
        ["dvc repro", "1.25", "2", "ok"],
    ]


def test_a_chain_that_is_not_up_to_date_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    monkeypatch.setattr(startup, "time_python", lambda *words: 0.1)
    monkeypatch.setattr(startup, "run_python", lambda *words: startup.subprocess.CompletedProcess(words, 1))
    *_, last = startup.measure_startup(tmp_path / "dvc.yaml")
    assert last.seconds is None and not last.is_slow
    assert "run `make run` first" in startup.format_table([last])


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"python -c raise SystemExit\('no reason'\): no reason"):
        startup.time_python("-c", "raise SystemExit('no reason')")
