"""Seeds, accumulated batches and several processes: they must not change where a training ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.makers.chains import distill_with_each_hierarchy, measure_student_drift, run_distill
from tests.makers.dvc_projects import ROOT
from tests.makers.processes import run_in_two_processes
from tests.makers.runs import measure_drift, read_weights


def test_same_seed_same_weights_and_another_seed_others(classifier_chain: Path, tmp_path: Path) -> None:
    for name, seed in {"first": 1, "again": 1, "other": 2}.items():
        run_distill(classifier_chain, tmp_path / name, epochs=1, seed=seed)
    first, again, other = (read_weights(tmp_path / name / "model") for name in ("first", "again", "other"))
    assert measure_drift(first, again) == 0
    assert measure_drift(first, other) > 0


def test_accumulation_gives_the_same_steps(classifier_chain: Path, tmp_path: Path) -> None:
    run_distill(classifier_chain, tmp_path / "whole", batch_size=8, epochs=1)
    run_distill(classifier_chain, tmp_path / "split", batch_size=2, gradient_accumulation=4, epochs=1)
    run_distill(classifier_chain, tmp_path / "other", batch_size=2, epochs=1)
    assert measure_student_drift(tmp_path / "whole", tmp_path / "split") < 1e-4
    assert measure_student_drift(tmp_path / "whole", tmp_path / "other") > 1e-2


@pytest.fixture(scope="module")
def single_process(classifier_chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains with each hierarchy."""
    folder = tmp_path_factory.mktemp("single_process")
    distill_with_each_hierarchy(classifier_chain, folder, batch_size=16)
    return folder


def launch_two_processes(chain: Path, folder: Path) -> None:
    """As a user does it."""
    program = folder.with_name("program.py")
    program.write_text(
        "from pathlib import Path\n"
        "from tests.makers.chains import distill_with_each_hierarchy\n"
        f"distill_with_each_hierarchy(Path({str(chain)!r}), Path({str(folder)!r}), batch_size=8)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def fork_two_processes(chain: Path, folder: Path) -> None:
    run_in_two_processes(lambda: distill_with_each_hierarchy(chain, folder, batch_size=8))


@pytest.mark.parametrize("start", [fork_two_processes, launch_two_processes])
def test_two_processes_are_one_with_twice_the_batch(
    start: Callable[[Path, Path], None], classifier_chain: Path, single_process: Path, tmp_path: Path
) -> None:
    """Also where not every part of the student is trained in every step."""
    start(classifier_chain, tmp_path / "two")
    for hierarchy in ("joint", "progressive"):
        alone, both = single_process / hierarchy, tmp_path / "two" / hierarchy
        assert measure_student_drift(alone, both) < 1e-4, hierarchy
        losses = [pd.read_csv(folder / "history.csv")["loss/hidden"].dropna() for folder in (alone, both)]
        assert losses[0].to_numpy() == pytest.approx(losses[1].to_numpy(), rel=1e-3)  # the mean over both processes
