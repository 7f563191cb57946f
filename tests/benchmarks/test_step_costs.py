"""`python -m benchmarks.step`, `prune_step` and `ranking`: what is timed, and the figures that are taken of it."""

import argparse
from unittest.mock import patch

import pytest
import torch

from benchmarks import prune_step, ranking, step
from benchmarks.rounds import Timings, measure_memory

TINY = ["--hidden", "64", "--layers", "2", "--rounds", "1", "--threads", "1"]
BATCH = ["--batch", "2", "--length", "8"]


def test_ratios_are_taken_within_a_round() -> None:
    seconds = [{"floor": 1.0, "case": 2.0}, {"floor": 2.0, "case": 2.0}, {"floor": 4.0, "case": 12.0}]
    timings = Timings(seconds=seconds, memory={"floor": 100, "case": 150})
    assert timings.ratio_quartiles("case", "floor") == (1.0, 2.0, 3.0)
    assert timings.median_ms("case") == 2000 and timings.memory_ratio("case", "floor") == 1.5


def test_a_single_round_has_one_ratio() -> None:
    timings = Timings(seconds=[{"floor": 1.0, "case": 2.0}], memory={})
    assert timings.ratio_quartiles("case", "floor") == (2.0, 2.0, 2.0)


def test_memory_is_what_the_forward_pass_saves() -> None:
    x = torch.ones(10, requires_grad=True)
    size = measure_memory(lambda: (x * x).sum().backward(), torch.device("cpu"))
    assert size == 10 * x.element_size()


@pytest.mark.parametrize("each", [False, True])
def test_every_objective_is_timed_over_the_floor(each: bool, capsys: pytest.CaptureFixture[str]) -> None:
    step.main([*TINY, *BATCH, "--rank", "8", *["--each"] * each])
    head, _, floor, *rows = capsys.readouterr().out.strip().splitlines()
    assert head == "cpu, float32, 2 x 64, batch (2, 8), 1 threads, 1 rounds"
    assert floor.split()[0] == "floor" and floor.split()[2:] == ["1.000", "1.000-1.000", "1.000"]
    assert [row[:28].strip() for row in rows] == list(step.EACH if each else step.LEVELS)
    assert all(float(row.split()[-1]) >= 1 for row in rows)


def test_lengths_are_grouped_or_padded(capsys: pytest.CaptureFixture[str]) -> None:
    step.main(["--padding", "--hidden", "16", "--layers", "1", "--rank", "2", "--batch", "1", "--threads", "1"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line[:22].strip() for line in lines] == ["padded to --length", "padded to the batch", "grouped by length"]
    assert lines[0].endswith("1.00x")


def test_a_pruning_step_and_a_cut_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    prune_step.main([*TINY, *BATCH, "--heads", "4"])
    head, *rows, cut = capsys.readouterr().out.strip().splitlines()
    assert head == "cpu, float32, 2 x 64, batch (2, 8), 1 threads, 1 rounds"
    assert [row[:22].strip() for row in rows] == ["floor", "all terms", "and scores and masks"]
    assert cut.startswith("a cut ") and "every 10 steps" in cut


def test_the_floor_of_a_pruning_step_has_plain_norms() -> None:
    options = prune_step.parse_options([*TINY, *BATCH, "--heads", "4"])
    steps = prune_step.PruningSteps(options, torch.device("cpu"))
    norms = [norm for norm, _ in steps.masks.norms]
    widths = [norm.remains.sum() for norm in norms if norm.remains is not None]
    assert widths == [48] * len(norms)
    with steps.run_floor():
        assert all(norm.remains is None for norm in norms)
    assert [norm.remains.sum() for norm in norms if norm.remains is not None] == widths


def test_ranking_is_timed_over_kl(capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(ranking.RowByRowIsotonic, "apply", wraps=ranking.RowByRowIsotonic.apply) as baseline:
        ranking.main([*TINY, "--vocabularies", "50", "60", "--tokens", "64", "--k", "3"])
    assert baseline.called
    _, _, *rows = capsys.readouterr().out.strip().splitlines()
    names = list(ranking.make_losses(3))
    assert [(row[:10].strip(), row[12:38].strip()) for row in rows] == [(v, n) for v in ("50", "60") for n in names]
    assert rows[0].split()[3:6] == ["1.000x", rows[0].split()[4], "+0.00"]


def test_the_row_by_row_baseline_computes_the_same_loss() -> None:
    torch.manual_seed(0)
    teacher, losses = 3 * torch.randn(8, 50), ranking.make_losses(3)
    student = (teacher + torch.randn_like(teacher)).requires_grad_()
    gradients = []
    for name in ("kl + ranking", "kl + ranking, row by row"):
        with losses[name].patch():
            gradients.append(torch.autograd.grad(losses[name].compute(student, teacher), student)[0])
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_low_rank_student_is_compared() -> None:
    options = argparse.Namespace(hidden=64, layers=1, rank=8)
    teacher, student = step.make_models(options, torch.device("cpu"))
    assert student.num_parameters() < teacher.num_parameters()
