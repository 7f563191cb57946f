"""Flow `compress`: every stage of dvc.yaml as a task run, side by side where the graph allows.

    python -m pipelines.compress [--stages distill] [--only-task sst2] [--force] [--max-parallel 2]

On a schedule, each command in its own terminal, all from the checkout:

    export PREFECT_HOME=$PWD/.makd/prefect PREFECT_API_URL=http://127.0.0.1:4200/api
    prefect server start
    prefect work-pool create local --type process && prefect --no-prompt deploy --all
    prefect worker start --pool local
    prefect deployment run compress/compress --param only_task=sst2

A stage that DVC finds unchanged ends as `Cached`. What can heal (a locked DVC, the network, a kill
from outside) is tried again. With a GPU, stages that compute on it take a slot of the limit `gpu` (one slot;
`prefect gcl update gpu --limit 2` for more).
"""

import argparse
import csv
import shutil
import signal
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.futures import wait
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from pipelines import dvc_stages

ON_GPU = {"finetune", "factorize", "distill", "baseline", "evaluate"}
"""Stages that compute in PyTorch, on a GPU where there is one."""
TABLE = Path("outputs/compare/table.csv")


def _heals(task: object, task_run: object, state: State) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, dvc_stages.StageFailed) and error.heals


@task(retries=3, retry_delay_seconds=[10, 30, 60], retry_condition_fn=_heals, cache_policy=NO_CACHE)
def run_stage(stage: str, force: bool, timeout: float, pipeline: str, slots: threading.Semaphore) -> State:
    """One DVC stage; its output goes to the task run's log."""
    logger = get_run_logger()
    gpu = shutil.which("nvidia-smi") is not None and stage.split("@")[0] in ON_GPU
    with slots, concurrency("gpu") if gpu else nullcontext():
        ran = dvc_stages.run(stage, force=force, timeout=timeout, pipeline=pipeline, log=logger.info)
    return Completed(message="done") if ran else Completed(name="Cached", message="unchanged, nothing to do")


@flow(task_runner=ThreadPoolTaskRunner(max_workers=1000))  # waiting stages hold a thread, `max_parallel` the work
def compress(
    stages: list[str] | None = None,
    only_task: str | None = None,
    force: bool = False,
    max_parallel: int = 2,
    timeout: float = 6 * 3600,
) -> None:
    """Brings the outputs up to date.

    Args:
        stages: stages of dvc.yaml to bring up to date, with all they need; none: all.
        only_task: leave the stages of other tasks out.
        force: run the stages even if nothing changed.
        max_parallel: stages at work at the same time.
        timeout: seconds after which a stage is stopped, with all its processes.
    """
    _ensure_limit()
    pipeline = f"{flow_run.name} {str(flow_run.id)[:8]}"
    slots, futures = threading.Semaphore(max_parallel), {}
    try:
        for stage, needed in dvc_stages.graph(stages, only_task).items():
            futures[stage] = run_stage.with_options(task_run_name=stage).submit(
                stage, force, timeout, pipeline, slots, wait_for=[futures[name] for name in needed]
            )
        wait(list(futures.values()))
    except BaseException:
        dvc_stages.stop_all()
        raise
    if any(future.state.name == "Completed" for future in futures.values()):
        _report(pipeline)
    if bad := {stage: future.state for stage, future in futures.items() if not future.state.is_completed()}:
        raise RuntimeError("; ".join(f"{stage}: {state.name}" for stage, state in bad.items()))


def _ensure_limit() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name("gpu")
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu", limit=1))


def _report(pipeline: str) -> None:
    """The comparison as a table, and where MLflow has the runs."""
    if TABLE.is_file():
        with TABLE.open(newline="", encoding="utf8") as file:
            create_table_artifact(list(csv.DictReader(file)), key="results", description="Scores and sizes")
    create_markdown_artifact(_mlflow_link(pipeline), key="mlflow", description="Tracked runs")


def _mlflow_link(pipeline: str) -> str:
    from stages.tracking.delivery import find_pipeline

    try:
        server, experiment, run = find_pipeline(pipeline)
    except Exception as error:  # MLflow being away is no reason to fail
        return f"MLflow run **{pipeline}** (not found just now: {error})"
    server = server if server.startswith("http") else "http://127.0.0.1:5000"
    return f"MLflow run [{pipeline}]({server}/#/experiments/{experiment}/runs/{run}) (local: `make ui` first)"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compress",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stages", nargs="+", help="stages to bring up to date, with all they need")
    parser.add_argument("--only-task", help="leave the stages of other tasks out")
    parser.add_argument("--force", action="store_true", help="run even what did not change")
    parser.add_argument("--max-parallel", type=int, default=2, help="stages at work at the same time")
    parser.add_argument("--timeout", type=float, default=6 * 3600, help="seconds that a stage may take")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        compress(**vars(arguments))
    except (RuntimeError, ValueError) as error:
        sys.exit(f"compress: {error}")


if __name__ == "__main__":
    main()
