"""factorize, on a task: a student cut from its teacher or from another model, plain where nothing is factorized."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from stages.errors import BadInput
from stages.factorize import factorize
from stages.models.anatomy import ModelParts
from stages.models.layers import keep_layers
from stages.models.loading import load_checkpoint
from stages.objectives import KL, Objectives
from stages.settings import Calibration, Distill, Evaluate, Factorize
from tests.makers.encoders import make_batch, make_teacher, read_logits
from tests.makers.runs import make_work, prepare_task, read_weights
from tests.makers.texts import REVIEWS


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """A prepared task and a random teacher of six layers, saved as finetune does."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("prepared")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    teacher = make_teacher("bert", vocab_size=len(tokenizer), max_position_embeddings=128)
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    prepare_task(tiny_model, tiny_data, folder, "reviews", REVIEWS)
    return folder


def run_factorize(folder: Path, output: Path, **settings: Any) -> dict[str, Any]:
    """Makes a student of the prepared teacher."""
    return factorize(
        Factorize(multiple_of=1, calibration=Calibration(examples=1000), **settings),
        make_work(output),
        data=folder / "data",
        teacher=folder / "teacher",
    )


def save_narrow_model(prepared: Path, folder: Path, words: int | None = None) -> float:
    """Saves a pretrained model without a task's head, narrower than the teacher; returns its share of the layers."""
    from transformers import BertConfig, BertModel

    config = BertConfig.from_pretrained(prepared / "teacher")
    config.hidden_size, config.intermediate_size = 16, 64
    config.vocab_size = words or config.vocab_size
    model = BertModel(config)
    model.save_pretrained(folder)
    teacher = load_checkpoint(prepared / "teacher")
    return ModelParts(model).count_layer_parameters() / ModelParts(teacher).count_layer_parameters()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": "every"}, {"layers": [2, 4, 6], "hidden_size": 32, "intermediate_size": 64}),
        (
            {"hidden_size": 16, "budget": 0.3},
            {"layers": [1, 2, 3, 4, 5, 6], "hidden_size": 16, "intermediate_size": 42},
        ),
        ({"budget": 1.0}, {"layers": [1, 2, 3, 4, 5, 6], "hidden_size": 32, "intermediate_size": 64}),
    ],
)
def test_a_student_without_factors_is_a_plain_model(
    prepared: Path, tmp_path: Path, settings: dict[str, Any], expected: dict[str, Any]
):
    """The Auto class loads it whole, with no code of ours; tables and plots are written all the same."""
    from transformers import AutoModelForSequenceClassification

    metrics = run_factorize(prepared, tmp_path, **settings)
    student, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(student).__name__ == "BertForSequenceClassification" and not any(report.values())
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert {name: metrics[name] for name in expected} == expected
    assert 0.99 * settings.get("budget", 0.5) <= metrics["layer_share"] <= settings.get("budget", 0.5)
    assert (tmp_path / "spectra.png").is_file()
    table = pd.read_csv(tmp_path / "ranks.csv")
    assert table.empty and {"module", "rank", "output_error"} <= set(table.columns)
    if "hidden_size" not in settings:
        cut = keep_layers(load_checkpoint(prepared / "teacher"), expected["layers"])
        assert torch.equal(read_logits(student.eval(), make_batch()), read_logits(cut, make_batch()))


def test_calibration_runs_the_student_not_the_teacher(prepared: Path, tmp_path: Path):
    """The table's output error of a matrix behind a dropped layer is that on the cut model's own activations."""
    from stages.tasks.splits import read_split

    metrics = run_factorize(prepared, tmp_path, layers="every", budget=0.25)
    assert metrics["layers"] == [3, 6] and 0.2475 <= metrics["layer_share"] <= 0.25
    name, inputs = "bert.encoder.layer.1.attention.self.query", []
    dense = keep_layers(load_checkpoint(prepared / "teacher"), [3, 6])
    module, low_rank = dense.get_submodule(name), load_checkpoint(tmp_path / "model").base.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: inputs.append(args[0][0]))
    with torch.inference_mode():
        for ids in read_split(prepared / "data", "train")["input_ids"]:
            dense(torch.tensor([ids]))
        x = torch.cat(inputs).double()
        difference = module.double()(x) - low_rank.double()(x)
        error, size = ((y - y.mean(0)).norm() for y in (difference, x @ module.weight.T))
    table = pd.read_csv(tmp_path / "ranks.csv").set_index("module")
    assert len(table) == 12 and table.output_error[name] == pytest.approx(float(error / size), rel=1e-3)
    assert difference.mean(0).abs().max() < 1e-4, "the mean error goes to the bias"


def test_a_student_may_start_from_another_pretrained_model(prepared: Path, tmp_path: Path):
    """As it is where it fits the budget, factorized where it does not."""
    share = save_narrow_model(prepared, tmp_path / "small")
    small = str(tmp_path / "small")
    metrics = run_factorize(prepared, tmp_path / "whole", pretrained_student=small, budget=share)
    assert metrics["layer_share"] == pytest.approx(share) and metrics["hidden_size"] == 16
    source, student = read_weights(tmp_path / "small"), read_weights(tmp_path / "whole/model")
    encoder = [name for name in source if name.startswith("encoder")]
    assert encoder and all(torch.equal(source[name], student[f"bert.{name}"]) for name in encoder)
    metrics = run_factorize(prepared, tmp_path / "factors", pretrained_student=small, budget=0.6 * share)
    assert 0.99 * 0.6 * share <= metrics["layer_share"] <= 0.6 * share


def test_a_pretrained_student_that_cannot_be_is_refused(prepared: Path, tmp_path: Path):
    save_narrow_model(prepared, tmp_path / "small"), save_narrow_model(prepared, tmp_path / "other", words=77)
    for name, message in (
        ("small", r"\d+\.\d% of the teacher's parameters are too little for factorize\.budget 0\.9"),
        ("other", "has 77 words, the teacher "),
        ("nowhere", r"factorize\.pretrained_student .*nowhere is not a folder"),
    ):
        with pytest.raises(BadInput, match=message):
            run_factorize(prepared, tmp_path / "out", pretrained_student=str(tmp_path / name), budget=0.9)
    missing = "outputs/prune/nowhere/6x192"
    with pytest.raises(BadInput, match=rf"^factorize\.pretrained_student {missing} is not a folder"):
        run_factorize(prepared, tmp_path / "out", pretrained_student=missing, budget=0.9)
    with pytest.raises(ValueError, match="pretrained_student small is taken as it is"):
        Factorize(pretrained_student="small", hidden_size=8)


def test_later_verbs_take_a_plain_student(prepared: Path, tmp_path: Path):
    """Scored, distilled on the logits, and exported."""
    import onnxruntime

    from stages.distill import distill
    from stages.evaluate import evaluate
    from stages.graph.trace import trace_classifier

    run_factorize(prepared, tmp_path, layers="last", depth=1, budget=0.167)
    models = {"teacher": prepared / "teacher", "student": tmp_path / "model"}
    scores = evaluate(Evaluate(), make_work(tmp_path), data=prepared / "data", models=models)
    assert scores["student"]["layer_parameters"] * 6 == scores["teacher"]["layer_parameters"]
    distill(
        Distill(epochs=0.2, log_every=1, objectives=Objectives(kl=KL(weight=1.0))),
        make_work(tmp_path / "distilled"),
        data=prepared / "data",
        **models,
    )
    distilled = load_checkpoint(tmp_path / "distilled/model")
    assert type(distilled).__name__ == "BertForSequenceClassification" and distilled.config.num_hidden_layers == 1
    trace_classifier(distilled, ["input_ids", "attention_mask"], tmp_path / "model.onnx")
    feed = {name: tensor.numpy() for name, tensor in make_batch().items()}
    logits = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["logits"], feed)[0]
    assert torch.allclose(torch.from_numpy(logits), read_logits(distilled, make_batch()), atol=1e-5)
