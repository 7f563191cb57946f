"""Chats of given roles, and sources of a few training rows."""

import json
from pathlib import Path
from typing import Any

from stages.schema.task import CausalLMTask

CHATS = CausalLMTask(kind="causal_lm", messages="messages")


def write_training_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    """A source with these training rows, twenty times."""
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
    return folder


def make_turns(*roles: str, empty: int | None = None) -> list[dict[str, str]]:
    """A turn of each role with the content x, that of number `empty` (from 0) without any."""
    return [{"role": role, "content": "" if turn == empty else "x"} for turn, role in enumerate(roles)]
