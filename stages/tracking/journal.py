"""The journal: every call to the tracked run as one line of JSON on disk, before it is sent anywhere.

`.makd/journal/<id>.jsonl` holds the lines, `<id>/` the files they refer to, `<id>.sent` how far the lines are
sent. The holder of `<id>.lock` sends it. A journal whose process died has no end; its sender gives it one.
"""

import json
import os
import shutil
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


@dataclass
class Journal:
    """One run's lines; safe to append to from several threads and processes."""

    path: Path

    def __post_init__(self) -> None:
        from filelock import FileLock

        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)

    @classmethod
    def create(cls, folder: Path, name: str) -> "Journal":
        """A new journal; ids sort by time of birth."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{time.time_ns() // 1_000_000}-{name}-{uuid.uuid4().hex[:8]}.jsonl")

    @property
    def id(self) -> str:
        return self.path.stem

    @property
    def folder(self) -> Path:
        """For the files that the lines refer to."""
        return self.path.with_suffix("")

    def claim(self) -> bool:
        """True when no other process sends this journal; `release` undoes it."""
        from filelock import Timeout

        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return self.path.exists()

    def release(self) -> None:
        self._lock.release()
        if not self.path.exists():
            self.path.with_suffix(".lock").unlink(missing_ok=True)

    def append(self, kind: str, **fields: Any) -> None:
        """Adds a line (time in ms) in one write, so that lines of two writers never mix."""
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000} | fields)
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode() + b"\n")

    def is_writer_alive(self) -> bool:
        """Whether the process that writes the journal still runs; unknown for another host's, so true."""
        import psutil

        with self.path.open("rb") as file:
            first = file.readline()
        if not _is_complete(first):
            return False
        host, pid, started = json.loads(first)["process"]
        if host != socket.gethostname():
            return True
        try:
            return psutil.Process(pid).create_time() == started
        except psutil.NoSuchProcess:
            return False

    def has_ended(self) -> bool:
        """Whether the stage has written its last line; at most a sample of system metrics follows it."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 100_000))
            return b'{"kind": "end"' in file.read()

    def keep_file(self, path: Path) -> str:
        """Keeps a file or folder until it is sent; returns where, relative to the journal's folder.

        Hard links where the disk allows: no space, and later moves or replacements of `path` do not matter.
        """
        kept = self.folder / uuid.uuid4().hex[:8] / path.name
        kept.parent.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, kept, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, kept)
        return str(kept.relative_to(self.folder))

    def read_unsent(self) -> list[tuple[Entry, int]]:
        """The lines that have not been sent, each with the offset behind it; a torn line is left out."""
        entries, offset = [], self.read_progress().get("offset", 0)
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                if not line.endswith(b"\n"):
                    break
                try:
                    entries.append((json.loads(line), offset))
                except ValueError:
                    continue
        return entries

    def read_progress(self) -> dict[str, Any]:
        """The sender's notes: `offset` (bytes), `run`, `parent` and `uri`."""
        try:
            return json.loads(self.path.with_suffix(".sent").read_text(encoding="utf8"))
        except FileNotFoundError:
            return {}

    def write_progress(self, progress: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(progress), encoding="utf8")
        partial.replace(self.path.with_suffix(".sent"))

    def end_if_dead(self) -> None:
        """Gives a journal whose process died an end: KILLED, at the time of its last line."""
        if not self.has_ended():
            last = self.path.stat().st_mtime_ns // 1_000_000
            with self.path.open("ab", buffering=0) as file:
                file.write(b"\n")  # the last line may be torn
            self.append("end", time=last, status="KILLED", error="the process died")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.path.unlink()
        self.path.with_suffix(".sent").unlink(missing_ok=True)


def list_journals(folder: Path) -> list[Journal]:
    """Journals in the folder, oldest first; some may belong to stages at work."""
    return [Journal(path) for path in sorted(folder.glob("*.jsonl"))]


def _is_complete(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _link_or_copy(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
