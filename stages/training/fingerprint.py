"""A short hash of all that decides a result."""

import hashlib
import json
from pathlib import Path
from typing import Any


def fingerprint_inputs(*parts: Any) -> str:
    """16 hex digits of a SHA-256 over settings and over the content of files and folders (paths)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            for file in sorted(p for p in [part, *part.rglob("*")] if p.is_file()):
                with file.open("rb") as opened:  # a packed corpus may be larger than the memory
                    digest.update(str(file.relative_to(part)).encode() + hashlib.file_digest(opened, "sha256").digest())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
