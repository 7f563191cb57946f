"""DVC stages as Prefect task runs: one after what it needs, several side by side, and a report of what came out."""

import csv
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed
from prefect.task_runners import TaskRunner

from pipelines.runners import RunnerKind, start_task_runner
from pipelines.stage_process import StageFailed, run_dvc_stage, stop_stages
from stages.tracking.pipeline_run import find_pipeline_run

ON_GPU = {"finetune", "factorize", "distill", "baseline", "evaluate", "pretrain", "prune"}
"""Stages that compute in PyTorch, on a GPU where there is one."""
TABLE = Path("outputs/compare/table.csv")


def _is_retriable(task: object, task_run: object, state: State) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.retriable


@task(retries=3, retry_delay_seconds=[10, 30, 60], retry_condition_fn=_is_retriable, cache_policy=NO_CACHE)
def run_stage(stage: str, folder: str, force: bool, timeout: float, pipeline: str, threads: str | None) -> State:
    """One DVC stage, in the checkout `folder` of the machine it runs on; its output goes to the task run's log."""
    logger = get_run_logger()
    gpu = shutil.which("nvidia-smi") is not None and stage.split("@")[0] in ON_GPU
    with concurrency("gpu") if gpu else nullcontext():
        ran = run_dvc_stage(
            stage, folder=folder, force=force, timeout=timeout, pipeline=pipeline, threads=threads, log=logger.info
        )
    return Completed(message="done") if ran else Completed(name="Cached", message="unchanged, nothing to do")


def bring_up_to_date(
    needs: dict[str, list[str]],
    *,
    timeout: float,
    workers: int | None = None,
    runner: RunnerKind = "threads",
    address: str | None = None,
    force: bool = False,
) -> dict[str, State]:
    """Runs the stages of a graph as runners.py describes; returns how each ended.

    Unless OMP_NUM_THREADS is set, the stages share the cores of this machine; on a cluster of your own, its workers'
    environment decides.
    """
    _create_gpu_limit()
    pipeline = get_pipeline_name()
    with start_task_runner(runner, workers, address) as (tasks, places):
        share = None if address else str(max(1, (os.cpu_count() or 1) // places))
        parameters = {"folder": os.getcwd(), "force": force, "timeout": timeout, "pipeline": pipeline}
        parameters["threads"] = os.environ.get("OMP_NUM_THREADS") or share
        try:
            futures = submit_in_order(needs, places, partial(_submit_stage, tasks, parameters))
        except BaseException:
            _stop_all(tasks, pipeline)
            raise
        return {stage: _get_state(future) for stage, future in futures.items()}


def submit_in_order(
    needs: dict[str, list[str]], places: int, submit: Callable[[str, list[PrefectFuture]], PrefectFuture]
) -> dict[str, PrefectFuture]:
    """Submits each stage once all that it needs has ended, well or not, with at most `places` at work."""
    graph: TopologicalSorter[str] = TopologicalSorter(needs)
    graph.prepare()
    futures: dict[str, PrefectFuture] = {}
    ready, working = [], {}
    while graph.is_active():
        ready += graph.get_ready()
        while ready and len(working) < places:
            stage = ready.pop(0)
            futures[stage] = submit(stage, [futures[name] for name in needs[stage]])
            working[futures[stage]] = stage
        graph.done(working.pop(next(as_completed(list(working)))))
    return futures


def get_pipeline_name() -> str:
    """The name under which MLflow groups the stages of this flow run."""
    return f"{flow_run.name} {str(flow_run.id)[:8]}"


def report_results() -> None:
    """The comparison as a table, and where MLflow has the runs."""
    if TABLE.is_file():
        with TABLE.open(newline="", encoding="utf8") as file:
            create_table_artifact(list(csv.DictReader(file)), key="results", description="Scores and sizes")
    create_markdown_artifact(_link_mlflow_run(get_pipeline_name()), key="mlflow", description="Tracked runs")


def raise_for_failures(states: dict[str, State]) -> None:
    """Raises RuntimeError that names the stages which did not complete, if there are any."""
    if bad := {stage: state for stage, state in states.items() if not state.is_completed()}:
        raise RuntimeError("; ".join(f"{stage}: {state.name}" for stage, state in bad.items()))


def _submit_stage(tasks: TaskRunner, parameters: dict, stage: str, needed: list[PrefectFuture]) -> PrefectFuture:
    named = run_stage.with_options(task_run_name=stage)
    return tasks.submit(named, parameters={"stage": stage, **parameters}, wait_for=needed)


def _get_state(future: PrefectFuture) -> State:
    future.wait()
    if future.state.is_final() or future.state.name == "NotReady":
        return future.state
    return Crashed(message="lost, with the worker that ran it")


def _stop_all(tasks: TaskRunner, pipeline: str) -> None:
    stop_stages(pipeline)
    if client := getattr(tasks, "client", None):  # Dask's
        with suppress(OSError):  # workers of this machine may be gone already, and their stages with them
            client.run(stop_stages, pipeline)


def _create_gpu_limit() -> None:
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name("gpu")
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="gpu", limit=1))


def _link_mlflow_run(pipeline: str) -> str:
    try:
        server, experiment, run = find_pipeline_run(pipeline)
    except Exception as error:  # MLflow being away is no reason to fail
        return f"MLflow run **{pipeline}** (not there just now: {error})"
    server = server if server.startswith("http") else "http://127.0.0.1:5000"
    return f"MLflow run [{pipeline}]({server}/#/experiments/{experiment}/runs/{run}) (local: `make ui` first)"
