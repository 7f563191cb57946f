"""Decompositions against closed forms, ranks against the budget, low-rank models against their teachers."""

import numpy as np
import pytest
import scipy.linalg
import torch

from stages.lowrank.calibrate import calibrate
from stages.lowrank.decompose import Statistics, cholesky, decompose, output_error, shift
from stages.lowrank.modeling import LowRankModel, assemble
from stages.lowrank.ranks import Matrix, allocate
from stages.lowrank.reach import reach
from stages.models.anatomy import Parts
from stages.models.base import load
from stages.models.families import FAMILIES
from stages.settings import BadInput


def tiny(family: str, **changes):
    """A random classifier of a family, two layers, width 16."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    common = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "distilbert":
        common = {"vocab_size": 50, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4}
    if family == "electra":
        common["embedding_size"] = 16
    if family == "deberta-v2":
        common |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    if family != "distilbert":
        common["intermediate_size"] = 32
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **common | changes)
    return AutoModelForSequenceClassification.from_config(config).eval()


def statistics(inputs: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, Statistics]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(500, inputs)) * draw.uniform(0.01, 3, inputs)
    rows = draw.uniform(0.1, 2, outputs)
    return x, Statistics(inputs=torch.tensor(x.T @ x / len(x)), rows=torch.tensor(rows))


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (9, 9)])
@pytest.mark.parametrize("method", ["svd", "fisher", "whitened"])
def test_factors_are_the_optimum_of_their_norm(method, shape):
    """The weighted error equals what scipy's singular values say is the least possible."""
    outputs, inputs = shape
    x, stats = statistics(inputs, outputs)
    w = np.random.default_rng(1).normal(size=shape)
    left = np.diag(np.sqrt(stats.rows.numpy())) if method == "fisher" else np.eye(outputs)
    right = x.T / np.sqrt(len(x)) if method == "whitened" else np.eye(inputs)
    found = decompose(torch.tensor(w), method, stats)
    least = scipy.linalg.svdvals(left @ w @ right)
    for rank in (1, 3, min(shape)):
        a, b = (f.double().numpy() for f in found.factors(rank))
        error = np.linalg.norm(left @ (w - a @ b) @ right)
        assert error == pytest.approx(np.sqrt((least[rank:] ** 2).sum()), rel=1e-4, abs=1e-5)


def test_output_error_is_that_of_real_inputs():
    x, stats = statistics(12, 7)
    w = torch.randn(7, 12, dtype=torch.float64)
    a, b = decompose(w, "whitened", stats).factors(3)
    dense, thin = x @ w.numpy().T, x @ (a.double() @ b.double()).numpy().T
    assert output_error(w, (a, b), stats) == pytest.approx(
        np.linalg.norm(dense - thin) / np.linalg.norm(dense), rel=1e-6
    )


def test_with_a_bias_no_affine_map_of_that_rank_is_better():
    """Against reduced-rank regression with an intercept, solved by NumPy on the inputs themselves."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 10)) * draw.uniform(0.1, 2, 10) + draw.normal(size=10) * 5
    stats = Statistics(inputs=torch.tensor(x.T @ x / len(x)), mean=torch.tensor(x.mean(0)))
    w, bias = draw.normal(size=(6, 10)), draw.normal(size=6)
    y = x @ w.T + bias
    centered = y - y.mean(0)
    _, _, directions = np.linalg.svd(centered, full_matrices=False)
    least = np.linalg.norm(centered - centered @ directions[:2].T @ directions[:2])

    a, b = (f.double() for f in decompose(torch.tensor(w), "whitened", stats).factors(2))
    moved = bias + shift(torch.tensor(w), (a, b), stats).numpy()
    assert np.linalg.norm(y - (x @ (a @ b).numpy().T + moved)) == pytest.approx(least, rel=1e-5)
    assert output_error(torch.tensor(w), (a, b), stats) == pytest.approx(least / np.linalg.norm(centered), rel=1e-5)


def test_cholesky_adds_a_ridge_only_where_it_must():
    _, stats = statistics(12, 7)
    assert torch.equal(cholesky(stats.inputs), torch.linalg.cholesky(stats.inputs))
    singular = torch.zeros(4, 4, dtype=torch.float64)
    singular[0, 0] = 2.0
    factor = cholesky(singular)
    assert torch.allclose(factor @ factor.T, singular, atol=1e-6)


@pytest.mark.parametrize("rule", ["ratio", "uniform", "global", "speed"])
@pytest.mark.parametrize("budget", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("block", [1, 8])
def test_budget_is_met_within_one_percent_from_below(rule, budget, block):
    draw = np.random.default_rng(0)
    shapes = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
    matrices = []
    for i, (outputs, inputs) in enumerate(shapes * 6):
        energy = np.sort(draw.exponential(size=384) * np.exp(-np.arange(384) / draw.uniform(20, 200)))[::-1]
        reach = 1 / 16 if i > 30 else 1.0
        matrices.append(
            Matrix(name=str(i), outputs=outputs, inputs=inputs, energy=list(energy / energy.sum()), reach=reach)
        )
    whole = int(budget * sum(m.dense for m in matrices))
    ranks = allocate(matrices, whole, rule, block)
    spent = sum(m.size(ranks[m.name]) for m in matrices)
    assert 0.99 * whole <= spent <= whole
    assert all(r is None or m.size(r) < m.dense for m, r in zip(matrices, ranks.values(), strict=True))
    if rule == "uniform":
        thin = [r for r in ranks.values() if r]
        assert max(thin) - min(thin) <= block or None in ranks.values()


def test_global_is_the_greedy_choice():
    """Against an exhaustive search over all ranks of two small matrices of equal shape."""
    energies = [[0.5, 0.3, 0.15, 0.05], [0.9, 0.08, 0.015, 0.005]]
    matrices = [Matrix(name=str(i), outputs=4, inputs=100, energy=e) for i, e in enumerate(energies)]
    budget = 4 * 104
    ranks = allocate(matrices, budget, "global", 1)
    best = max(
        ((i, j) for i in range(1, 4) for j in range(1, 4) if (i + j) * 104 <= budget),
        key=lambda r: sum(energies[0][: r[0]]) + sum(energies[1][: r[1]]),
    )
    assert tuple(ranks.values()) == best


def test_speed_stores_as_much_and_multiplies_less():
    draw = np.random.default_rng(0)
    energies = [np.sort(draw.exponential(size=64))[::-1] for _ in range(8)]
    matrices = [
        Matrix(name=str(i), outputs=64, inputs=64, energy=list(energy / energy.sum()), reach=1 / 16 if i > 5 else 1.0)
        for i, energy in enumerate(energies)
    ]

    def work(rule: str) -> float:
        ranks = allocate(matrices, 4 * 64 * 64, rule, 1)
        return sum(m.size(ranks[m.name]) * m.reach for m in matrices)

    assert work("speed") < 0.9 * work("global")


def test_reach_is_where_a_change_is_felt():
    """Against what happens to the logits when one token's output of a matrix is changed."""
    model = tiny("bert").double().eval()
    names = Parts(model).matrix_names()
    ids = torch.randint(5, 50, (1, 8))

    def felt(name: str, token: int) -> bool:
        def changed(module, args, out):
            out = out.clone()
            out[:, token] += torch.linspace(1, 2, out.shape[-1])
            return out

        handle = model.get_submodule(name).register_forward_hook(changed)
        try:
            return not torch.equal(model(input_ids=ids).logits, before)
        finally:
            handle.remove()

    with torch.no_grad():
        before = model(input_ids=ids).logits
        expected = {name: {True: 1.0, False: 1 / 16}[felt(name, 5)] for name in names}
        assert all(felt(name, 0) for name in names)
    assert reach(model, names) == expected
    assert list(expected.values()).count(1 / 16) == 4 and all(p.grad is None for p in model.parameters())


def test_a_language_model_reads_every_token():
    """But for the first one's query, which has only itself to look at."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    for name, share in reach(model, Parts(model).matrix_names()).items():
        assert share >= 15 / 16 if name.endswith("q_proj") else share == 1.0


def test_budget_too_small_or_blocks_too_coarse_are_refused():
    matrix = Matrix(name="m", outputs=64, inputs=64, energy=[1 / 64] * 64)
    with pytest.raises(BadInput, match=r"factorize.budget leaves 100 .* factorize.multiple_of"):
        allocate([matrix], 100, "global", 8)
    with pytest.raises(BadInput, match=r"factorize.multiple_of 8 is too coarse"):
        allocate([matrix], 8 * 128 + 900, "global", 8)


def test_statistics_equal_a_loop_over_single_examples():
    """Second moments and Fisher rows of a padded batch against one backward pass per unpadded example."""
    model = tiny("bert", hidden_dropout_prob=0.0)
    name = Parts(model).matrix_names()[4]
    ids, mask = torch.randint(5, 50, (3, 6)), torch.ones(3, 6, dtype=torch.long)
    mask[1, 4:], mask[2, 2:] = 0, 0
    labels = torch.tensor([0, 1, 1])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    found = calibrate(model, [name], [batch], fisher=True)[name]

    weight, moments, sums, fisher = model.get_submodule(name).weight, 0, 0, 0
    for row, keep, label in zip(ids, mask.bool(), labels, strict=True):
        seen = []
        handle = model.get_submodule(name).register_forward_hook(lambda m, i, o, seen=seen: seen.append(i[0][0]))
        model.zero_grad()
        model(input_ids=row[keep][None], labels=label[None]).loss.backward()
        handle.remove()
        moments = moments + seen[0].double().T @ seen[0].double()
        sums = sums + seen[0].double().sum(0)
        fisher = fisher + weight.grad.double().square().sum(1)
    assert torch.allclose(found.inputs, moments / mask.sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.mean, sums / mask.sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.rows, fisher / 3, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("family", sorted(name for name, row in FAMILIES.items() if not row.causal))
def test_full_rank_reproduces_the_teacher(family, tmp_path):
    """… and survives the round trip through a folder."""
    teacher = tiny(family)
    parts = Parts(teacher)
    assert len(parts.matrix_names()) == 12
    moment = {name: torch.eye(teacher.get_submodule(name).in_features) for name in parts.matrix_names()}
    factors = {
        name: decompose(teacher.get_submodule(name).weight, "whitened", Statistics(inputs=m.double())).factors(99)
        for name, m in moment.items()
    }
    student = assemble(teacher, factors)
    inputs = {"input_ids": torch.randint(5, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    inputs["attention_mask"][1, 4:] = 0
    assert torch.allclose(student(**inputs).logits, teacher(**inputs).logits, atol=1e-5)
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, LowRankModel)
    assert torch.equal(again(**inputs).logits, student(**inputs).logits)
    assert Parts(again).layer_parameters() == Parts(student).layer_parameters()


def test_embedding_factors_reproduce_the_lookup():
    teacher = tiny("bert")
    words = Parts(teacher).words.weight
    words.data = torch.randn(50, 12) @ torch.randn(12, 16)  # exactly of rank 12
    factors = decompose(words, "svd", Statistics(inputs=torch.eye(16).double())).factors(12)
    student = assemble(teacher, {Parts(teacher).words_at: factors})
    ids = torch.randint(5, 50, (2, 7))
    assert torch.allclose(student(ids).logits, teacher(ids).logits, atol=1e-5)


def test_an_unknown_family_says_how_to_add_a_row():
    with pytest.raises(BadInput, match=r"`albert`.*FAMILIES.*families.py"):
        Parts(tiny("albert", embedding_size=16))


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    teacher = tiny("bert")
    name = Parts(teacher).matrix_names()[0]
    factors = decompose(teacher.get_submodule(name).weight, "svd", Statistics(inputs=torch.eye(16).double())).factors(4)
    student = assemble(teacher, {name: factors})
    student.config.ranks = {}
    student.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="does not hold the model"):
        load(tmp_path)


def test_a_stranger_loads_it_with_the_code_beside_the_weights(tmp_path):
    """In a process that cannot see this project: with its code trusted it loads right; without, it is refused."""
    import subprocess
    import sys

    teacher = tiny("bert")
    name = Parts(teacher).matrix_names()[0]
    factors = decompose(teacher.get_submodule(name).weight, "svd", Statistics(inputs=torch.eye(16).double())).factors(4)
    student = assemble(teacher, {name: factors})
    student.save_pretrained(tmp_path / "model")
    expected = student(torch.arange(5, 12)[None]).logits[0, 0].item()
    program = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as M\n"
        "try: M.from_pretrained('model', trust_remote_code=False); sys.exit('trusted')\n"
        "except ValueError as error: assert 'trust_remote_code=True' in str(error), error\n"
        "m = M.from_pretrained('model', trust_remote_code=True); assert 'stages' not in sys.modules\n"
        "print('%.9f' % m(torch.arange(5, 12)[None]).logits[0, 0].item())"
    )
    command = [sys.executable, "-I", "-c", program]
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(expected, abs=1e-6)
