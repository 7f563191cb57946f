"""The flow `study` against Prefect's real server: baselines side by side, timed one at a time, then compared."""

from pathlib import Path

import pytest

from tests.makers.dvc_projects import make_project, run_python

STAGES = """
stages:
  finetune:
    matrix: {task: [a, b]}
    cmd: python -c "open('${item.task}.txt', 'w').write('teacher')"
    outs: ["${item.task}.txt"]
  baseline:
    matrix: {task: [a, b], recipe: [kd, svd]}
    cmd: python baseline.py ${item.task} ${item.recipe}
    deps: ["${item.task}.txt"]
    outs: ["outputs/baseline/${item.task}/${item.recipe}.txt"]
  time_baselines:
    matrix: {task: [a, b], recipe: [kd, svd]}
    cmd: python time_baselines.py ${item.task} ${item.recipe}
    deps: ["outputs/baseline/${item.task}/${item.recipe}.txt"]
    outs: ["outputs/time_baselines/${item.task}/${item.recipe}.csv"]
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

BASELINE = """
import os, sys, time
from pathlib import Path
import psutil

task, recipe = sys.argv[1:]
above = psutil.Process().parents()
dvc = next(i for i, process in enumerate(above) if '--single-item' in process.cmdline())
Path('started').mkdir(exist_ok=True)
Path('started', task + recipe).write_text(str(above[dvc + 1].pid))
deadline = time.monotonic() + 240
while len(os.listdir('started')) < int(os.environ['SIDE_BY_SIDE']):
    assert time.monotonic() < deadline, 'the others were not started beside this one'
    time.sleep(0.1)
assert task + recipe != 'bkd', 'weights went to infinity'
out = Path('outputs', 'baseline', task, recipe + '.txt')
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text('made')
"""

TIME_BASELINES = """
import os, sys, time
from pathlib import Path

task, recipe = sys.argv[1:]
with open('timing', 'x'):
    time.sleep(1)
os.remove('timing')
out = Path('outputs', 'time_baselines', task, recipe + '.csv')
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text('timed')
"""


def make_baselines(folder: Path) -> Path:
    """Two tasks, two recipes, of which one fails on one task; timings that cannot run at the same time."""
    (make_project(folder, STAGES) / "baseline.py").write_text(BASELINE)
    (folder / "time_baselines.py").write_text(TIME_BASELINES)
    return folder


def test_a_failing_baseline_stops_no_other_and_the_comparison_takes_the_rest(
    tmp_path: Path, server: dict[str, str]
) -> None:
    folder = make_baselines(tmp_path)
    first = run_python("-m", "pipelines.study", "--workers", 4, cwd=folder, SIDE_BY_SIDE="4", **server)
    output = first.stdout + first.stderr
    assert first.returncode == 1 and "weights went to infinity" in output and "Retry" not in output, output
    assert first.stderr.splitlines()[-1] == "study: baseline@b-kd: Failed"
    assert (folder / "all.txt").read_text() == "akd asvd bsvd" and "must not be seen" not in output
    assert not (folder / "outputs/time_baselines").exists()


def test_with_time_the_baselines_that_were_made_are_timed_one_at_a_time(tmp_path: Path, server: dict[str, str]) -> None:
    folder = make_baselines(tmp_path)
    done = run_python("-m", "pipelines.study", "--time", "--workers", 4, cwd=folder, SIDE_BY_SIDE="4", **server)
    assert done.stderr.splitlines()[-1] == "study: baseline@b-kd: Failed", done.stdout + done.stderr
    timings = folder / "outputs/time_baselines"
    timed = {path.relative_to(timings).as_posix() for path in timings.rglob("*.csv")}
    assert timed == {"a/kd.csv", "a/svd.csv", "b/svd.csv"} and (folder / "main.csv").exists()


def test_a_cluster_runs_the_baselines_in_the_flows_folder(
    tmp_path: Path, server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    folder = make_baselines(tmp_path)
    for name, value in (server | {"SIDE_BY_SIDE": "2"}).items():
        monkeypatch.setenv(name, value)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        words = ["--recipes", "svd", "--runner", "dask", "--address", cluster.scheduler_address]
        workers = {worker.pid for worker in cluster.workers.values()}
        done = run_python("-m", "pipelines.study", *words, cwd=folder)
    assert done.returncode == 0 and (folder / "all.txt").read_text() == "asvd bsvd", done.stdout + done.stderr
    assert {int(path.read_text()) for path in (folder / "started").iterdir()} == workers
