"""The student's own text: what it writes is what is compared, wherever batches are padded and runs are resumed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SUMS, prepared
from test_training import drift, train_only
from transformers import AutoTokenizer, TrainerCallback

import stages.models.base
import stages.training
from stages.factorize import factorize
from stages.finetune import finetune
from stages.language.instructions import answer
from stages.language.writing import begun, continued
from stages.models.base import load
from stages.settings import BadInput, Base, Distill, Factorize, Finetune, Params
from stages.tasks import IGNORED, Task
from stages.tasks.splits import read_split
from stages.tracking import Run

LOGITS = {"kl": {"temperature": 1.0}, "hard": {}, **dict.fromkeys(["attention_kl", "hidden", "matrices"])}
OWN = {"share": 1.0, "new_tokens": 5, "temperature": 0.0}
ONCE = {"hierarchy": "layers", "epochs": 1, "batch_size": 4, "objectives": LOGITS}


@pytest.fixture(scope="module", params=["stories", "sums"])
def place(request, tmp_path_factory, tiny_decoder, tiny_text) -> Path:
    """A prepared task, its teacher (random as it is), its student; `sums` is padded on the left."""
    place = tmp_path_factory.mktemp(request.param)
    task = {"stories": Task(kind="causal_lm"), "sums": SUMS}[request.param]
    data, _ = prepared(tiny_decoder, tiny_text, place / "prepare", request.param, task)
    if request.param == "sums":
        tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer", padding_side="left")
        tokenizer.save_pretrained(data / "tokenizer")
    for name in ("finetune", "factorize"):
        (place / name).mkdir()
    known = {"data": data, "seed": 1, "run": Run()}
    base = Base(model=str(tiny_decoder))
    finetune(Finetune(epochs=0), base=base, output=place / "finetune", state=place / "state", **known)
    made = Factorize(budget=0.6, multiple_of=1, decomposition="svd")
    factorize(made, teacher=place / "finetune/model", output=place / "factorize", **known)
    return place


def greedy(model: torch.nn.Module, prompt: list[int], ends: int, most: int) -> list[int]:
    """One token at a time, without a cache."""
    new: list[int] = []
    while len(new) < most and ends not in new:
        with torch.no_grad():
            new.append(int(model(input_ids=torch.tensor([prompt + new])).logits[0, -1].argmax()))
    return new


def own_texts(place: Path) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    """By prompt: the prompt, and what the untrained student writes after it."""
    model, end = load(place / "factorize/model"), AutoTokenizer.from_pretrained(place / "prepare/data/tokenizer")
    found = {}
    for row in read_split(place / "prepare/data", "train"):
        ids, labels = row["input_ids"], row["labels"]
        prompt = ids[: len(ids) - 5 if place.name.startswith("stories") else answer(labels)]
        found[tuple(prompt)] = prompt, greedy(model, prompt, end.eos_token_id, 5)
    return found


def compared(place: Path, prompt: list[int], new: list[int]) -> float:
    """Mean over the new tokens of KL(teacher‖student) where each was asked for, in float64."""
    said = [load(place / f"{stage}/model").double() for stage in ("finetune", "factorize")]
    with torch.no_grad():
        p, q = (m(input_ids=torch.tensor([prompt + new])).logits[0].log_softmax(-1) for m in said)
    each = (p.exp() * (p - q)).sum(-1)[len(prompt) - 1 : len(prompt) - 1 + len(new)]
    return float(each.mean())


def test_the_student_is_taught_on_what_it_wrote(place, tmp_path, monkeypatch):
    """Of the first step: the texts that the teacher read, where they were padded, and the loss, by a slow loop."""
    read, modes = [], []

    def loaded(folder: Path, **options) -> torch.nn.Module:
        model = load(folder, **options)
        if folder == place / "finetune/model":
            model.register_forward_hook(lambda _, args, kwargs, out: read.append(kwargs), with_kwargs=True)
        else:
            model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
        return model

    monkeypatch.setattr(stages.models.base, "load", loaded)
    train_only(place, tmp_path / "a", on_policy=OWN, **ONCE | {"epochs": 0.01})
    texts, losses = own_texts(place), []
    ids, mask = read[0]["input_ids"], read[0]["attention_mask"].bool()
    for row, real in zip(ids, mask, strict=True):
        whole = row[real].tolist()
        prompt, new = next(text for start, text in texts.items() if whole == text[0] + text[1])
        losses.append(compared(place, prompt, new))
    assert mask[:, -1].all() and mask[:, 0].all() == place.name.startswith("stories"), "padded as the collator pads"
    table = pd.read_csv(tmp_path / "a/history.csv")
    assert table["loss/kl"].iloc[0] == pytest.approx(np.mean(losses), rel=1e-4)
    assert "loss/hard" not in table, "its own tokens are no labels"
    assert 1 <= table["on_policy/tokens"].iloc[0] <= 5
    steps = [index for index, training in enumerate(modes) if training]
    assert steps and not any(modes[: steps[0]]), "it writes without dropout, and learns with what there is"


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_a_share_of_the_steps_is_written_and_none_where_it_is_0(place, tmp_path):
    """What the other steps learn from is the data's text, with its labels; the draws are those of seed and step."""
    few = ONCE | {"epochs": 0.5}
    train_only(place, tmp_path / "off", **few)
    train_only(place, tmp_path / "none", on_policy=OWN | {"share": 0.0}, **few)
    assert drift(tmp_path / "off", tmp_path / "none") == 0
    train_only(
        place,
        tmp_path / "some",
        on_policy=OWN | {"share": 0.5, "temperature": 1.0},
        **ONCE | {"epochs": 3, "batch_size": 8},
    )
    table = pd.read_csv(tmp_path / "some/history.csv").dropna(subset="loss/kl")
    written = table["on_policy/tokens"].notna()
    assert 3 <= written.sum() <= 9 and (written == table["loss/hard"].isna()).all()


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_a_killed_run_resumes_and_ends_at_the_same_place(place, tmp_path, monkeypatch):
    """With drawn tokens and dropout, killed in the second epoch."""

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    settings = ONCE | {
        "epochs": 2,
        "dropout": 0.1,
        "on_policy": OWN | {"share": 0.5, "temperature": 1.0},
        "batch_size": 8,
    }
    train_only(place, tmp_path / "whole", **settings)
    original = stages.training.History
    monkeypatch.setattr(stages.training, "History", lambda run: Kill())
    with pytest.raises(KeyboardInterrupt):
        train_only(place, tmp_path / "killed", **settings)
    monkeypatch.setattr(stages.training, "History", original)
    train_only(place, tmp_path / "killed", **settings)
    assert drift(tmp_path / "whole", tmp_path / "killed") == 0
    histories = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "killed")]
    assert histories[0] == histories[1] and "on_policy/tokens" in histories[0]


def test_where_the_student_goes_on_from():
    assert begun([5, 6, 7, 8, 9], [IGNORED, 6, IGNORED, 8, 9], 1) == [5, 6, 7], "a chat's last response"
    assert begun([5, 6, 7, 8, 9], [5, 6, 7, 8, 9], 3) == [5, 6]
    assert begun([5, 6, 7], [5, 6, 7], 64) == [5]


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_tokens_are_drawn_from_the_models_own_distribution(place):
    """Whatever its authors say of sampling; at temperature 0.5 the probabilities are those of logits times two."""
    model, tokenizer = load(place / "finetune/model"), AutoTokenizer.from_pretrained(place / "prepare/data/tokenizer")
    model.generation_config.update(top_k=3, top_p=0.5, repetition_penalty=3.0, eos_token_id=[1, 7])
    known, prompt = model.generation_config.to_dict(), [0, 9, 12, 12, 30]
    torch.manual_seed(0)
    said = continued(model, [prompt] * 4000, tokenizer, new_tokens=1, temperature=0.5)
    with torch.no_grad():
        odds = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() * 2).softmax(-1)
    counts = torch.bincount(torch.tensor(said)[:, 0], minlength=len(odds))
    # the sum of squared standard scores has a mean and a variance of about as many as there are tokens, and twice that
    scores = (counts - 4000 * odds).square() / (4000 * odds)
    assert scores.sum() < len(odds) + 5 * (2 * len(odds)) ** 0.5 and (counts > 0).sum() > 100
    assert model.generation_config.to_dict() == known
    longer = continued(model, [prompt, prompt[:3]], tokenizer, new_tokens=100)
    assert all(len(own) <= 59 and not {1, 7} & {*own[:-1]} for own in longer)


def test_what_cannot_be_is_refused():
    alone = {"objectives": dict.fromkeys(Distill().objectives.active()) | {"hard": {}}}
    with pytest.raises(ValueError, match=r"on_policy needs an objective that asks the teacher, and these look at lab"):
        Distill(on_policy={}, **alone)
    with pytest.raises(ValueError, match=r"of the data's text, and on_policy asks it about the student's; set one of"):
        Distill(on_policy={}, offline={}, objectives=LOGITS)
    recipes = {"labels": {"distill": {"objectives": {"hard": {}}}}, "logits": {"distill": {"objectives": {"kl": {}}}}}
    params = Params.model_validate({"distill": {"on_policy": {}}, "recipes": recipes})
    assert params.recipe("labels")[1].on_policy is None and params.recipe("logits")[1].on_policy is not None


def test_a_classifier_writes_nothing(tiny_model, tiny_data, tmp_path):
    task = Task(text=["text"], labels=["bad", "good"])
    prepared(tiny_model, tiny_data, tmp_path / "prepare", "reviews", task)
    with pytest.raises(BadInput, match=r"distill\.on_policy is for causal_lm tasks, and this one is a classification"):
        train_only(tmp_path, tmp_path / "a", on_policy={})
