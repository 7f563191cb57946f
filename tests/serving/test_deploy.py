"""The image and the manifests fit the service: packages, settings, routes, files."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from serving.http import v2
from serving.settings import Settings
from tests.house.imports import ROOT, find_reached, is_inside, list_imports, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf8")
COMMAND = ROOT / "serving/__main__.py"
NOT_IN_THE_IMAGE = {"mlflow"}
"""Imported only where a model comes from the registry; the service says what to install."""


def test_the_image_has_what_the_service_imports() -> None:
    """Every package that `python -m serving` reaches is one of the image's, or comes with one."""
    files = {COMMAND} | {file for file in find_reached(COMMAND) if not is_inside(file, ("stages",))}
    assert ROOT / "serving/http/completions.py" in files
    names = {name.split(".")[0] for file in files for name in list_imports(parse(file), types=False)}
    outside = names - {"serving", "stages"} - set(sys.stdlib_module_names) - NOT_IN_THE_IMAGE
    brought = {"pydantic", "starlette", "pydantic_core", "onnxruntime"}  # by FastAPI; by the build argument RUNTIME
    packages = {dist.lower().replace("_", "-") for name in outside - brought for dist in packages_distributions()[name]}
    assert packages == set(PROJECT["dependency-groups"]["image"])


def test_the_image_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {*PROJECT["dependency-groups"]["image"], "onnxruntime", "onnxruntime-gpu"} <= pinned


def test_the_files_that_the_dockerfile_copies_exist() -> None:
    """What it copies is there and not ignored; what is ignored is no part of the service."""
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M) for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    left_out = [line for line in ignored if line.startswith("serving/")]
    assert left_out and all((ROOT / name).exists() for name in left_out)
    assert not any(is_inside(file, left_out) for file in find_reached(COMMAND))


def test_the_dockerfile_sets_what_the_service_reads() -> None:
    names = {name.removeprefix("MAKD_").lower() for name in re.findall(r"MAKD_[A-Z_]+(?==)", DOCKERFILE)}
    assert names == {"host", "port"} and names <= Settings.model_fields.keys()
    assert re.search(r"^USER \d+", DOCKERFILE, re.M), "by number: Kubernetes then knows that it is not root"
    assert is_route("/v2/health/ready") and "/v2/health/ready" in DOCKERFILE


def is_route(path: str) -> bool:
    return path in {route.path for route in v2.router.routes}


def test_the_kserve_manifest_fits_the_service() -> None:
    """Fields as KServe's reference has them (V1beta1PredictorSpec, V1Container); arguments that the service takes."""
    manifest = yaml.safe_load((ROOT / "deploy/kserve.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = manifest["spec"]["predictor"]
    assert predictor.keys() == {"minReplicas", "maxReplicas", "terminationGracePeriodSeconds", "containers"}
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container", "by this name KServe knows the predictor"
    model, *flags = container["args"]
    settings = Settings(model=model, **dict(zip((flag[2:] for flag in flags[::2]), flags[1::2], strict=True)))
    assert model == "/mnt/models" and settings.variant == "int8"
    assert predictor["terminationGracePeriodSeconds"] > settings.drain_seconds
    assert settings.threads * settings.instances == int(container["resources"]["limits"]["cpu"])
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment.keys() == {"STORAGE_URI", "MAKD_PORT"}
    for probe in ("readinessProbe", "livenessProbe"):
        request = container[probe]["httpGet"]
        assert is_route(request["path"]) and str(request["port"]) == environment["MAKD_PORT"]
    assert container["ports"][0]["containerPort"] == int(environment["MAKD_PORT"])
    assert container["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]


def test_the_page_fetches_nothing_from_elsewhere() -> None:
    page = Path(ROOT / "serving/http/page/index.html").read_text(encoding="utf8")
    addresses = set(re.findall(r"https?://[^\"'`\s]+", page))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of SVG, which nothing is fetched from"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", page)


STAGE = """import sys
sys.argv = ['export']
from stages.command import command
from stages.settings import Export
with command('export', Export, ''):
    import onnxruntime
    onnxruntime.get_all_providers()"""


@pytest.mark.parametrize(
    "code",
    [
        "import serving.exported, onnxruntime; onnxruntime.get_all_providers()",
        STAGE,
        "import benchmarks, onnxruntime; onnxruntime.get_all_providers()",
    ],
    ids=["serving", "stages", "benchmarks"],
)
def test_onnx_runtime_reports_to_nobody(code: str, tmp_path: Path) -> None:
    """Left alone, it writes an identifier, and what it saw, into the home folder, to send both."""
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    (project / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    quiet = {"ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in quiet}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "MAKD_TRACKING": "off"}
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True)
    assert not list(home.iterdir())
