"""Flow `study`: the baselines of every task side by side, then the comparison.

    python -m pipelines.study [--recipes svd lowrank_kd] [--only-task sst2] [--workers 4] [--time]

The stages are those of `baseline` in dvc.yaml; what they need (data, teachers) is made first. One that fails stops
no other: the comparison takes what there is, and the flow ends failed and names it. MaKD's own student and the
teacher's score come from the main chain, `python -m pipelines.compress --stages evaluate`. With `--time` the baselines
are timed, one at a time, once all are made; that makes the main chain first, whose exported teacher they run against.

On more than one machine, where all see the checkout under the same path, with the same environment installed:

    pip install 'makd[dask]'
    dvc config core.hardlink_lock true     # on NFS
    export PREFECT_API_URL=http://host:4200/api MLFLOW_TRACKING_URI=http://host:5000
    dask scheduler                         # on one; dask worker tcp://host:8786 --nthreads 1 on each
    python -m pipelines.study --runner dask --address tcp://host:8786

Each worker runs `dvc repro --single-item` in the checkout, in its own environment (variables such as
OMP_NUM_THREADS, CUDA_VISIBLE_DEVICES and MLFLOW_TRACKING_URI are the worker's). `--runner dask` without an address
starts the workers on this machine. Deployed, it is `prefect deployment run study/study --param runner=dask`; see
`python -m pipelines.compress --help` for the server and for GPUs.
"""

from prefect import flow

from pipelines.command import TIMEOUT, make_parser, run_flow
from pipelines.dvc_graph import make_folders, read_graph
from pipelines.runners import RunnerKind
from pipelines.stage_runs import bring_up_to_date, raise_for_failures, report_results

TIMED = ["benchmark", "time_baselines"]
"""Stages that nothing else may disturb."""


@flow
def study(
    recipes: list[str] | None = None,
    only_task: str | None = None,
    time: bool = False,
    workers: int | None = None,
    runner: RunnerKind = "threads",
    address: str | None = None,
    timeout: float = TIMEOUT,
) -> None:
    """Makes and compares the baselines.

    Args:
        recipes: of `baseline.recipes` in params.yaml, only these.
        only_task: leave the baselines of other tasks out.
        time: time them, too, on this machine.
        workers: stages at work at the same time; none: half the cores, or all of a cluster's workers.
        runner: `threads` of this process, or `dask`.
        address: of a Dask scheduler; none: workers on this machine.
        timeout: seconds after which a stage is stopped, with all its processes.
    """
    needs = read_graph(["baseline", *(TIMED if time else [])], only_task, recipes)
    timed = {stage: needs.pop(stage) for stage in list(needs) if stage.split("@")[0] in TIMED}
    states = bring_up_to_date(needs, workers=workers, runner=runner, address=address, timeout=timeout)
    ready = [stage for stage, made in timed.items() if all(states[name].is_completed() for name in made)]
    if ready:
        states |= bring_up_to_date({stage: [] for stage in ready}, workers=1, timeout=timeout)
    make_folders("compare")
    states |= bring_up_to_date({"compare": []}, workers=1, timeout=timeout)
    report_results()
    raise_for_failures(states)


def main() -> None:
    options = make_parser("study", __doc__)
    options.add_argument("--recipes", nargs="+", help="of `baseline.recipes` in params.yaml, only these")
    options.add_argument("--time", action="store_true", help="time the baselines, too, on this machine")
    options.add_argument("--workers", type=int, help="stages at work at the same time (half the cores)")
    run_flow(study, options)


if __name__ == "__main__":
    main()
