"""The flows against Prefect's real server on loopback, with real DVC projects of trivial stages."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import wait_for

ROOT = Path(__file__).resolve().parent.parent


def command(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in the tests' own Python, its output as text."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Prefect's commands find the server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PYTHONPATH": str(ROOT),
    }
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    log = open(environment["PREFECT_HOME"] + "/server.log", "w")  # noqa: SIM115
    process = subprocess.Popen(words, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: answers(f"{environment['PREFECT_API_URL']}/health"), 90)
        yield environment
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def project(folder: Path, stages: str) -> Path:
    """A git and DVC project with these stages."""
    from dvc.repo import Repo

    subprocess.run(["git", "init", "-q", folder], check=True)
    Repo.init(str(folder)).close()
    (folder / "dvc.yaml").write_text(stages)
    return folder


TWO = """
stages:
  first:
    matrix:
      task: [a, b]
    cmd: python -c "open('${item.task}.txt', 'w').write('made')"
    outs:
    - ${item.task}.txt
  second:
    cmd: python -c "print('said by second'); open('all.txt', 'w').write('made')"
    deps:
    - a.txt
    - b.txt
    outs:
    - all.txt
"""

FAILING = """
stages:
  broken:
    cmd: python -c "import sys; print('weights went to infinity'); sys.exit(3)"
  after:
    cmd: python -c "print('must not be seen')"
    deps:
    - nothing.txt
    outs:
    - after.txt
  makes:
    cmd: python -c "import sys; sys.exit(4)"
    outs:
    - nothing.txt
"""

SLEEPING = """
stages:
  endless:
    cmd: >-
      python -c "import os, subprocess, sys, time;
      child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);
      open('pids', 'w').write(f'{os.getpid()} {child.pid}'); time.sleep(600)"
"""

RIVALS = """
stages:
  finetune:
    matrix: {task: [a, b]}
    cmd: python -c "open('${item.task}.txt', 'w').write('teacher')"
    outs: ["${item.task}.txt"]
  baseline:
    matrix: {task: [a, b], recipe: [one, two]}
    cmd: python rival.py ${item.task} ${item.recipe}
    deps: ["${item.task}.txt"]
    outs: ["outputs/baseline/${item.task}/${item.recipe}.txt"]
  race:
    matrix: {task: [a, b], recipe: [one, two]}
    cmd: python race.py ${item.task} ${item.recipe}
    deps: ["outputs/baseline/${item.task}/${item.recipe}.txt"]
    outs: ["outputs/race/${item.task}/${item.recipe}.csv"]
  benchmark:
    cmd: python -c "open('main.csv', 'w').write('timed')"
    outs: [main.csv]
  evaluate:
    cmd: python -c "print('must not be seen')"
    outs: [outputs/evaluate/score.txt]
  compare:
    cmd: python -c "from pathlib import Path;
      Path('all.txt').write_text(' '.join(sorted(p.parent.name + p.stem for p in Path('outputs').rglob('*.txt'))))"
    deps: [outputs/baseline, outputs/evaluate]
    outs: [all.txt]
"""

RIVAL = """
import os, sys, time
from pathlib import Path
import psutil

task, recipe = sys.argv[1:]
above = psutil.Process().parents()
dvc = next(i for i, process in enumerate(above) if '--single-item' in process.cmdline())
Path('started').mkdir(exist_ok=True)
Path('started', task + recipe).write_text(str(above[dvc + 1].pid))
deadline = time.monotonic() + 60
while len(os.listdir('started')) < int(os.environ['SIDE_BY_SIDE']):
    assert time.monotonic() < deadline, 'the others were not started beside this one'
    time.sleep(0.1)
assert task + recipe != 'btwo', 'weights went to infinity'
out = Path('outputs', 'baseline', task, recipe + '.txt')
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text('made')
"""


RACE = """
import os, sys, time
from pathlib import Path

task, recipe = sys.argv[1:]
with open('racing', 'x'):
    time.sleep(1)
os.remove('racing')
out = Path('outputs', 'race', task, recipe + '.csv')
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text('timed')
"""


def rivals(folder: Path) -> Path:
    """Two tasks, two recipes, of which one fails on one task; races that cannot run at the same time."""
    (project(folder, RIVALS) / "rival.py").write_text(RIVAL)
    (folder / "race.py").write_text(RACE)
    return folder


def test_runs_the_graph_then_skips_what_is_unchanged(tmp_path: Path, server: dict[str, str]) -> None:
    folder = project(tmp_path, TWO)
    first = command("-m", "pipelines.compress", cwd=folder, **server)
    assert first.returncode == 0, first.stderr
    assert "Task run 'second' - said by second" in first.stderr + first.stdout
    assert (folder / "all.txt").read_text() == "made"
    second = command("-m", "pipelines.compress", cwd=folder, **server)
    assert second.returncode == 0 and (second.stderr + second.stdout).count("state Cached") == 3


def test_a_failing_stage_fails_the_flow_and_its_output_is_in_the_log(tmp_path: Path, server: dict[str, str]) -> None:
    done = command("-m", "pipelines.compress", cwd=project(tmp_path, FAILING), **server)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert "Task run 'broken' - weights went to infinity" in output
    assert "Retry" not in output and "AwaitingRetry" not in output
    assert "must not be seen" not in output.replace("print('must not be seen')", "")
    assert all(part in done.stderr.splitlines()[-1] for part in ("broken: Failed", "makes: Failed", "after: NotReady"))


def test_a_timeout_stops_the_whole_process_group(tmp_path: Path, server: dict[str, str]) -> None:
    folder = project(tmp_path, SLEEPING)
    done = command("-m", "pipelines.compress", "--timeout", 8, cwd=folder, **server)
    assert done.returncode == 1 and "ran longer than `timeout` (8 s)" in done.stdout + done.stderr
    assert all(ended(int(pid)) for pid in (folder / "pids").read_text().split())


def test_a_failing_rival_stops_no_other_and_the_comparison_takes_what_there_is(
    tmp_path: Path, server: dict[str, str]
) -> None:
    folder = rivals(tmp_path)
    first = command("-m", "pipelines.study", "--workers", 4, cwd=folder, SIDE_BY_SIDE="4", **server)
    output = first.stdout + first.stderr
    assert first.returncode == 1 and "weights went to infinity" in output and "Retry" not in output, output
    assert first.stderr.splitlines()[-1] == "study: baseline@b-two: Failed"
    assert (folder / "all.txt").read_text() == "aone atwo bone" and "must not be seen" not in output
    assert not (folder / "outputs/race").exists()


def test_with_race_the_rivals_that_were_made_are_timed_one_at_a_time(tmp_path: Path, server: dict[str, str]) -> None:
    folder = rivals(tmp_path)
    done = command("-m", "pipelines.study", "--race", "--workers", 4, cwd=folder, SIDE_BY_SIDE="4", **server)
    assert done.stderr.splitlines()[-1] == "study: baseline@b-two: Failed", done.stdout + done.stderr
    timed = {path.relative_to(folder / "outputs/race").as_posix() for path in (folder / "outputs/race").rglob("*.csv")}
    assert timed == {"a/one.csv", "a/two.csv", "b/one.csv"} and (folder / "main.csv").exists()


def test_a_cluster_runs_the_rivals_in_the_flows_folder(
    tmp_path: Path, server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    folder = rivals(tmp_path)
    for name, value in (server | {"SIDE_BY_SIDE": "2"}).items():
        monkeypatch.setenv(name, value)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        words = ["--recipes", "one", "--runner", "dask", "--address", cluster.scheduler_address]
        workers = {worker.pid for worker in cluster.workers.values()}
        done = command("-m", "pipelines.study", *words, cwd=folder)
    assert done.returncode == 0 and (folder / "all.txt").read_text() == "aone bone", done.stdout + done.stderr
    assert {int(path.read_text()) for path in (folder / "started").iterdir()} == workers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "end"), [("threads", signal.SIGTERM), ("threads", signal.SIGKILL), ("dask", signal.SIGTERM)]
)
def test_an_interrupted_flow_leaves_no_stage_behind(
    tmp_path: Path, server: dict[str, str], runner: str, end: signal.Signals
) -> None:
    if runner == "dask":
        pytest.importorskip("prefect_dask")
    folder = project(tmp_path, SLEEPING)
    flow = subprocess.Popen(
        [sys.executable, "-m", "pipelines.compress", "--runner", runner],
        cwd=folder,
        env=os.environ | server,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: (folder / "pids").exists() and len((folder / "pids").read_text().split()) == 2, 60)
    flow.send_signal(end)
    flow.wait(30)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    wait_for(lambda: all(ended(pid) for pid in pids), 10)


def test_the_cron_deployment_schedules_runs_and_a_worker_completes_one(tmp_path: Path, server: dict[str, str]) -> None:
    """As a user does it, with the repository's own prefect.yaml."""
    folder = project(tmp_path, TWO)
    (folder / "prefect.yaml").write_text((ROOT / "prefect.yaml").read_text())
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    for words in (["work-pool", "create", "local", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
        done = command("-m", "prefect", *words, cwd=folder, **server)
        assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: "SCHEDULED" in runs_of("compress-nightly", server), 60)
    words = ["deployment", "run", "compress/compress", "--param", "workers=1"]
    assert command("-m", "prefect", *words, cwd=folder, **server).returncode == 0
    worker = ["worker", "start", "--pool", "local", "--run-once", "--limit", "1"]
    done = command("-m", "prefect", *worker, cwd=tmp_path.parent, **server)
    assert runs_of("compress", server) == ["COMPLETED"], done.stdout + done.stderr
    assert (folder / "all.txt").read_text() == "made"


def runs_of(deployment: str, server: dict[str, str]) -> list[str]:
    """Types of the states of a deployment's runs."""
    import json

    body = {"deployments": {"name": {"any_": [deployment]}}}
    request = urllib.request.Request(
        f"{server['PREFECT_API_URL']}/flow_runs/filter",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return [run["state_type"] for run in json.load(urllib.request.urlopen(request))]


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


RULES = {"score_drop": 0.5, "size_growth": 1.0, "latency_growth": 1.05}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Registers versions of makd-sentiment with figures, in a real MLflow database."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"promote": RULES}))
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("makd-sentiment")

    def register(**figures: float) -> str:
        tags = {name: str(value) for name, value in figures.items()}
        version = client.create_model_version("makd-sentiment", f"file://{tmp_path}", tags=tags).version
        client.set_registered_model_alias("makd-sentiment", "challenger", version)
        return str(version)

    register.client = client
    return register


def champion(registry) -> str | None:
    return registry.client.get_registered_model("makd-sentiment").aliases.get("champion")


@pytest.mark.slow
def test_promotion_by_gates(registry, tmp_path: Path, server: dict[str, str]) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]

    def promote() -> str:
        words = ["-m", "pipelines.promote", "--task", "sentiment"]
        done = command(*words, cwd=tmp_path, MLFLOW_TRACKING_URI=uri, **server)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    first = registry(score=90.0, bytes=1000, latency_ms=10.0)
    assert "there was no champion" in promote() and str(champion(registry)) == first
    registry(score=89.4, bytes=1000, latency_ms=10.0)
    assert "score: 89.4 against 90, limit 89.5: failed" in promote() and str(champion(registry)) == first


def test_every_gate_counts_and_missing_figures_refuse(registry) -> None:
    from pipelines.promote import _decide
    from stages.settings import Promote

    rules, fetch = Promote(**RULES), registry.client.get_model_version
    base = {"score": 90.0, "bytes": 1000, "latency_ms": 10.0}
    old = fetch("makd-sentiment", registry(**base))
    for change, expected in [
        ({"score": 89.5, "latency_ms": 10.5}, True),
        ({"score": 89.4}, False),
        ({"bytes": 1001}, False),
        ({"latency_ms": 10.6}, False),
    ]:
        new = fetch("makd-sentiment", registry(**(base | change)))
        assert _decide(new, old, rules)[0] is expected, change
    bare = fetch("makd-sentiment", registry(score=99.0, bytes=1))
    assert _decide(bare, old, rules) == (
        False,
        [f"version {bare.version} lacks latency_ms; run its export and benchmark"],
    )
    assert _decide(bare, None, rules)[0] is False
    assert _decide(old, old, rules)[0] is True
