"""A model as the service knows it: opened, checked, warmed up, with the worker that answers for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving import model_source
from serving.generator import Generator
from serving.opening import open_model
from serving.workers import BatchWorker, GenerationWorker

if TYPE_CHECKING:
    from serving.settings import Settings
    from serving.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model that is ready to answer."""

    name: str
    version: str
    variant: str
    card: str
    """The folder's README.md, without its front matter."""
    manifest: dict[str, Any]
    worker: BatchWorker | GenerationWorker


def load_model(model: str, name: str, variant: str, settings: "Settings", telemetry: "Telemetry") -> ServedModel:
    """Opens, checks and warms up a model; it does not answer yet.

    Args:
        model: a folder, or `models:/name@alias`.
        name: in URLs; empty: the exported name.

    Raises:
        ModelError: it is not there, or is no model that can be served so.
    """
    version = model_source.find_version(model)
    with model_source.fetch_folder(model, version) as folder:
        opened = open_model(folder, variant, threads=settings.threads, provider=settings.provider)
        manifest = opened.manifest
        name = name or manifest.get("name") or folder.name
        card = folder / "README.md"
        text = card.read_text(encoding="utf8").split("---\n", 2)[-1].strip() if card.is_file() else ""
    opened.warm_up()
    worker: BatchWorker | GenerationWorker
    if isinstance(opened, Generator):
        worker = GenerationWorker(opened, settings)
    else:
        worker = BatchWorker(opened, name, settings, telemetry)
    return ServedModel(name=name, version=version, variant=variant, card=text, manifest=manifest, worker=worker)
