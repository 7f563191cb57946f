"""What is wrong with this machine's setup, and what to do about it.

Looks at what no resolver and no import error tells: two ONNX Runtime builds over each other, a CUDA session
that silently fell back to the CPU, versions that install but fail later. Changes nothing.

    python -m stages.doctor        # or: make doctor; exit status 1 when something fails
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.command import STATE

if TYPE_CHECKING:
    from packaging.requirements import Requirement

BUILDS = ("onnxruntime", "onnxruntime-gpu")
WHY = {
    "fastapi": "prefect 3.8 dies at import with 0.155 and later",
    "sqlalchemy": "prefect 3.8 never fires its schedules with 2.1",
    "dvc": "older ones break with pathspec 1",
}
"""Why a pin is there, where its absence shows late and elsewhere."""


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    verdict: Literal["ok", "warn", "FAIL"]
    what: str
    remedy: str = ""


def run_checks() -> Iterator[tuple[str, Finding]]:
    """Every check's name and finding; a check that dies is a finding too."""
    checks: dict[str, Callable[[], Finding]] = {
        "python": check_python,
        "versions": check_versions,
        "onnxruntime builds": check_onnxruntime_builds,
        "onnxruntime device": check_onnxruntime_device,
        "torch device": check_torch_device,
        "params.yaml": check_settings,
        "base model": check_base_model,
        "git and dvc": check_repository,
        "disk": check_disk,
        f"{STATE} writable": check_writable,
        "mlflow": check_tracking,
        "processors": check_processors,
    }
    for name, check in checks.items():
        try:
            yield name, check()
        except Exception as error:
            yield name, Finding("FAIL", f"{type(error).__name__}: {error}", "rm -rf .venv && make install")


def check_python() -> Finding:
    """The interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Finding("ok", version)
    return Finding("FAIL", version, "rm -rf .venv && make install PYTHON=python3.12 (3.11 to 3.13)")


def check_versions(project: Path = Path("pyproject.toml")) -> Finding:
    """Every dependency that pyproject.toml names, against the version that is installed."""
    wrong, needs = [], list(list_requirements(project))
    for need in needs:
        have = find_version(need.name)
        if have is None or not need.specifier.contains(have, prereleases=True):
            why = f" ({WHY[need.name]})" if need.name in WHY else ""
            wrong.append(f"{need.name} {have or 'missing'}, needs {need.specifier}{why}")
    if wrong:
        return Finding("FAIL", "; ".join(wrong), "touch pyproject.toml && make install")
    shown = (f"{name} {find_version(name)}" for name in ("torch", "transformers", "dvc", "mlflow", "prefect"))
    return Finding("ok", f"all {len(needs)} within their pins: {', '.join(shown)}")


def list_requirements(project: Path) -> Iterator["Requirement"]:
    """The project's dependencies, and of the ONNX Runtime builds those that are installed."""
    from packaging.requirements import Requirement

    table = tomllib.loads(project.read_text(encoding="utf8"))["project"]
    yield from map(Requirement, table["dependencies"])
    for lines in table.get("optional-dependencies", {}).values():
        yield from (n for n in map(Requirement, lines) if n.name in BUILDS and find_version(n.name))


def find_version(name: str) -> str | None:
    """The version of a distribution, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_onnxruntime_builds() -> Finding:
    """The CPU and the GPU build share one folder: with both, the last one wins and neither is whole."""
    have = {build: version for build in BUILDS if (version := find_version(build))}
    wanted = BUILDS[has_nvidia_driver()]
    if len(have) == 1:
        return Finding("ok", " ".join(*have.items()))
    if not have:
        return Finding("FAIL", "none installed", "touch pyproject.toml && make install")
    repair = (
        f"python -m pip uninstall -y {' '.join(BUILDS)} && "
        f"python -m pip install --no-deps --force-reinstall {wanted}=={have[wanted]}"
    )
    return Finding("FAIL", "both builds, which overwrite each other", repair)


def has_nvidia_driver() -> bool:
    """Does an NVIDIA driver answer?"""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def check_onnxruntime_device() -> Finding:
    """A real session: available providers prove nothing, and it falls back to the CPU without a word."""
    if not has_nvidia_driver():
        return Finding("ok", f"{find_session_provider('CPUExecutionProvider')}; no NVIDIA driver")
    if not find_version("onnxruntime-gpu"):
        return Finding("warn", "CPU build beside an NVIDIA driver", "rm -rf .venv && make install DEVICE=gpu")
    got = find_session_provider("CUDAExecutionProvider")
    if got == "CUDAExecutionProvider":
        return Finding("ok", got)
    remedy = "python -m pip install 'onnxruntime-gpu[cuda,cudnn]' (CUDA 13, cuDNN 9; the driver must support it)"
    return Finding("FAIL", f"a CUDA session silently fell back to {got}", remedy)


def find_session_provider(wanted: str) -> str:
    """What ONNX Runtime really runs on when it is asked for a provider."""
    import onnxruntime
    from onnx import TensorProto, helper

    # the CUDA libraries that came as packages are found only when they are loaded first
    if wanted.startswith("CUDA") and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[wanted])
    return session.get_providers()[0]


def check_torch_device() -> Finding:
    """Training needs torch's own CUDA build, apart from ONNX Runtime's."""
    import torch

    if torch.cuda.is_available():
        return Finding("ok", f"torch {torch.__version__} on {torch.cuda.get_device_name()}")
    if not has_nvidia_driver():
        return Finding("ok", f"torch {torch.__version__} on the CPU; no NVIDIA driver")
    remedy = "rm -rf .venv && make install DEVICE=gpu (a torch with CUDA, which the driver must support)"
    return Finding("FAIL", f"torch {torch.__version__} does not see the GPU", remedy)


def check_settings() -> Finding:
    """params.yaml as a stage would read it."""
    from stages.errors import BadInput
    from stages.settings import read_params

    try:
        return Finding("ok", f"tasks {', '.join(read_params().tasks)}")
    except BadInput as error:
        return Finding("FAIL", "refused", str(error))


def check_base_model() -> Finding:
    """The base model of params.yaml: there, and the embedded one byte for byte the pinned one."""
    from stages.errors import BadInput
    from stages.models.pretrained import locate_model
    from stages.settings import read_params

    try:
        base = read_params().base
        locate_model(base)
    except BadInput as error:
        return Finding("FAIL", "refused", str(error))
    return Finding("ok", f"{base.model}{', sha256 as pinned' if base.model == 'minilm' else ''}")


def check_repository() -> Finding:
    """DVC needs git with a commit, for experiments and for diffs."""
    if not Path(".dvc").is_dir():
        return Finding("FAIL", "no .dvc folder here", "run in the project's folder, or `dvc init`")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if commit.returncode:
        return Finding("FAIL", "no git commit here", "git init && git add . && git commit -m start")
    return Finding("ok", f"commit {commit.stdout.strip()}")


def check_disk(needed: float = 5.0) -> Finding:
    """Room for models, checkpoints and DVC's cache, in GB."""
    free = shutil.disk_usage(".").free / 1e9
    verdict = "ok" if free >= needed else "warn" if free >= 1 else "FAIL"
    return Finding(verdict, f"{free:.0f} GB free", "" if free >= needed else f"free some: {needed:g} GB are safe")


def check_writable() -> Finding:
    """Where state that outlives a stage is kept."""
    try:
        STATE.mkdir(exist_ok=True)
        (STATE / ".probe").write_text("")
        (STATE / ".probe").unlink()
    except OSError as error:
        return Finding("FAIL", str(error), f"make {STATE.resolve()} writable")
    return Finding("ok", str(STATE.resolve()))


def check_tracking() -> Finding:
    """The MLflow server, where one is named; a stage runs without it, and its figures are sent later."""
    from urllib.request import urlopen

    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith("http"):
        return Finding("ok", uri or "no server named: a SQLite file here")
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=5):
            return Finding("ok", uri)
    except OSError as error:
        remedy = "start the server or correct MLFLOW_TRACKING_URI; figures are kept and sent when it is back"
        return Finding("warn", f"{uri} does not answer: {error}", remedy)


def check_processors() -> Finding:
    """Cores this process may use, threads it will use, and how busy the machine is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "as many")
    load = os.getloadavg()[0]
    what = f"{cores} cores, OMP_NUM_THREADS {threads}, load {load:.1f}"
    if load > cores:
        return Finding("warn", what, "others use the cores: expect slow runs and do not trust timings")
    return Finding("ok", what)


def main() -> int:
    """Prints the table; 1 when something fails."""
    from tabulate import tabulate

    findings = list(run_checks())
    rows = [(finding.verdict, name, finding.what) for name, finding in findings]
    print(tabulate(rows, headers=("", "check", "finding"), tablefmt="simple", maxcolwidths=[None, None, 90]))
    for name, finding in findings:
        if finding.remedy:
            print(f"\n{finding.verdict} {name}: {finding.remedy}")
    return int(any(finding.verdict == "FAIL" for _, finding in findings))


if __name__ == "__main__":
    sys.exit(main())
