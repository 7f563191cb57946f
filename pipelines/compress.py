"""Flow `compress`: every stage of dvc.yaml as a task run, side by side where the graph allows.

    python -m pipelines.compress [--stages distill] [--only-task sst2] [--force] [--workers 2]

On a schedule, each command in its own terminal, all from the checkout:

    export PREFECT_HOME=$PWD/.makd/prefect PREFECT_API_URL=http://127.0.0.1:4200/api
    prefect server start
    prefect work-pool create local --type process && prefect --no-prompt deploy --all
    prefect worker start --pool local
    prefect deployment run compress/compress --param only_task=sst2

A stage that DVC finds unchanged ends as `Cached`. What another try may mend (the network, a kill from outside, a file
that another DVC process holds) is tried again. With a GPU, stages that compute on it take a slot of the limit `gpu`
(one slot; `prefect gcl update gpu --limit 2` for more).
"""

from prefect import flow

from pipelines.command import TIMEOUT, make_parser, run_flow
from pipelines.dvc_graph import read_graph
from pipelines.runners import RunnerKind
from pipelines.stage_runs import bring_up_to_date, raise_for_failures, report_results


@flow
def compress(
    stages: list[str] | None = None,
    only_task: str | None = None,
    force: bool = False,
    workers: int = 2,
    runner: RunnerKind = "threads",
    address: str | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Brings the outputs up to date.

    Args:
        stages: stages of dvc.yaml to bring up to date, with all they need; none: all.
        only_task: leave the stages of other tasks out.
        force: run the stages even if nothing changed.
        workers: stages at work at the same time.
        runner: `threads`, or `dask` for processes on a cluster; see study.py.
        address: of a Dask scheduler.
        timeout: seconds after which a stage is stopped, with all its processes.
    """
    needs = read_graph(stages, only_task)
    states = bring_up_to_date(needs, workers=workers, runner=runner, address=address, force=force, timeout=timeout)
    if any(state.name == "Completed" for state in states.values()):
        report_results()
    raise_for_failures(states)


def main() -> None:
    options = make_parser("compress", __doc__)
    options.add_argument("--stages", nargs="+", help="stages to bring up to date, with all they need")
    options.add_argument("--force", action="store_true", help="run even what did not change")
    options.add_argument("--workers", type=int, default=2, help="stages at work at the same time")
    run_flow(compress, options)


if __name__ == "__main__":
    main()
