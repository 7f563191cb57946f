"""Decoder families: low-rank models that generate, tied weights, calibration, depth cuts, attention rebuilt."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from stages.distillation.capture import Capture
from stages.lowrank.budget import room
from stages.lowrank.calibrate import calibrate
from stages.lowrank.decompose import Statistics, decompose
from stages.lowrank.modeling import (
    LowRankForCausalLM,
    LowRankForSequenceClassification,
    LowRankLinear,
    assemble,
    separate,
)
from stages.lowrank.reduce import reduce
from stages.models.anatomy import Parts
from stages.models.base import load
from stages.models.layers import keep_layers
from stages.models.size import sizes
from stages.pruning.cut import cut
from stages.pruning.plan import fit
from stages.settings import BadInput, Factorize

FAMILIES = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]


def tiny(family: str, layers: int = 2, **changes):
    """A random decoder of width 16, four heads; two of keys and values where the family groups its queries."""
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 4}
    common |= {"max_position_embeddings": 64, "initializer_range": 0.3, "tie_word_embeddings": True}
    common |= {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    if family == "gpt2":
        common["n_inner"] = 40
    else:
        common |= {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 4}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common | changes)).eval()
    with torch.no_grad():  # norms and biases that matter
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    return model


def sentences(side: str = "right", words: int = 9) -> dict[str, Tensor]:
    """Three of them, the second and third padded on that side; labels as causal batches have them."""
    torch.manual_seed(1)
    mask = torch.ones(3, words, dtype=torch.long)
    mask[1, 6:], mask[2, 4:] = 0, 0
    mask = mask.flip(1) if side == "left" else mask
    ids = torch.randint(5, 50, (3, words)) * mask
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def halved(model, **settings):
    """A model's low-rank copy at half of its layer parameters."""
    settings = Factorize(**{"budget": 0.5, "multiple_of": 1} | settings)
    start = cut(model, fit(settings, model))
    return reduce(settings, start, room(settings, model, start), [sentences()])


def multiplied_out(student):
    """The dense model that a low-rank one stands for, its factors multiplied; GPT-2 with its matrices apart."""
    from transformers import AutoConfig, AutoModelForCausalLM

    dense = separate(AutoModelForCausalLM.from_config(AutoConfig.for_model(**student.config.base_config)))
    weights = {name.removeprefix("base."): value for name, value in student.state_dict().items()}
    for name, module in student.base.named_modules():
        if isinstance(module, LowRankLinear):
            a, b = weights.pop(f"{name}.A.weight"), weights.pop(f"{name}.B.weight")
            weights[f"{name}.weight"] = (a.double() @ b.double()).float()
            if module.A.bias is not None:
                weights[f"{name}.bias"] = weights.pop(f"{name}.A.bias")
    dense.load_state_dict(weights, strict=True)
    return dense.eval()


def logits(model, side: str = "right") -> Tensor:
    """At real tokens."""
    read = {name: tensor for name, tensor in sentences(side).items() if name != "labels"}
    with torch.no_grad():
        return model(**read).logits[read["attention_mask"].bool()]


@pytest.mark.parametrize("family", FAMILIES)
def test_parts(family):
    parts = Parts(tiny(family))
    gated = family != "gpt2"
    assert (parts.depth, parts.heads, parts.shape.key_heads) == (2, 4, 2 if gated else 4)
    widths = {"q": 16, "k": 8, "v": 8, "gate": 24, "up": 24, "down": 16, "hidden": 16}
    assert parts.shape.widths == (widths if gated else {n: 16 for n in widths if n != "gate"} | {"up": 40})
    assert parts.neurons == (24 if gated else 40) and parts.shape.causal
    assert parts.shape.windows == ({1: 4096, 2: 4096} if family == "mistral" else {})
    matrices = sum(parts.matrix(name, 1).weight.numel() for name in parts.anatomy.matrices)
    assert matrices == (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24 if gated else 4 * 16 * 16 + 2 * 16 * 40)
    assert parts.matrix_parameters() == 2 * matrices


def test_gpt2_apart_is_the_same_model():
    model = tiny("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apart = separate(model)
    assert torch.allclose(logits(apart), logits(model), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the model changed"
    assert apart.num_parameters() == model.num_parameters()
    one, other = Parts(model), Parts(apart)
    for name, inputs in {"q": 16, "k": 16, "v": 16, "out": 16, "up": 16, "down": 40}.items():
        x = torch.randn(2, 3, inputs)
        assert torch.equal(one.matrix(name, 2).weight, other.matrix(name, 2).weight)
        assert torch.allclose(one.matrix(name, 2)(x), other.matrix(name, 2)(x), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_low_rank_decoder_generates_what_its_weights_multiplied_out_do(family, tmp_path):
    """Token by token with the cache, prompts of different lengths; the same after a round trip through a folder."""
    student = halved(tiny(family, layers=3)).model
    assert isinstance(student, LowRankForCausalLM)
    dense = multiplied_out(student)
    assert torch.allclose(logits(student), logits(dense), atol=1e-4)
    prompts = {name: tensor for name, tensor in sentences("left").items() if name != "labels"}
    written = dense.generate(**prompts, max_new_tokens=12, do_sample=False)
    assert torch.equal(student.generate(**prompts, max_new_tokens=12, do_sample=False), written)
    assert torch.equal(student.generate(**prompts, max_new_tokens=12, do_sample=False, use_cache=False), written)
    with torch.no_grad():
        first = student(prompts["input_ids"][:1, :5], use_cache=True)
        assert first.past_key_values.get_seq_length() == 5
        second = student(prompts["input_ids"][:1, 5:], past_key_values=first.past_key_values, logits_to_keep=1)
        assert torch.allclose(second.logits[:, 0], student(prompts["input_ids"][:1]).logits[:, -1], atol=1e-5)

    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is LowRankForCausalLM
    assert torch.equal(again.generate(**prompts, max_new_tokens=12, do_sample=False), written)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight, "tied"
    assert again.num_parameters() == student.num_parameters() == sizes(again, tmp_path, 9)["parameters"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_decoder_stays_what_anybody_loads(family, tied, tmp_path):
    from transformers import AutoModelForCausalLM

    model = keep_layers(tiny(family, layers=3, tie_word_embeddings=tied), [1, 3])
    Parts(model).shape  # noqa: B018  (looking at it leaves it as it is)
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is type(model) and not any(report.values())
    assert torch.equal(logits(again.eval()), logits(model)) and torch.equal(logits(load(tmp_path)), logits(model))
    assert (again.lm_head.weight is again.get_input_embeddings().weight) == tied


def test_a_stranger_generates_with_the_code_beside_the_weights(tmp_path):
    """In a process that cannot see this project."""
    students = {family: halved(tiny(family, layers=3)).model for family in ("llama", "gpt2")}
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
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    for student, line in zip(students.values(), said.stdout.splitlines(), strict=True):
        written = student.generate(prompt, do_sample=False)
        assert written.shape == (1, 14) and line == str(written.tolist()), said.stderr


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_decoder_may_classify(family, tmp_path):
    from transformers import AutoModelForSequenceClassification

    config = tiny(family).config
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    settings, batch = Factorize(multiple_of=1, budget=0.6), sentences() | {"labels": torch.tensor([0, 1, 1])}
    student = reduce(settings, model, room(settings, model, model), [batch]).model
    student.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert type(again) is LowRankForSequenceClassification
    aspects = {("q", 1), ("hidden", 2)}
    found = [Capture(m, aspects)(m, {**batch, "labels": None}, aspects) for m in (student, again)]
    assert found[0].logits.shape == (3, 2) and torch.equal(found[0].logits, found[1].logits)
    assert torch.equal(found[0]["q", 1], found[1]["q", 1])


def test_tied_embeddings_are_not_factorized():
    with pytest.raises(BadInput, match=r"factorize\.embeddings 4 would part the word embedding from the head"):
        halved(tiny("llama"), embeddings=4, count="all")


@pytest.mark.parametrize("method", ["svd", "whitened", "fisher"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_budget_is_met(family, method):
    """Alone and behind a depth cut; smaller matrices of keys and values have ranks of their own size."""
    whole = tiny(family, layers=4, hidden_size=32, head_dim=8)
    for settings in ({}, {"layers": "every", "budget": 0.3}):
        made = halved(whole, decomposition=method, **settings)
        share = Parts(made.model).layer_parameters() / Parts(whole).layer_parameters()
        budget = settings.get("budget", 0.5)
        assert 0.99 * budget <= share <= budget
        assert Parts(made.model).depth == (2 if settings else 4)
        assert {f"base.{name}" for name in made.ranks} == set(Parts(made.model).matrix_names())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_statistics_equal_a_loop_over_single_sequences(family):
    """Second moments and Fisher rows of a padded batch against a backward pass of each sequence's own mean loss."""
    model, batch = separate(tiny(family)), sentences()
    name = Parts(model).matrix_names()[1]
    found = calibrate(model, [name], [batch], fisher=True)[name]
    weight, moments, fisher = model.get_submodule(name).weight, 0, 0
    for row, keep in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        seen, ids = [], row[keep][None]
        handle = model.get_submodule(name).register_forward_hook(lambda m, i, o, seen=seen: seen.append(i[0][0]))
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        handle.remove()
        moments = moments + seen[0].double().T @ seen[0].double()
        fisher = fisher + weight.grad.double().square().sum(1)
    assert torch.allclose(found.inputs, moments / batch["attention_mask"].sum(), rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.rows, fisher / 3, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_rank_reproduces_the_teacher(family):
    teacher = tiny(family, attention_bias=True) if family == "llama" else tiny(family)
    apart = separate(teacher)
    factors = {}
    for name in Parts(apart).matrix_names():
        weight = apart.get_submodule(name).weight
        moment = Statistics(inputs=torch.eye(weight.shape[1]).double())
        factors[name] = decompose(weight, "whitened", moment).factors(99)
    assert torch.allclose(logits(assemble(teacher, factors)), logits(teacher), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_are_the_teachers(family):
    whole = tiny(family, layers=4)
    student, at = keep_layers(whole, [2, 4]), Parts(whole).layers_at
    assert student.config.num_hidden_layers == 2
    source = whole.state_dict()
    for name, value in student.state_dict().items():
        there = name.replace(f"{at}.1.", f"{at}.3.").replace(f"{at}.0.", f"{at}.1.")
        assert torch.equal(value, source[there]), name


def test_kept_layers_keep_their_windows():
    whole = tiny("qwen2", layers=4, use_sliding_window=True, sliding_window=3, max_window_layers=2)
    assert Parts(whole).shape.windows == {3: 3, 4: 3}
    assert Parts(keep_layers(whole, [2, 4])).shape.windows == {2: 3}


def test_cuts_that_cannot_be_are_refused():
    with pytest.raises(BadInput, match="cannot be narrowed"):
        fit(Factorize(hidden_size=8), tiny("llama"))
    with pytest.raises(BadInput, match="scale_attn_by_inverse_layer_idx"):
        keep_layers(tiny("gpt2", scale_attn_by_inverse_layer_idx=True), [2])


@pytest.mark.real
def test_a_real_one(real_data, tmp_path):
    """A Llama of 260k parameters that tells stories: half of its layers, and what it says stays closer by whitening."""
    import json

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real_data / "models" / "stories260k"
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    stories = [json.loads(line)["text"] for line in (real_data / "text/tinystories/train.jsonl").open()][:96]
    tokenizer.pad_token = tokenizer.eos_token
    read = tokenizer(stories, truncation=True, max_length=64, padding=True, return_tensors="pt")
    batch = dict(read) | {"labels": read["input_ids"].masked_fill(read["attention_mask"] == 0, -100)}
    calibration, held_out = (
        {name: tensor[part] for name, tensor in batch.items()} for part in (slice(64), slice(64, 96))
    )
    losses, students = {}, {}
    for method in ("svd", "whitened"):
        settings = Factorize(decomposition=method, multiple_of=1)
        made = reduce(settings, teacher, room(settings, teacher, teacher), [calibration])
        share = Parts(made.model).layer_parameters() / Parts(teacher).layer_parameters()
        assert 0.495 <= share <= 0.5
        with torch.no_grad():
            losses[method], students[method] = made.model(**held_out).loss.item(), made.model
    with torch.no_grad():
        assert teacher(**held_out).loss < losses["whitened"] - 1 < losses["svd"] - 2
    student = students["whitened"]
    student.save_pretrained(tmp_path)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    written = load(tmp_path).generate(**prompt, max_new_tokens=40, do_sample=False)
    assert torch.equal(written, multiplied_out(student).generate(**prompt, max_new_tokens=40, do_sample=False))
