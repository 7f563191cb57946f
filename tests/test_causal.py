"""Causal language models through the chain: what is asked, what is learned, what is scored."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SUMS, prepared
from safetensors.torch import load_file

from stages.distill import distill
from stages.evaluate import evaluate
from stages.factorize import factorize
from stages.finetune import finetune
from stages.language.answers import answers, matches, rouge_l
from stages.language.instructions import answer
from stages.language.scores import answered, next_tokens, summed
from stages.models.base import load
from stages.models.heads import logits_at
from stages.settings import BadInput, Base, Calibration, Distill, Evaluate, Factorize, Finetune
from stages.tasks import IGNORED, Task
from stages.tasks.batches import batches, collator
from stages.tasks.metrics import scores
from stages.tasks.significance import bootstrap
from stages.tasks.splits import read_split
from stages.tracking import Run

SMALL = {"epochs": 1, "batch_size": 8, "log_every": 1, "learning_rate": 1e-3, "warmup": 0.0}


@pytest.fixture(scope="module", params=["stories", "sums"])
def place(request, tmp_path_factory, tiny_decoder, tiny_text) -> Path:
    """A prepared task, its teacher, its student."""
    place = tmp_path_factory.mktemp(request.param)
    task = {"stories": Task(kind="causal_lm"), "sums": SUMS}[request.param]
    prepared(tiny_decoder, tiny_text, place / "prepare", request.param, task)
    for name in ("finetune", "factorize"):
        (place / name).mkdir()
    run_finetune(place / "prepare/data", tiny_decoder, place / "finetune", epochs=6, learning_rate=1e-2)
    factorize(
        Factorize(budget=0.6, multiple_of=1, calibration=Calibration(examples=8)),
        data=place / "prepare/data", teacher=place / "finetune/model", output=place / "factorize", seed=1, run=Run(),
    )  # fmt: skip
    return place


def run_finetune(data: Path, base: Path, output: Path, **settings) -> dict:
    output.mkdir(exist_ok=True)
    return finetune(
        Finetune(**SMALL | settings), base=Base(model=str(base)), data=data, output=output, state=output / "state",
        seed=1, run=Run(),
    )  # fmt: skip


def run_distill(place: Path, output: Path, **settings) -> dict[str, torch.Tensor]:
    output.mkdir()
    settings = {"hierarchy": "layers", "objectives": {"kl": {}, "hard": {}}} | settings
    distill(
        Distill.model_validate(SMALL | settings), data=place / "prepare/data", teacher=place / "finetune/model",
        student=place / "factorize/model", output=output, state=output / "state", seed=1, run=Run(),
    )  # fmt: skip
    return load_file(output / "model/model.safetensors")


def collated(data: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoTokenizer

    rows = read_split(data, "validation")
    rows = rows.select_columns(["input_ids", "labels"])
    return dict(collator(rows, AutoTokenizer.from_pretrained(data / "tokenizer"))([rows[i] for i in range(len(rows))]))


def losses(model: torch.nn.Module, rows: list[dict]) -> list[tuple[float, int, int]]:
    """Sum of −log q(y), hits and number of asked tokens of each row by itself, token by token in float64."""
    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        loss, hits, tokens = 0.0, 0, 0
        for place, label in enumerate(row["labels"][1:]):
            if label != IGNORED:
                loss += float(logits[place].logsumexp(0) - logits[place, label])
                hits += int(logits[place].argmax() == label)
                tokens += 1
        found.append((loss, hits, tokens))
    return found


@torch.no_grad()
def test_the_head_answers_where_it_is_asked_and_padding_changes_nothing(place):
    batch = collated(place / "prepare/data")
    for folder in ("finetune", "factorize"):
        model = load(place / folder / "model")
        asked = next_tokens(batch)
        whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(logits_at(model, asked.inputs, asked.where), whole[asked.where])
        assert torch.equal(model(**asked.inputs).logits, whole), "the head is the model's own again"
        said = summed(answered(whole[asked.where], asked.answers), asked.where)
        wanted = losses(model, list(read_split(place / "prepare/data", "validation")))
        np.testing.assert_allclose(said, [row[:2] for row in wanted], rtol=1e-4)
        assert asked.where.sum(1).tolist() == [row[2] for row in wanted]


@torch.no_grad()
def test_scores_are_those_of_a_float64_loop(place, tmp_path):
    data, models = place / "prepare/data", {"teacher": place / "finetune/model", "student": place / "factorize/model"}
    settings = Evaluate(batch_size=3, bootstrap=200, answers={"examples": 4, "new_tokens": 6})
    found = evaluate(settings, data=data, models=models, output=tmp_path, seed=1, run=Run())
    rows = list(read_split(data, "validation"))
    for name, folder in models.items():
        loss, hits, tokens = np.sum(losses(load(folder), rows), axis=0)
        assert found[name]["metrics"]["perplexity"] == pytest.approx(math.exp(loss / tokens), rel=1e-5)
        assert found[name]["score"] == found[name]["metrics"]["accuracy"] == pytest.approx(100 * hits / tokens)
        low, high = found[name]["interval"]
        assert low <= found[name]["score"] <= high
        table = np.loadtxt(tmp_path / f"predictions/{name}.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(table[:, [1, 2, 0]], losses(load(folder), rows), rtol=1e-4)
    student, teacher = found["student"], found["teacher"]
    assert student["retention"] == pytest.approx(100 * student["score"] / teacher["score"])
    distance = same = count = 0
    models = [load(folder) for folder in models.values()]
    for row in rows:
        p, q = (
            model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1) for model in models
        )
        for place_, label in enumerate(row["labels"][1:]):
            if label != IGNORED:
                distance += float((p[place_].exp() * (p[place_] - q[place_])).sum())
                same += int(p[place_].argmax() == q[place_].argmax())
                count += 1
    assert student["discrepancy"] == pytest.approx(distance / count, rel=1e-4)
    assert student["agreement"] == student["cr_1"] == pytest.approx(100 * same / count)
    assert student["cr_1"] >= student["cr_3"] >= student["cr_5"] and 0 <= student["mor_20"] <= 100
    assert ("answers" in student) == (data.parents[1].name.startswith("sums")) and "agreement" not in teacher


def test_a_model_beside_itself_agrees(place, tmp_path):
    model = place / "finetune/model"
    found = evaluate(
        Evaluate(bootstrap=100, answers={"examples": 0}), data=place / "prepare/data",
        models={"one": model, "other": model}, output=tmp_path, seed=1, run=Run(),
    )["other"]  # fmt: skip
    assert found["retention"] == found["agreement"] == found["cr_5"] == found["mor_10"] == 100
    assert found["discrepancy"] == pytest.approx(0, abs=1e-6)


def drift(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("place", ["sums"], indirect=True)
@pytest.mark.parametrize("trained", ["teacher", "student"])
def test_accumulated_batches_give_the_same_step(place, tiny_decoder, tmp_path, trained):
    """Rows of different lengths: a mean over a batch's tokens would weigh them by the company that they are in."""

    def weights(name: str, **settings: int) -> dict[str, torch.Tensor]:
        settings |= {"epochs": 0.5, "group_by_length": False}
        if trained == "student":
            return run_distill(place, tmp_path / name, **settings)
        run_finetune(place / "prepare/data", tiny_decoder, tmp_path / name, **settings)
        return load_file(tmp_path / name / "model/model.safetensors")

    once = weights("once", batch_size=8)
    parts = weights("parts", batch_size=2, gradient_accumulation=4)
    assert drift(once, parts) < 1e-4
    assert drift(once, weights("other", batch_size=4)) > 1e-3


def test_training_teaches_and_without_epochs_the_base_model_is_taken_as_it_is(place, tiny_decoder, tmp_path):
    before = run_finetune(place / "prepare/data", tiny_decoder, tmp_path / "f", epochs=0)
    after = json.loads((place / "finetune/metrics.json").read_text())
    assert after["accuracy"] > before["accuracy"] + 10 and after["perplexity"] < before["perplexity"] / 2
    assert before["best_step"] == before["seconds"] == 0 and after["best_step"] > 0
    assert drift(load_file(tiny_decoder / "model.safetensors"), load_file(tmp_path / "f/model/model.safetensors")) == 0


def test_the_loss_is_the_mean_over_examples_of_the_mean_over_tokens(place, tmp_path):
    """`hard` in the first step of an untouched order of one batch, against the loop."""
    import pandas as pd

    rows = len(read_split(place / "prepare/data", "train"))
    run_distill(place, tmp_path / "d", batch_size=rows, objectives={"hard": {}})
    found = pd.read_csv(tmp_path / "d/history.csv")["loss/hard"].dropna().iloc[0]
    with torch.no_grad():
        each = losses(load(place / "factorize/model"), list(read_split(place / "prepare/data", "train")))
    assert found == pytest.approx(np.mean([loss / tokens for loss, _, tokens in each]), rel=1e-4)


def test_inner_states_are_compared_where_a_token_is_asked_for(place, tmp_path):
    """The first step's hidden states of the first layer, row by row without padding, in float64."""
    import pandas as pd

    rows = read_split(place / "prepare/data", "train")
    alone = dict.fromkeys(Distill().objectives.active()) | {"hidden": {"layers": [1]}}
    run_distill(place, tmp_path / "d", batch_size=len(rows), objectives=alone)
    models, each = [load(place / f"{stage}/model").double() for stage in ("factorize", "finetune")], []
    for row in rows:
        asked = np.flatnonzero(np.array(row["labels"][1:]) != IGNORED)
        with torch.no_grad():
            ours, theirs = (
                model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states[1][0, asked]
                for model in models
            )
        each.append(float((ours - theirs).square().sum() / theirs.square().sum()))
    found = pd.read_csv(tmp_path / "d/history.csv")["loss/hidden"].dropna().iloc[0]
    assert found == pytest.approx(np.mean(each), rel=1e-4)


def test_padding_of_labels_asks_for_nothing(place):
    from transformers import AutoTokenizer

    data = place / "prepare/data"
    tokenizer, rows = AutoTokenizer.from_pretrained(data / "tokenizer"), read_split(data, "validation")
    for indices, batch in batches(rows, tokenizer, 3, "x"):
        for i, row in enumerate(indices):
            labels, length = rows["labels"][row], rows["length"][row]
            assert batch["labels"][i].tolist() == labels + [IGNORED] * (batch["labels"].shape[1] - length)
            assert int(batch["attention_mask"][i].sum()) == length


def test_metrics_and_their_bootstrap_equal_a_loop():
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 30, 200)
    hits = draw.binomial(tokens, 0.4)
    said = np.stack([tokens * draw.uniform(1, 3, 200), hits], 1).astype(np.float32)
    task = Task(kind="causal_lm", metrics=["likelihood", "perplexity", "accuracy"])
    found = scores(task, said, tokens)
    assert found["perplexity"] == pytest.approx(math.exp(said[:, 0].sum(dtype=float) / tokens.sum()))
    assert found["likelihood"] == pytest.approx(100 / found["perplexity"])
    assert found["accuracy"] == pytest.approx(100 * hits.sum() / tokens.sum())
    for metric in ("likelihood", "accuracy"):
        this = Task(kind="causal_lm", metrics=[metric])
        loop = []
        for _ in range(4000):
            rows = draw.integers(200, size=200)
            loop.append(scores(this, said[rows], tokens[rows])[metric])
        assert bootstrap(this, said, tokens, 4000, 1) == pytest.approx(np.percentile(loop, [2.5, 97.5]), abs=0.3)


def test_rouge_l_is_lins_example_and_a_slow_loops() -> None:
    """Lin 2004, section 3.1: of `police killed the gunman`, `police kill the gunman` has 3 words in order, of 4."""
    assert rouge_l("police kill the gunman", "Police killed the gunman.") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert rouge_l("", "x") == rouge_l("y", "x") == 0.0
    draw = np.random.default_rng(0)
    for _ in range(20):
        one, other = (draw.choice(list("abc"), draw.integers(1, 7)).tolist() for _ in range(2))
        common = max(len(part) for part in parts_of(one) & parts_of(other))
        assert rouge_l(" ".join(one), " ".join(other)) == pytest.approx(2 * common / (len(one) + len(other)))


def parts_of(words: list[str]) -> set[tuple[str, ...]]:
    """All subsequences."""
    return {
        tuple(word for i, word in enumerate(words) if chosen >> i & 1) for chosen in range(2 ** len(words))
    }  # fmt: skip


def test_what_must_be_the_same_is_what_the_pattern_finds() -> None:
    assert matches(r"#### (\S+)", "so 3 + 4\n#### 7", "other words\n#### 7")
    assert not matches(r"#### (\S+)", "#### 8", "#### 7")
    assert not matches("#### ", "7", "7"), "where nothing is found nothing is the same"
    assert matches(r"\d+", "it is 7", "7 it is")


@pytest.mark.parametrize("place", ["sums"], indirect=True)
@pytest.mark.parametrize("folder", ["finetune", "factorize"])
def test_answers_are_the_likeliest_tokens_one_by_one(place, folder):
    """Batches of padded prompts, against one prompt at a time without a cache."""
    from transformers import AutoTokenizer

    data, model = place / "prepare/data", load(place / folder / "model")
    tokenizer, rows = AutoTokenizer.from_pretrained(data / "tokenizer"), read_split(data, "validation")
    written, right = [], []
    for row in rows:
        ids = row["input_ids"][: answer(row["labels"])]
        right.append(tokenizer.decode(row["input_ids"][len(ids) :], skip_special_tokens=True))
        new: list[int] = []
        while len(new) < 12 and tokenizer.eos_token_id not in new:
            with torch.no_grad():
                new.append(int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax()))
        written.append(tokenizer.decode(new, skip_special_tokens=True))
    settings = Evaluate(batch_size=4, answers={"examples": 100, "new_tokens": 12})
    found = answers(model, rows, tokenizer, settings, SUMS.match, "test")
    pairs = list(zip(written, right, strict=True))
    assert found["examples"] == len(rows) == 10
    assert found["rouge_l"] == pytest.approx(100 * np.mean([rouge_l(*pair) for pair in pairs]))
    assert found["exact_match"] == pytest.approx(100 * np.mean([matches(SUMS.match, *pair) for pair in pairs]))
    assert found["rouge_l"] > 0 or folder == "factorize"


def test_other_vocabularies_are_refused_before_training(place, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(place / "finetune/model", vocab_size=400)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(BadInput, match=r"the student has 400 tokens and the teacher \d+: what they say cannot"):
        distill(
            Distill(**SMALL), data=place / "prepare/data", teacher=place / "finetune/model",
            student=tmp_path / "other", output=tmp_path, state=tmp_path / "s", seed=1, run=Run(),
        )  # fmt: skip


@pytest.mark.parametrize("place", ["sums"], indirect=True)
def test_tokens_of_other_ids_are_refused_although_they_are_as_many(place, tmp_path):
    """A student, a teacher and a model to start from whose tokenizer has two ids exchanged."""
    other, data = tmp_path / "other", place / "prepare/data"
    shutil.copytree(place / "finetune/model", other)
    described = json.loads((other / "tokenizer.json").read_text())
    words = described["model"]["vocab"]
    (one, five), (two, nine) = ((token, number) for token, number in words.items() if number in (5, 9))
    words[one], words[two] = nine, five
    (other / "tokenizer.json").write_text(json.dumps(described))
    own = {"student": place / "factorize/model", "teacher": place / "finetune/model"}
    for name in own:
        with pytest.raises(BadInput) as refusal:
            distill(
                Distill(**SMALL), data=data, output=tmp_path, state=tmp_path / "s", seed=1, run=Run(),
                **own | {name: other},
            )  # fmt: skip
        assert str(refusal.value).startswith(f"the {name} means {two!r} by token {five}, and the prepared text {one!r}")
    known = {"data": data, "teacher": own["teacher"], "output": tmp_path / "out", "seed": 1, "run": Run()}
    with pytest.raises(
        BadInput, match=r"^factorize\.start .*other means .* by token 5, the teacher .*; start from a m"
    ):
        factorize(Factorize(start=str(other)), **known)
    for file in other.glob("*token*"):
        file.unlink()
    known["output"].mkdir()
    settings = Factorize(start=str(other), multiple_of=1, calibration=Calibration(examples=8))
    assert factorize(settings, **known)["share"] < 1, "a model without a tokenizer is taken at its word"


def test_a_base_model_that_is_none_is_refused(place, tiny_model, tiny_decoder, tmp_path):
    from transformers import BertConfig, BertLMHeadModel, LlamaModel

    data = place / "prepare/data"
    with pytest.raises(BadInput, match=r"base\.model .* has no weights for cls\.predictions"):
        run_finetune(data, tiny_model, tmp_path / "a")
    BertLMHeadModel(BertConfig.from_pretrained(tiny_model)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInput, match=r"base\.model .* is an encoder, which sees what comes next"):
        run_finetune(data, tmp_path / "bert", tmp_path / "b")
    LlamaModel.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "headless")
    with pytest.raises(BadInput, match=r"base\.model .* has no weights for lm_head"):
        run_finetune(data, tmp_path / "headless", tmp_path / "c")


def test_a_classifier_as_it_is_needs_its_own_head_for_these_labels(tiny_model, tiny_data, tmp_path):
    from transformers import BertForSequenceClassification

    data, _ = prepared(tiny_model, tiny_data, tmp_path / "p", "reviews", Task(text=["text"], labels=["bad", "good"]))
    with pytest.raises(BadInput, match=r"has no weights for classifier\.bias; give a checkpoint with all of them"):
        run_finetune(data, tiny_model, tmp_path / "a", epochs=0)
    names = {"id2label": {0: "GOOD", 1: "BAD"}, "label2id": {"GOOD": 0, "BAD": 1}}
    BertForSequenceClassification.from_pretrained(tiny_model, **names).save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match=r"says good, bad, in this order, and the task bad, good"):
        run_finetune(data, tmp_path / "model", tmp_path / "b", epochs=0)
    BertForSequenceClassification.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    run_finetune(data, tmp_path / "model", tmp_path / "c", epochs=0)
    found = [load_file(place / "model.safetensors") for place in (tmp_path / "model", tmp_path / "c/model")]
    assert drift(*found) == 0


@pytest.mark.parametrize("place", ["stories"], indirect=True)
def test_a_rival_is_made_and_compared(place, tmp_path):
    """By hand: the table's scores, retention and perplexity are those of the stages before."""
    from stages.baseline import baseline
    from stages.compare import compare
    from stages.comparison.collect import Sources
    from stages.settings import Compare

    outputs, task = tmp_path / "outputs", Task(kind="causal_lm")
    folders = {
        "kd": outputs / "baseline/stories/kd/1",
        "main": outputs / "evaluate/stories",
        "out": outputs / "compare",
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    data, teacher = place / "prepare/data", place / "finetune/model"
    student, scoring = Factorize(budget=0.6, multiple_of=1, decomposition="svd"), Evaluate(bootstrap=200)
    rival = baseline(
        student,
        None,
        scoring,
        data=data,
        teacher=teacher,
        output=folders["kd"],
        state=tmp_path / "s",
        seed=1,
        run=Run(),
    )["student"]
    models = {"teacher": teacher, "student": place / "factorize/model"}
    found = evaluate(scoring, data=data, models=models, output=folders["main"], seed=1, run=Run()) | {"kd": rival}
    table = compare(
        Compare(), tasks={"stories": task}, students={"student": (student, None), "kd": (student, None)}, seeds=[1],
        resamples=200, sources=Sources(outputs=outputs), output=folders["out"], seed=1, run=Run(),
    ).set_index("model")  # fmt: skip
    for name, row in found.items():
        assert (
            table.loc[name, "score"] == row["score"] and table.loc[name, "perplexity"] == row["metrics"]["perplexity"]
        )
        assert [table.loc[name, side] for side in ("low", "high")] == row["interval"]
        assert table.loc[name, "retention"] == pytest.approx(100 * row["score"] / found["teacher"]["score"])
    assert "perplexity" in (folders["out"] / "table.md").read_text()
