"""The exported folder as an MLflow model: text in, label and score out, by the code that serves it."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature
    from pandas import DataFrame


def register(
    client: "MlflowClient",
    run: str,
    experiment: str,
    folder: Path,
    name: str,
    tags: dict[str, str],
    pair: bool,
    key: str,
) -> None:
    """Logs the folder as a model of the run, registers it as `name` and makes it the `challenger`.

    Args:
        folder: the exported model, hub layout with `onnx/`.
        pair: whether it takes two texts.
        key: what tells this registration from others; a second call with the same key adds nothing.
    """
    registered = {model.name for model in client.search_registered_models(f"name = '{name}'")}
    if name not in registered:
        client.create_registered_model(name)
    made = client.search_model_versions(f"name = '{name}' and tags.`makd.journal` = '{key}'")
    number = made[0].version if made else _log(client, run, experiment, folder, name, tags, pair, key)
    client.set_registered_model_alias(name, "challenger", number)


def _log(
    client: "MlflowClient",
    run: str,
    experiment: str,
    folder: Path,
    name: str,
    tags: dict[str, str],
    pair: bool,
    key: str,
) -> str:
    import mlflow.pyfunc
    from mlflow.models import Model

    import serving
    from serving.folder import generates, read_manifest

    code = Path(serving.__file__).parent
    model = client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
    Model.log(
        artifact_path=None,
        name=name,
        flavor=mlflow.pyfunc,
        run_id=run,
        model_id=model.model_id,
        python_model=str(code / "mlflow_model.py"),
        artifacts={"model": str(folder)},
        code_paths=[str(code)],
        pip_requirements=_requirements(),
        signature=_signature(pair, writes=generates(read_manifest(folder))),
        input_example=_example(pair),
    )
    source = f"models:/{model.model_id}"
    made = client.create_model_version(name, source, run, tags | {"makd.journal": key}, model_id=model.model_id)
    return made.version


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
