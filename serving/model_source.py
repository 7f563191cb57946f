"""Where a model comes from: a folder, or MLflow's registry; and whether it has changed since.

A folder's version is the beginning of its manifest's SHA-256, a registered model's the registry's number.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from serving.exported import ModelError, read_manifest

REGISTRY = "models:/"


def find_version(model: str) -> str:
    """The version that the name stands for now.

    Raises:
        ModelError: there is no such folder, alias or version, or no MLflow to ask.
    """
    if not model.startswith(REGISTRY):
        read_manifest(Path(model))
        return hashlib.sha256((Path(model) / "manifest.json").read_bytes()).hexdigest()[:12]
    mlflow = _import_mlflow()
    name, at, alias = model.removeprefix(REGISTRY).partition("@")
    if not at:
        name, _, number = name.rpartition("/")
    try:
        client = mlflow.MlflowClient()
        registered = client.get_model_version_by_alias(name, alias) if at else client.get_model_version(name, number)
        return str(registered.version)  # a database gives a number, a server a text
    except mlflow.exceptions.MlflowException as error:
        raise ModelError(f"{model} is not in the registry: {error.message}") from None


@contextmanager
def fetch_folder(model: str, number: str) -> Iterator[Path]:
    """The exported folder of that version, as long as it is needed.

    Raises:
        ModelError: the registered model is none that `export` made.
    """
    if not model.startswith(REGISTRY):
        yield Path(model)
        return
    mlflow = _import_mlflow()
    name = model.removeprefix(REGISTRY).partition("@")[0].split("/")[0]
    with tempfile.TemporaryDirectory(prefix="makd-") as place:
        got = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{REGISTRY}{name}/{number}", dst_path=place))
        found = [path.parent for path in sorted(got.glob("artifacts/*/manifest.json"))]
        if not found:
            raise ModelError(
                f"version {number} of {name} holds no folder that export wrote; register one with `dvc repro export`"
            )
        yield found[0]


def _import_mlflow() -> ModuleType:
    """MLflow, at the registry that MLFLOW_TRACKING_URI names, or the checkout's own."""
    try:
        import mlflow
    except ImportError:
        raise ModelError(
            f"a model of the registry ({REGISTRY}...) needs mlflow; install it, or give a folder"
        ) from None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        database = Path(".makd", "mlflow.db").resolve()
        if not database.is_file():
            raise ModelError(f"{database} does not exist; set MLFLOW_TRACKING_URI to where the registry is")
        mlflow.set_tracking_uri(f"sqlite:///{database}")
    return mlflow
