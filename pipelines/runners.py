"""What runs the stages of a flow: threads beside it, or the workers of a Dask cluster."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

if TYPE_CHECKING:
    from prefect_dask import DaskTaskRunner

Kind = Literal["threads", "dask"]


@contextmanager
def task_runner(kind: Kind, workers: int | None, address: str | None) -> Iterator[tuple[TaskRunner, int]]:
    """A started task runner and how many stages it may have at work.

    Args:
        kind: `dask` without an address starts as many local processes as workers.
        workers: none: half the cores; with an address, the cluster's threads.
        address: of a Dask scheduler, whose workers see this folder under the same path.

    Raises:
        ValueError: an address without Dask, or nobody answers there; fewer than one worker.
        RuntimeError: the extra is not installed.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers}: must be 1 or more")
    if address and kind != "dask":
        raise ValueError(f"--address {address}: only `--runner dask` has one, not {kind}")
    if kind == "dask":
        with _dask(workers or half_the_cores(), address) as runner:
            threads = sum(runner.client.nthreads().values())
            yield runner, min(workers or threads, threads or 1)
    else:
        with ThreadPoolTaskRunner(max_workers=workers or half_the_cores()) as runner:
            yield runner, workers or half_the_cores()


def half_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


@contextmanager
def _dask(workers: int, address: str | None) -> "Iterator[DaskTaskRunner]":
    if find_spec("prefect_dask") is None:
        raise RuntimeError("--runner dask: prefect-dask is not installed; pip install 'makd[dask]'")
    from prefect_dask import DaskTaskRunner

    # the stages are processes of their own: a worker's memory says nothing about them
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    runner = DaskTaskRunner(address=address) if address else DaskTaskRunner(cluster_kwargs=local)
    with ExitStack() as stack:
        # without a server, the flow has started one of its own; the workers are to find that one
        client = stack.enter_context(get_client(sync_client=True))
        stack.enter_context(temporary_settings({PREFECT_API_URL: str(client.api_url)}))
        stack.enter_context(runner)
        try:
            _ = runner.client  # connects
        except OSError as error:
            raise ValueError(f"--address {address}: no Dask scheduler answers there ({error})") from None
        yield runner
