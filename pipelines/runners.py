"""What runs the stages of a flow: threads beside it, or the workers of a Dask cluster."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

if TYPE_CHECKING:
    from prefect_dask import DaskTaskRunner

RunnerKind = Literal["threads", "dask"]


@contextmanager
def start_task_runner(kind: RunnerKind, workers: int | None, address: str | None) -> Iterator[tuple[TaskRunner, int]]:
    """A started task runner and how many stages it may have at work.

    Args:
        kind: `dask` without an address starts as many local processes as workers.
        workers: none: half the cores; with an address, the cluster's threads.
        address: of a Dask scheduler, whose workers see this folder under the same path.

    Raises:
        ValueError: an address without Dask, or without workers there that can run the stages; fewer than one worker.
        RuntimeError: the extra is not installed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: must be 1 or more")
    if address and kind != "dask":
        raise ValueError(f"--address {address}: only `--runner dask` has one, not {kind}")
    if kind == "dask":
        with _start_dask(workers or count_half_the_cores(), address) as runner:
            threads = sum(runner.client.nthreads().values())
            yield runner, min(workers or threads, threads or 1)
    else:
        with ThreadPoolTaskRunner(max_workers=workers or count_half_the_cores()) as runner:
            yield runner, workers or count_half_the_cores()


def count_half_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


@contextmanager
def _start_dask(workers: int, address: str | None) -> "Iterator[DaskTaskRunner]":
    if find_spec("prefect_dask") is None:
        raise RuntimeError("--runner dask: prefect-dask is not installed; pip install 'makd[dask]'")
    import dask.config
    from prefect_dask import DaskTaskRunner

    if address and not PREFECT_API_URL.value():
        raise ValueError(
            "--address: a cluster needs a Prefect server; start one and set PREFECT_API_URL here and there"
        )
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with ExitStack() as stack:
        # without a server, the flow has started one of its own; the workers are to find that one
        server = str(stack.enter_context(get_client(sync_client=True)).api_url)
        stack.enter_context(temporary_settings({PREFECT_API_URL: server}))
        environment = {"PREFECT_API_URL": server, "DASK_LOGGING__DISTRIBUTED": "warning"}
        stack.enter_context(
            dask.config.set({f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in environment.items()})
        )
        runner = (
            DaskTaskRunner(address=address)
            if address
            else DaskTaskRunner(cluster_kwargs=_describe_local_cluster(workers))
        )
        stack.enter_context(runner)
        _check_workers(runner, f"--address {address}" if address else "--runner dask")
        yield runner


def _describe_local_cluster(workers: int) -> dict[str, Any]:
    """Processes on this machine; their memory says nothing about the stages, which are processes of their own."""
    place = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    return {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0, **place}


def _check_workers(runner: "DaskTaskRunner", asked: str) -> None:
    try:
        complaints = runner.client.run(find_worker_problem, os.getcwd())
    except OSError as error:
        raise ValueError(f"{asked}: no Dask scheduler answers there ({error})") from None
    except ImportError as error:
        raise ValueError(f"{asked}: its workers need this environment ({error})") from None
    if not complaints:
        raise ValueError(f"{asked}: this scheduler has no workers")
    if bad := [f"worker {name} {problem}" for name, problem in complaints.items() if problem]:
        raise ValueError(f"{asked}: {'; '.join(bad)}")


def find_worker_problem(folder: str) -> str | None:
    """What keeps the process that calls this from running the stages of a checkout."""
    if not Path(folder, "dvc.yaml").is_file():
        return f"does not see {folder}"
    return None if PREFECT_API_URL.value() else "was started without PREFECT_API_URL"
