"""An exported folder, opened: trusted only as far as its manifest's checksums hold."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np
    from onnxruntime import InferenceSession

Provider = Literal["cpu", "cuda"]
Feed = dict[str, "np.ndarray"]
"""The inputs of an ONNX graph by name."""
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ModelError(ValueError):
    """A folder, variant, provider, text or setting that cannot work; the message says in one sentence what would."""


class Exported:
    """One variant of an exported model, its files verified, loaded and ready; safe to share between threads.

    Args:
        folder: what `export` wrote.
        variant: `fp32`, `portable`, `fp16` or `int8`, as the folder has them.
        threads: ONNX Runtime's intra-op threads; they sleep between requests instead of spinning.
        provider: where to run; `cuda` is an error when ONNX Runtime falls back to the CPU.

    Raises:
        ModelError: no such folder or variant, a file that differs from the manifest, another kind of model, or no such
            provider.
    """

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of tasks that it answers for."""
    required_files: ClassVar[tuple[str, ...]]
    """Files that are read beside the graph."""

    def __init__(
        self, folder: Path | str, variant: str = "fp32", *, threads: int = 1, provider: Provider = "cpu"
    ) -> None:
        self.folder, self.variant, self._provider = Path(folder), variant, provider
        self.manifest = read_manifest(self.folder)
        if (kind := self.manifest["task"]["kind"]) not in self.kinds:
            raise ModelError(f"{folder} holds a model for {kind}; open it with serving.opening.open_model")
        graph = _find_graph(self.folder, self.manifest, variant)
        for file in (*self.required_files, graph):
            _verify_checksum(self.folder, file, self.manifest["files"])
        self.path = self.folder / graph
        self.session = _open_session(self.path, threads, provider)
        self._read_files()

    def _read_files(self) -> None:
        """Reads the files beside the graph."""
        raise NotImplementedError


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest that export wrote.

    Raises:
        ModelError: it is no such folder.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no manifest.json; give a folder that `python -m stages.export` wrote")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    if "task" not in manifest:
        raise ModelError(f"{path} does not say which task the model is for; export it again with this version")
    return manifest


def _find_graph(folder: Path, manifest: dict[str, Any], variant: str) -> str:
    shipped = {name: entry["file"] for name, entry in manifest["variants"].items() if "file" in entry}
    if variant not in shipped:
        raise ModelError(f"variant {variant} is not in {folder}; it has {', '.join(shipped)}")
    return shipped[variant]


def _verify_checksum(folder: Path, name: str, digests: dict[str, str]) -> None:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the whole folder again")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digests.get(name):
            raise ModelError(f"{path} differs from its checksum in manifest.json; copy the whole folder again")


def _open_session(path: Path, threads: int, provider: Provider) -> "InferenceSession":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    requested = _PROVIDERS[provider]
    if provider == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries may have come as Python packages, off the loader's path
    offered = onnxruntime.get_available_providers()  # to ask for another one would print a warning of its own
    providers = [name for name in dict.fromkeys([requested, _PROVIDERS["cpu"]]) if name in offered]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    if (provided := session.get_providers()[0]) != requested:
        raise ModelError(
            f"provider {provider} is not available: ONNX Runtime fell back to {provided}; "
            "install onnxruntime-gpu with CUDA and cuDNN (`make doctor` tells what is missing) or use cpu"
        )
    return session
