"""The deployments of prefect.yaml, as a user registers and runs them."""

import json
import urllib.request
from pathlib import Path

import yaml

from tests.makers.dvc_projects import ROOT, TWO_STAGES, make_project, run_python
from tests.makers.processes import wait_for


def list_states(deployment: str, server: dict[str, str]) -> list[str]:
    """Types of the states of a deployment's runs."""
    body = {"deployments": {"name": {"any_": [deployment]}}}
    request = urllib.request.Request(
        f"{server['PREFECT_API_URL']}/flow_runs/filter",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return [run["state_type"] for run in json.load(urllib.request.urlopen(request))]


def test_the_cron_deployment_schedules_runs_and_a_worker_completes_one(tmp_path: Path, server: dict[str, str]) -> None:
    """With the repository's own prefect.yaml."""
    folder = make_project(tmp_path, TWO_STAGES)
    (folder / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    for words in (["work-pool", "create", "local", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
        done = run_python("-m", "prefect", *words, cwd=folder, **server)
        assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: "SCHEDULED" in list_states("compress-nightly", server))
    words = ["deployment", "run", "compress/compress", "--param", "workers=1"]
    assert run_python("-m", "prefect", *words, cwd=folder, **server).returncode == 0
    worker = ["worker", "start", "--pool", "local", "--run-once", "--limit", "1"]
    done = run_python("-m", "prefect", *worker, cwd=tmp_path.parent, **server)
    assert list_states("compress", server) == ["COMPLETED"], done.stdout + done.stderr
    assert (folder / "all.txt").read_text() == "made"


def test_the_deployment_file_has_only_keys_that_prefect_knows() -> None:
    from prefect.cli.deploy._models import DeploymentConfig, PrefectYamlModel, WorkPoolConfig

    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert set(content) <= set(PrefectYamlModel.model_fields)
    for deployment in content["deployments"]:
        assert set(deployment) <= set(DeploymentConfig.model_fields)
        assert set(deployment["work_pool"]) <= set(WorkPoolConfig.model_fields)
        path, flow = deployment["entrypoint"].split(":")
        assert f"def {flow}(" in (ROOT / path).read_text()
    assert PrefectYamlModel.model_validate(content).deployments[0].schedules[0].cron == "0 2 * * *"
    assert str(ROOT) not in (ROOT / "prefect.yaml").read_text()
