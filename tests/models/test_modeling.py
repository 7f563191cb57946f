"""The low-rank model as Transformers has it: saved, loaded, generating, classifying, loaded by other projects."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stages.distillation.capture import Capture
from stages.errors import BadInput
from stages.lowrank.assemble import assemble_low_rank
from stages.lowrank.budget import matrix_budget
from stages.lowrank.factorization import factorize_model
from stages.models.anatomy import ModelParts
from stages.models.loading import load_checkpoint
from stages.models.modeling import LowRankForCausalLM, LowRankForSequenceClassification, LowRankModel
from stages.models.size import measure_size
from stages.settings import Factorize
from tests.makers.decoders import (
    FAMILIES,
    factorize_decoder,
    make_causal_batch,
    make_decoder,
    multiply_factors,
    read_token_logits,
)
from tests.makers.encoders import make_encoder
from tests.makers.factors import decompose_matrices


def make_low_rank_encoder() -> LowRankModel:
    """A classifier with one matrix of rank 4."""
    teacher = make_encoder("bert")
    names = ModelParts(teacher).list_matrix_names()[:1]
    return assemble_low_rank(teacher, decompose_matrices(teacher, names, 4, "svd"))


def run_isolated(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program in a process that cannot see this project, in that folder."""
    environment = {"HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_rank_decoder_generates_like_its_multiplied_weights(family: str, tmp_path: Path):
    """Token by token with the cache, prompts of different lengths; the same after a round trip through a folder."""
    student = factorize_decoder(make_decoder(family, layers=3))
    assert isinstance(student, LowRankForCausalLM)
    dense = multiply_factors(student)
    assert torch.allclose(read_token_logits(student), read_token_logits(dense), atol=1e-4)
    prompts = {name: tensor for name, tensor in make_causal_batch("left").items() if name != "labels"}
    tokens = dense.generate(**prompts, max_new_tokens=12, do_sample=False)
    assert torch.equal(student.generate(**prompts, max_new_tokens=12, do_sample=False), tokens)
    assert torch.equal(student.generate(**prompts, max_new_tokens=12, do_sample=False, use_cache=False), tokens)
    with torch.no_grad():
        first = student(prompts["input_ids"][:1, :5], use_cache=True)
        assert first.past_key_values.get_seq_length() == 5
        second = student(prompts["input_ids"][:1, 5:], past_key_values=first.past_key_values, logits_to_keep=1)
        assert torch.allclose(second.logits[:, 0], student(prompts["input_ids"][:1]).logits[:, -1], atol=1e-5)

    student.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is LowRankForCausalLM
    assert torch.equal(loaded.generate(**prompts, max_new_tokens=12, do_sample=False), tokens)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight, "tied"
    size = measure_size(loaded, tmp_path, 9)["parameters"]
    assert loaded.num_parameters() == student.num_parameters() == size


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_low_rank_decoder_may_classify(family: str, tmp_path: Path):
    from transformers import AutoModelForSequenceClassification

    config = make_decoder(family).config
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    settings, batch = Factorize(multiple_of=1, budget=0.6), make_causal_batch() | {"labels": torch.tensor([0, 1, 1])}
    student = factorize_model(settings, model, matrix_budget(settings, model, model), [batch]).model
    student.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert type(loaded) is LowRankForSequenceClassification
    aspects = {("q", 1), ("hidden", 2)}
    expected, captured = (Capture(m, aspects)(m, {**batch, "labels": None}, aspects) for m in (student, loaded))
    assert expected.logits.shape == (3, 2) and torch.equal(expected.logits, captured.logits)
    assert torch.equal(expected["q", 1], captured["q", 1])


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path):
    student = make_low_rank_encoder()
    student.config.ranks = {}
    student.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="does not hold the model"):
        load_checkpoint(tmp_path)


def test_an_encoder_loads_elsewhere_with_its_code_trusted(tmp_path: Path):
    """In a process that cannot see this project: with its code trusted it loads right; without, it is refused."""
    student = make_low_rank_encoder()
    student.save_pretrained(tmp_path / "model")
    expected = student(torch.arange(5, 12)[None]).logits[0, 0].item()
    program = (
        "import sys, torch; from transformers import AutoModelForSequenceClassification as M\n"
        "try: M.from_pretrained('model', trust_remote_code=False); sys.exit('trusted')\n"
        "except ValueError as error: assert 'trust_remote_code=True' in str(error), error\n"
        "m = M.from_pretrained('model', trust_remote_code=True); assert 'stages' not in sys.modules\n"
        "print('%.9f' % m(torch.arange(5, 12)[None]).logits[0, 0].item())"
    )
    result = run_isolated(program, tmp_path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) == pytest.approx(expected, abs=1e-6)


def test_a_decoder_generates_elsewhere_with_its_code_trusted(tmp_path: Path):
    """In a process that cannot see this project."""
    students = {family: factorize_decoder(make_decoder(family, layers=3)) for family in ("llama", "gpt2")}
    for family, student in students.items():
        student.generation_config.max_new_tokens = 7
        student.save_pretrained(tmp_path / family)
    prompt = torch.arange(5, 12)[None]
    program = (
        "import sys, torch; from transformers import AutoModelForCausalLM as M\n"
        f"for family in {list(students)}:\n"
        "    m = M.from_pretrained(family, trust_remote_code=True); assert 'stages' not in sys.modules\n"
        "    print(m.generate(torch.arange(5, 12)[None], do_sample=False).tolist())"
    )
    result = run_isolated(program, tmp_path)
    for student, line in zip(students.values(), result.stdout.splitlines(), strict=True):
        tokens = student.generate(prompt, do_sample=False)
        assert tokens.shape == (1, 14) and line == str(tokens.tolist()), result.stderr
