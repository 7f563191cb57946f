"""The verb `doctor`: every finding is caused for real, in folders of the test's own."""

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stages import doctor

Install = Callable[..., None]


@pytest.fixture
def distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes folders of installed distributions on sys.path; `only` hides the real ones."""

    def install(*names: str, only: bool = False) -> None:
        for name in names:
            folder = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path)] if only else [str(tmp_path), *sys.path])
        importlib.invalidate_caches()

    return install


@pytest.fixture
def nvidia_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `nvidia-smi` that answers."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("build", doctor.BUILDS)
def test_one_build_is_ok(distributions: Install, build: str) -> None:
    distributions(build, only=True)
    assert doctor.check_onnxruntime_builds() == doctor.Finding("ok", f"{build} 1.31.1")


def test_two_builds_fail_with_the_repair_for_a_cpu(distributions: Install, no_driver: None) -> None:
    distributions(*doctor.BUILDS, only=True)
    finding = doctor.check_onnxruntime_builds()
    assert finding.verdict == "FAIL" and "both builds" in finding.what
    assert finding.remedy == (
        "python -m pip uninstall -y onnxruntime onnxruntime-gpu && "
        "python -m pip install --no-deps --force-reinstall onnxruntime==1.31.1"
    )


def test_two_builds_fail_with_the_repair_for_a_gpu(distributions: Install, nvidia_driver: None) -> None:
    distributions(*doctor.BUILDS, only=True)
    assert doctor.check_onnxruntime_builds().remedy.endswith(" onnxruntime-gpu==1.31.1")


def test_no_build_fails(distributions: Install) -> None:
    distributions(only=True)
    assert doctor.check_onnxruntime_builds().verdict == "FAIL"


def test_a_cpu_build_beside_a_driver_is_a_warning(nvidia_driver: None) -> None:
    if doctor.find_version("onnxruntime-gpu"):
        pytest.skip("this environment has the GPU build")
    finding = doctor.check_onnxruntime_device()
    assert finding.verdict == "warn" and "DEVICE=gpu" in finding.remedy


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_fell_back_fails(distributions: Install, nvidia_driver: None) -> None:
    """The driver and the GPU build seem to be there; the real session runs on the CPU all the same."""
    if doctor.find_session_provider("CUDAExecutionProvider") == "CUDAExecutionProvider":
        pytest.skip("this machine has a GPU")
    distributions("onnxruntime-gpu")
    finding = doctor.check_onnxruntime_device()
    assert finding.verdict == "FAIL" and "silently fell back to CPUExecutionProvider" in finding.what


@pytest.mark.gpu
def test_a_gpu_is_really_used() -> None:
    if not doctor.has_nvidia_driver():
        pytest.skip("no NVIDIA driver")
    assert doctor.check_torch_device().verdict == "ok"
    assert doctor.check_onnxruntime_device().verdict == "ok"


def test_versions_outside_their_pins_are_named(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["fastapi>=99", "no-such-thing", "pyyaml>=5"]\n')
    finding = doctor.check_versions(project)
    assert finding.verdict == "FAIL" and "pyyaml" not in finding.what
    assert f"fastapi {importlib.metadata.version('fastapi')}, needs >=99 (prefect" in finding.what
    assert "no-such-thing missing" in finding.what


def test_this_environment_is_within_the_pins() -> None:
    assert doctor.check_versions(Path(doctor.__file__).parent.parent / "pyproject.toml").verdict == "ok"


def test_a_server_that_is_away_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the discard port: nobody answers
    assert doctor.check_tracking().verdict == "warn"


def test_a_folder_without_a_project_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.check_repository().verdict == "FAIL" and doctor.check_settings().verdict == "FAIL"
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert "FAIL params.yaml: params.yaml does not exist; run from the folder" in shown


def test_every_problem_comes_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    problems = {name: finding for name, finding in doctor.run_checks() if finding.verdict != "ok"}
    assert {"versions", "params.yaml", "base model", "git and dvc", "mlflow"} <= problems.keys()
    assert all(finding.remedy for finding in problems.values())
