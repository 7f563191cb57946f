"""An exported folder, opened: trusted only as far as its manifest's checksums hold."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is imported: it would report to its maker

Provider = Literal["cpu", "cuda"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ModelError(ValueError):
    """A folder, variant, provider, text or setting that cannot work; the message says in one sentence what would."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """One variant of a folder, its files verified."""

    manifest: dict[str, Any]
    path: Path
    """Of the graph."""
    session: "InferenceSession"


def open_folder(
    folder: Path, variant: str, *, generates: bool, files: tuple[str, ...], threads: int, provider: Provider
) -> Opened:
    """Checks the graph and the named files beside it, and loads the graph.

    Args:
        generates: whether it must be a decoder's folder, or must not.
        threads: ONNX Runtime's intra-op threads; they sleep between requests instead of spinning.
        provider: where to run; `cuda` is an error when ONNX Runtime falls back to the CPU.

    Raises:
        ModelError: no such folder or variant, a file that differs from the manifest, another kind of model, or no such
            provider.
    """
    manifest = read_manifest(folder)
    if (manifest.get("kind") == "causal_lm") != generates:
        reader = "serving.predictor.Predictor" if generates else "serving.generator.Generator"
        raise ModelError(f"{folder} holds a model of another kind; open it with {reader}")
    path = _graph(folder, manifest, variant)
    for file in (*files, path):
        _verify(folder, file, manifest["files"])
    return Opened(manifest=manifest, path=folder / path, session=_session(folder / path, threads, provider))


def read_manifest(folder: Path) -> dict[str, Any]:
    """What export wrote about the folder.

    Raises:
        ModelError: it is no such folder.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no manifest.json; give a folder that `python -m stages.export` wrote")
    return json.loads(path.read_text(encoding="utf8"))


def _graph(folder: Path, manifest: dict[str, Any], variant: str) -> str:
    shipped = {name: entry["file"] for name, entry in manifest["variants"].items() if "file" in entry}
    if variant not in shipped:
        raise ModelError(f"variant {variant} is not in {folder}; it has {', '.join(shipped)}")
    return shipped[variant]


def _verify(folder: Path, name: str, digests: dict[str, str]) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the whole folder again")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digests.get(name):
            raise ModelError(f"{path} differs from its checksum in manifest.json; copy the whole folder again")


def _session(path: Path, threads: int, provider: Provider) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _PROVIDERS[provider]
    if provider == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries may have come as Python packages, off the loader's path
    offered = onnxruntime.get_available_providers()  # to ask for another one would print a warning of its own
    providers = [name for name in dict.fromkeys([wanted, _PROVIDERS["cpu"]]) if name in offered]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    if (got := session.get_providers()[0]) != wanted:
        raise ModelError(
            f"provider {provider} was asked for, but ONNX Runtime fell back to {got}; "
            "install onnxruntime-gpu with CUDA and cuDNN (`make doctor` tells what is missing) or use cpu"
        )
    return session
