"""An exported folder, opened by the class that answers for its kind of task."""

from pathlib import Path
from typing import Any

from serving.exported import ModelError, Provider, read_manifest
from serving.generator import Generator
from serving.predictor import Predictor

ExportedModel = Predictor | Generator
READERS: tuple[type[Predictor] | type[Generator], ...] = (Predictor, Generator)


def find_reader(manifest: dict[str, Any]) -> type[Predictor] | type[Generator]:
    """The class for the manifest's kind of task.

    Raises:
        ModelError: there is none.
    """
    kind = manifest["task"]["kind"]
    for reader in READERS:
        if kind in reader.kinds:
            return reader
    known = ", ".join(kind for reader in READERS for kind in reader.kinds)
    raise ModelError(f"a model for {kind} is not served; known are {known}")


def open_model(folder: Path, variant: str = "fp32", *, threads: int = 1, provider: Provider = "cpu") -> ExportedModel:
    """The model in a folder, ready to answer; arguments and errors as of `serving.exported.Exported`."""
    return find_reader(read_manifest(folder))(folder, variant, threads=threads, provider=provider)
