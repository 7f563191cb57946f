"""The journal on disk."""

import json
from pathlib import Path

from stages.tracking.journal import Journal, list_journals


def test_a_torn_line_is_left_out_and_the_rest_counts(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "x")
    journal.append("start", process=["", 0, 0.0])
    with journal.path.open("a") as file:
        file.write('{"kind": "metrics", "val')
    assert [entry["kind"] for entry, _ in journal.read_unsent()] == ["start"]
    journal.end_if_dead()
    assert [entry["kind"] for entry, _ in journal.read_unsent()] == ["start", "end"]
    assert json.loads(journal.path.read_text().splitlines()[-1])["status"] == "KILLED"


def test_journals_are_listed_oldest_first_and_leave_nothing_when_removed(tmp_path: Path) -> None:
    journals = [Journal(tmp_path / f"{time}-distill@sst2-a.jsonl") for time in (200, 100)]
    (tmp_path / "terms.txt").write_text("kept")
    for journal in journals:
        journal.append("artifact", file=journal.keep_file(tmp_path / "terms.txt"))
        journal.write_progress({"offset": 0})
    assert [journal.id for journal in list_journals(tmp_path)] == ["100-distill@sst2-a", "200-distill@sst2-a"]
    for journal in journals:
        assert journal.claim()
        journal.remove()
        journal.release()
    assert [path.name for path in tmp_path.iterdir()] == ["terms.txt"]
