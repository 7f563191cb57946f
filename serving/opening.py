"""An exported folder, opened as what it is."""

from pathlib import Path

from serving.folder import Provider, generates, read_manifest
from serving.generator import Generator
from serving.predictor import Predictor

Model = Predictor | Generator


def open_model(folder: Path, variant: str = "fp32", *, threads: int = 1, provider: Provider = "cpu") -> Model:
    """A classifier or a decoder, as the manifest says; arguments and errors as of `serving.folder.Exported`."""
    kind = Generator if generates(read_manifest(folder)) else Predictor
    return kind(folder, variant, threads=threads, provider=provider)
