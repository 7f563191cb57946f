"""factorize, on a task: a student cut from its teacher or from another model, plain where nothing is factorized."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_students import ALL, outputs, sentences, teacher

from stages.factorize import factorize
from stages.models.anatomy import Parts
from stages.models.base import load
from stages.models.layers import keep_layers
from stages.settings import BadInput, Base, Calibration, Data, Distill, Evaluate, Factorize, Prepare
from stages.tasks import Task
from stages.tracking import Run

REVIEWS = Task(text=["text"], labels=["bad", "good"])


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_data) -> Path:
    """A prepared task and a random teacher of six layers, saved as finetune does."""
    from transformers import AutoTokenizer

    from stages.prepare import prepare

    place = tmp_path_factory.mktemp("students")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    whole = teacher("bert", vocab_size=len(tokenizer), max_position_embeddings=128)
    whole.save_pretrained(place / "teacher")
    tokenizer.save_pretrained(place / "teacher")
    data = Data(source=str(tiny_data), custom={"reviews": REVIEWS})
    base, settings = Base(model=str(tiny_model)), Prepare(max_length=32)
    prepare(name="reviews", task=REVIEWS, data=data, base=base, settings=settings, seed=1, output=place, run=Run())
    return place


def student(place: Path, output: Path, **settings) -> dict:
    output.mkdir(exist_ok=True)
    settings = Factorize(multiple_of=1, calibration=Calibration(examples=1000), **settings)
    return factorize(settings, data=place / "data", teacher=place / "teacher", output=output, seed=1, run=Run())


@pytest.mark.parametrize(
    ("settings", "described"),
    [
        ({"layers": "every"}, {"layers": [2, 4, 6], "hidden_size": 32, "intermediate_size": 64}),
        (
            {"hidden_size": 16, "budget": 0.3},
            {"layers": [1, 2, 3, 4, 5, 6], "hidden_size": 16, "intermediate_size": 42},
        ),
        ({"budget": 1.0}, {"layers": ALL, "hidden_size": 32, "intermediate_size": 64}),
    ],
)
def test_a_student_without_factors_is_a_plain_model(place, tmp_path, settings, described):
    """A stranger loads it whole, with no code of ours; tables and plots are there all the same."""
    from transformers import AutoModelForSequenceClassification

    metrics = student(place, tmp_path, **settings)
    again, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(again).__name__ == "BertForSequenceClassification" and not any(report.values())
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {name: metrics[name] for name in described} == described
    assert 0.99 * settings.get("budget", 0.5) <= metrics["layer_share"] <= settings.get("budget", 0.5)
    assert (tmp_path / "spectra.png").is_file()
    table = pd.read_csv(tmp_path / "ranks.csv")
    assert table.empty and {"module", "rank", "output_error"} <= set(table.columns)
    if "hidden_size" not in settings:
        expected = keep_layers(load(place / "teacher"), described["layers"])
        assert torch.equal(outputs(again.eval(), sentences()), outputs(expected, sentences()))


def test_calibration_sees_the_student_not_the_teacher(place, tmp_path):
    """The table's output error of a matrix behind a dropped layer is that on the cut model's own activations."""
    from stages.tasks.splits import read_split

    metrics = student(place, tmp_path, layers="every", budget=0.25)
    assert metrics["layers"] == [3, 6] and 0.2475 <= metrics["layer_share"] <= 0.25
    name, seen = "bert.encoder.layer.1.attention.self.query", []
    dense, thin = keep_layers(load(place / "teacher"), [3, 6]), load(tmp_path / "model").base.get_submodule(name)
    module = dense.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: seen.append(args[0][0]))
    with torch.inference_mode():
        for ids in read_split(place / "data", "train")["input_ids"]:
            dense(torch.tensor([ids]))
        x = torch.cat(seen).double()
        missed = module.double()(x) - thin.double()(x)
        lost, whole = ((y - y.mean(0)).norm() for y in (missed, x @ module.weight.T))
    table = pd.read_csv(tmp_path / "ranks.csv").set_index("module")
    assert len(table) == 12 and table.output_error[name] == pytest.approx(float(lost / whole), rel=1e-3)
    assert missed.mean(0).abs().max() < 1e-4, "the bias takes the mean up"


def narrow(place: Path, folder: Path, words: int | None = None) -> float:
    """A pretrained model without a task's head, narrower than the teacher; returns its share of the layers."""
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(place / "teacher")
    config.hidden_size, config.intermediate_size = 16, 64
    config.vocab_size = words or config.vocab_size
    made = BertModel(config)
    made.save_pretrained(folder)
    return Parts(made).layer_parameters() / Parts(load(place / "teacher")).layer_parameters()


def test_a_student_may_start_from_another_pretrained_model(place, tmp_path):
    """As it is where it fits the budget, factorized where it does not."""
    share = narrow(place, tmp_path / "small")
    metrics = student(place, tmp_path / "whole", start=str(tmp_path / "small"), budget=share)
    assert metrics["layer_share"] == pytest.approx(share) and metrics["hidden_size"] == 16
    known, made = (load_file(tmp_path / name / "model.safetensors") for name in ("small", "whole/model"))
    inside = [name for name in known if name.startswith("encoder")]
    assert inside and all(torch.equal(known[name], made[f"bert.{name}"]) for name in inside)
    metrics = student(place, tmp_path / "factors", start=str(tmp_path / "small"), budget=0.6 * share)
    assert 0.99 * 0.6 * share <= metrics["layer_share"] <= 0.6 * share


def test_a_start_that_cannot_be_is_refused(place, tmp_path):
    narrow(place, tmp_path / "small"), narrow(place, tmp_path / "other", words=77)
    for start, sentence in (
        ("small", r"makes \d+\.\d% of the teacher's parameters, too little for factorize\.budget 0\.9"),
        ("other", "has 77 words, the teacher "),
        ("nowhere", r"factorize\.start .*nowhere is not a folder"),
    ):
        with pytest.raises(BadInput, match=sentence):
            student(place, tmp_path / "out", start=str(tmp_path / start), budget=0.9)
    with pytest.raises(BadInput, match=r"^factorize\.start outputs/prune/nowhere/6x192 is not a folder"):
        student(place, tmp_path / "out", start="outputs/prune/nowhere/6x192", budget=0.9)
    with pytest.raises(ValueError, match="start small is taken as it is"):
        Factorize(start="small", hidden_size=8)


def test_later_verbs_take_a_plain_student(place, tmp_path):
    """Scored, distilled on the logits, and exported."""
    import onnxruntime

    from stages.distill import distill
    from stages.evaluate import evaluate
    from stages.graph.trace import trace

    student(place, tmp_path, layers="last", depth=1, budget=0.167)
    models = {"teacher": place / "teacher", "student": tmp_path / "model"}
    scored = evaluate(Evaluate(), data=place / "data", models=models, output=tmp_path, seed=1, run=Run())
    assert scored["student"]["layer_parameters"] * 6 == scored["teacher"]["layer_parameters"]
    (tmp_path / "distilled").mkdir()
    none = dict.fromkeys(Distill().objectives.active())
    distill(
        Distill(epochs=0.2, log_every=1, objectives=none | {"kl": {"weight": 1.0}}),
        data=place / "data",
        teacher=models["teacher"],
        student=models["student"],
        output=tmp_path / "distilled",
        state=tmp_path / "state",
        seed=1,
        run=Run(),
    )
    trained = load(tmp_path / "distilled/model")
    assert type(trained).__name__ == "BertForSequenceClassification" and trained.config.num_hidden_layers == 1
    trace(trained, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    feed = {name: tensor.numpy() for name, tensor in sentences().items()}
    found = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["logits"], feed)[0]
    assert torch.allclose(torch.from_numpy(found), outputs(trained, sentences()), atol=1e-5)
