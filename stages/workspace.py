"""What every verb is given beside its settings and inputs."""

from dataclasses import dataclass
from pathlib import Path

from stages.tracking import Run


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a stage writes, what it draws from, and where it reports."""

    output: Path
    """Folder for the results; moved into place when the stage has ended well."""
    state: Path
    """Folder for what a killed stage resumes from."""
    seed: int
    run: Run
    """The tracked run."""
