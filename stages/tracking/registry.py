"""The exported folder in MLflow's model registry: text in, label and score out, by the code that serves it."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema
from pandas import DataFrame

import serving
from serving.exported import read_manifest
from serving.opening import find_reader


@dataclass(frozen=True, kw_only=True)
class Version:
    """An exported folder, to be a version of a registered model."""

    run: str
    experiment: str
    """Ids of the run that made it, and of that run's experiment."""
    folder: Path
    """Hub layout with `onnx/`."""
    name: str
    """The registered model's."""
    tags: dict[str, str]
    key: str
    """Distinguishes this registration from others."""


def register_version(client: MlflowClient, version: Version) -> str:
    """Logs the folder as a model of the run, registers it and makes it the `challenger`; returns the model's id.

    A second call with the same key adds nothing.
    """
    registered = {model.name for model in client.search_registered_models(f"name = '{version.name}'")}
    if version.name not in registered:
        client.create_registered_model(version.name)
    known = client.search_model_versions(f"name = '{version.name}' and tags.`makd.journal` = '{version.key}'")
    registered_version = known[0] if known else _log_model(client, version)
    client.set_registered_model_alias(version.name, "challenger", registered_version.version)
    return registered_version.model_id or registered_version.source.removeprefix("models:/")


def _log_model(client: MlflowClient, version: Version) -> Any:
    """The new version, as the registry returns it."""
    code, manifest = Path(str(serving.__file__)).parent, read_manifest(version.folder)
    reader = find_reader(manifest)
    texts = reader.text_columns(manifest)
    model = client.create_logged_model(
        version.experiment, name=version.name, source_run_id=version.run, tags=version.tags
    )
    Model.log(
        artifact_path=None,
        name=version.name,
        flavor=mlflow.pyfunc,
        run_id=version.run,
        model_id=model.model_id,
        python_model=str(code / "mlflow_model.py"),
        artifacts={"model": str(version.folder)},
        code_paths=[str(code)],
        pip_requirements=_list_requirements(),
        signature=ModelSignature(
            Schema([ColSpec("string", name) for name in texts] if len(texts) > 1 else [ColSpec("string")]),
            Schema([ColSpec(kind, name) for name, kind in reader.answer_columns(manifest).items()]),
        ),
        input_example=DataFrame({name: ["a fine film"] for name in texts}) if len(texts) > 1 else ["a fine film"],
    )
    source, tags = f"models:/{model.model_id}", version.tags | {"makd.journal": version.key}
    return client.create_model_version(version.name, source, version.run, tags, model_id=model.model_id)


def _list_requirements() -> list[str]:
    """The predictor's, as installed here; a GPU build of the runtime is named as such."""
    requirements = []
    for package in ("numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu"):
        try:
            requirements.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return requirements
