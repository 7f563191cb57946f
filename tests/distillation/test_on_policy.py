"""On-policy distillation: what the student generates is compared, however batches are padded and runs are resumed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, TrainerCallback

import stages.training.train
from stages.errors import BadInput
from stages.language.generate import generate_tokens, take_prompt
from stages.language.instructions import find_response
from stages.models.loading import load_checkpoint
from stages.schema.task import IGNORED, CausalLMTask
from stages.settings import Finetune
from stages.tasks.splits import read_split
from tests.makers.chains import make_models, measure_student_drift, run_distill, watch_loading
from tests.makers.runs import prepare_task
from tests.makers.texts import REVIEWS, SUMS

OBJECTIVES = {"kl": {"temperature": 1.0}, "hard": {}}
GREEDY = {"share": 1.0, "max_new_tokens": 5, "temperature": 0.0}
SINGLE_EPOCH = {"hierarchy": "joint", "epochs": 1, "batch_size": 4, "objectives": OBJECTIVES}


@pytest.fixture(scope="module", params=["stories", "sums"])
def chain(request, tmp_path_factory, tiny_decoder, tiny_text) -> Path:
    """A prepared task, its teacher (random as it is), its student; `sums` is padded on the left."""
    folder = tmp_path_factory.mktemp(request.param)
    task = {"stories": CausalLMTask(kind="causal_lm"), "sums": SUMS}[request.param]
    data, _ = prepare_task(tiny_decoder, tiny_text, folder / "prepare", request.param, task)
    if request.param == "sums":
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer", padding_side="left")
        tokenizer.save_pretrained(data / "tokenizer")
    make_models(folder, tiny_decoder, Finetune(epochs=0))
    return folder


def decode_greedily(model: torch.nn.Module, prompt: list[int], end: int, limit: int) -> list[int]:
    """One token at a time, without a cache."""
    new: list[int] = []
    while len(new) < limit and end not in new:
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([prompt + new])).logits[0, -1].argmax()))
    return new


def generate_texts(chain: Path) -> list[tuple[list[int], list[int]]]:
    """Every prompt, and what the untrained student generates after it."""
    model = load_checkpoint(chain / "factorize/model")
    tokenizer = AutoTokenizer.from_pretrained(chain / "prepare/data/tokenizer")
    texts = []
    for row in read_split(chain / "prepare/data", "train"):
        ids, labels = row["input_ids"], row["labels"]
        prompt = ids[: len(ids) - 5 if chain.name.startswith("stories") else find_response(labels)]
        texts.append((prompt, decode_greedily(model, prompt, tokenizer.eos_token_id, 5)))
    return texts


def compute_kl(chain: Path, prompt: list[int], new: list[int]) -> float:
    """Mean over the new tokens of KL(teacher‖student) at the positions that predict them, in float64."""
    models = [load_checkpoint(chain / f"{stage}/model").double() for stage in ("finetune", "factorize")]
    with torch.no_grad():
        p, q = (m(input_ids=torch.tensor([prompt + new])).logits[0].log_softmax(-1) for m in models)
    tokens = (p.exp() * (p - q)).sum(-1)[len(prompt) - 1 : len(prompt) - 1 + len(new)]
    return float(tokens.mean())


def test_the_student_is_taught_on_what_it_generated(chain, tmp_path, monkeypatch):
    """Of the first step: the texts that the teacher read, where they were padded, and the loss, by a slow loop."""
    read, modes = [], []

    def watch(folder: Path, model: torch.nn.Module) -> None:
        if folder == chain / "finetune/model":
            model.register_forward_hook(lambda _, args, kwargs, out: read.append(kwargs), with_kwargs=True)
        else:
            model.register_forward_pre_hook(lambda module, args: modes.append(module.training))

    watch_loading(monkeypatch, watch)
    run_distill(chain, tmp_path / "a", on_policy=GREEDY, **SINGLE_EPOCH | {"epochs": 0.01})
    texts, losses = generate_texts(chain), []
    ids, mask = read[0]["input_ids"], read[0]["attention_mask"].bool()
    for row, real in zip(ids, mask, strict=True):
        whole = row[real].tolist()
        losses.append(compute_kl(chain, *next(text for text in texts if whole == text[0] + text[1])))
    assert mask[:, -1].all() and mask[:, 0].all() == chain.name.startswith("stories"), "padded as the collator pads"
    table = pd.read_csv(tmp_path / "a/history.csv")
    assert table["loss/kl"].iloc[0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert "loss/hard" not in table, "its own tokens are no labels"
    assert 1 <= table["on_policy/tokens"].iloc[0] <= 5
    steps = [index for index, training in enumerate(modes) if training]
    assert steps and not any(modes[: steps[0]]), "it generates without dropout, and learns with what there is"


@pytest.mark.parametrize("chain", ["sums"], indirect=True)
def test_a_share_of_the_steps_is_generated_and_none_where_it_is_0(chain, tmp_path):
    """The other steps read the data's text, with its labels; the draws are those of seed and step."""
    few = SINGLE_EPOCH | {"epochs": 0.5}
    run_distill(chain, tmp_path / "off", **few)
    run_distill(chain, tmp_path / "none", on_policy=GREEDY | {"share": 0.0}, **few)
    assert measure_student_drift(tmp_path / "off", tmp_path / "none") == 0
    longer = SINGLE_EPOCH | {"epochs": 3, "batch_size": 8}
    run_distill(chain, tmp_path / "half", on_policy=GREEDY | {"share": 0.5, "temperature": 1.0}, **longer)
    table = pd.read_csv(tmp_path / "half/history.csv").dropna(subset="loss/kl")
    generated = table["on_policy/tokens"].notna()
    assert 3 <= generated.sum() <= 9 and (generated == table["loss/hard"].isna()).all()


@pytest.mark.parametrize("chain", ["sums"], indirect=True)
def test_a_killed_run_resumes_and_ends_with_the_same_weights(chain, tmp_path, monkeypatch):
    """With drawn tokens and dropout, killed in the second epoch."""

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    policy = GREEDY | {"share": 0.5, "temperature": 1.0}
    settings = SINGLE_EPOCH | {"epochs": 2, "dropout": 0.1, "on_policy": policy, "batch_size": 8}
    run_distill(chain, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stages.training.train, "TrackMetrics", lambda run: Kill())
        run_distill(chain, tmp_path / "killed", **settings)
    run_distill(chain, tmp_path / "killed", **settings)
    assert measure_student_drift(tmp_path / "whole", tmp_path / "killed") == 0
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")]
    assert histories[0] == histories[1] and "on_policy/tokens" in histories[0]


def test_where_the_student_continues_a_text():
    assert take_prompt([5, 6, 7, 8, 9], [IGNORED, 6, IGNORED, 8, 9], 1) == [5, 6, 7], "a chat's last response"
    assert take_prompt([5, 6, 7, 8, 9], [5, 6, 7, 8, 9], 3) == [5, 6]
    assert take_prompt([5, 6, 7], [5, 6, 7], 64) == [5]


@pytest.mark.parametrize("chain", ["sums"], indirect=True)
def test_tokens_are_drawn_from_the_models_own_distribution(chain):
    """Whatever its generation config names; at temperature 0.5 the probabilities are those of logits times two."""
    model = load_checkpoint(chain / "finetune/model")
    tokenizer = AutoTokenizer.from_pretrained(chain / "prepare/data/tokenizer")
    model.generation_config.update(top_k=3, top_p=0.5, repetition_penalty=3.0, eos_token_id=[1, 7])
    config, prompt = model.generation_config.to_dict(), [0, 9, 12, 12, 30]
    torch.manual_seed(0)
    drawn = generate_tokens(model, [prompt] * 4000, tokenizer, max_new_tokens=1, temperature=0.5)
    with torch.no_grad():
        odds = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() * 2).softmax(-1)
    counts = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(odds))
    # the sum of squared standard scores has a mean and a variance of about as many as there are tokens, and twice that
    scores = (counts - 4000 * odds).square() / (4000 * odds)
    assert scores.sum() < len(odds) + 5 * (2 * len(odds)) ** 0.5 and (counts > 0).sum() > 100
    assert model.generation_config.to_dict() == config
    longer = generate_tokens(model, [prompt, prompt[:3]], tokenizer, max_new_tokens=100)
    assert all(len(tokens) <= 59 and not {1, 7} & {*tokens[:-1]} for tokens in longer)


def test_a_classifier_generates_nothing(tiny_model, tiny_data, tmp_path):
    prepare_task(tiny_model, tiny_data, tmp_path / "prepare", "reviews", REVIEWS)
    message = (
        r"distill\.on_policy is for causal_lm tasks, whose student generates text, and this one is a classification"
    )
    with pytest.raises(BadInput, match=message):
        run_distill(tmp_path, tmp_path / "a", on_policy={})
