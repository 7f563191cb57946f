"""The exported folder as an MLflow model: text in, label and score out, by the code that serves it."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from pandas import DataFrame


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
    pair: bool
    """Whether it takes two texts."""
    key: str
    """Tells this registration from others."""


def register(client: "MlflowClient", made: Version) -> None:
    """Logs the folder as a model of the run, registers it and makes it the `challenger`.

    A second call with the same key adds nothing.
    """
    registered = {model.name for model in client.search_registered_models(f"name = '{made.name}'")}
    if made.name not in registered:
        client.create_registered_model(made.name)
    known = client.search_model_versions(f"name = '{made.name}' and tags.`makd.journal` = '{made.key}'")
    number = known[0].version if known else _log(client, made)
    client.set_registered_model_alias(made.name, "challenger", number)


def _log(client: "MlflowClient", made: Version) -> str:
    """The number of the new version."""
    import mlflow.pyfunc
    from mlflow.models import Model

    import serving
    from serving.folder import generates, read_manifest

    code = Path(serving.__file__).parent
    model = client.create_logged_model(made.experiment, name=made.name, source_run_id=made.run, tags=made.tags)
    Model.log(
        artifact_path=None,
        name=made.name,
        flavor=mlflow.pyfunc,
        run_id=made.run,
        model_id=model.model_id,
        python_model=str(code / "mlflow_model.py"),
        artifacts={"model": str(made.folder)},
        code_paths=[str(code)],
        pip_requirements=_requirements(),
        signature=_signature(made.pair, writes=generates(read_manifest(made.folder))),
        input_example=_example(made.pair),
    )
    source, tags = f"models:/{model.model_id}", made.tags | {"makd.journal": made.key}
    return client.create_model_version(made.name, source, made.run, tags, model_id=model.model_id).version


def _signature(pair: bool, writes: bool) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    texts = [ColSpec("string", "text"), ColSpec("string", "text_pair")] if pair else [ColSpec("string")]
    said = [ColSpec("string", "text")] if writes else [ColSpec("string", "label"), ColSpec("double", "score")]
    return ModelSignature(Schema(texts), Schema(said))


def _example(pair: bool) -> "list[str] | DataFrame":
    from pandas import DataFrame

    return DataFrame({"text": ["a fine film"], "text_pair": ["it is good"]}) if pair else ["a fine film"]


def _requirements() -> list[str]:
    """What the predictor needs, as installed here; a GPU build of the runtime is named as such."""
    found = []
    for package in ("numpy", "tokenizers", "onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return found
