"""prune.factorize: students of fewer layers or low rank, cut at once and then trained on the corpus."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from stages.errors import BadInput
from stages.models.loading import load_checkpoint, load_classifier
from stages.objectives import KL, Objectives, Relations
from stages.settings import Base, Distill
from tests.makers.encoders import make_batch
from tests.makers.prune_runs import pretrain_teacher, run_prune


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The outputs of pack and pretrain."""
    folder = tmp_path_factory.mktemp("pretrained")
    pretrain_teacher(tiny_model, folder)
    return folder


def test_a_baseline_is_cut_at_once(pretrained: Path, tmp_path: Path):
    objectives = Objectives(kl=KL(), relations=Relations())
    settings = {
        "factorize": {"layers": "last", "depth": 1, "budget": 0.5},
        "objectives": objectives,
        "epochs": 3,
    }
    metrics = run_prune(pretrained, tmp_path, **settings)
    assert list(metrics) == ["teacher", "1x32", "training"]
    assert metrics["1x32"]["layer_parameters"] == metrics["teacher"]["layer_parameters"] / 2
    untrained = run_prune(pretrained, tmp_path / "untrained", **settings | {"learning_rate": 1e-9})
    assert metrics["1x32"]["discrepancy"] < untrained["1x32"]["discrepancy"]
    with pytest.raises(BadInput, match=r"raise prune\.factorize\.budget or lower prune\.factorize\.multiple_of$"):
        run_prune(pretrained, tmp_path / "coarse", factorize={"budget": 0.4})
    wrong = Objectives(relations=Relations(heads=5))
    with pytest.raises(BadInput, match=r"^prune\.objectives\.relations: "):
        run_prune(pretrained, tmp_path / "wrong", **settings | {"objectives": wrong})


def test_a_baseline_of_low_rank_is_trained_on_the_corpus(pretrained: Path, tmp_path: Path):
    """Its ranks come from the corpus; tied words stay tied; a classifier starts from it with all but the head."""
    settings = {"factorize": {"budget": 0.6, "multiple_of": 2}, "objectives": Distill().objectives}
    metrics = run_prune(pretrained, tmp_path, **settings)
    share = metrics["2x32-lowrank"]["layer_parameters"] / metrics["teacher"]["layer_parameters"]
    assert 0.594 <= share <= 0.6
    folder = tmp_path / "models/2x32-lowrank"
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), "nothing missing, nothing left over"
    assert model.base.get_output_embeddings().weight is model.get_input_embeddings().weight
    classifier = load_classifier(Base(model=str(folder)), ["bad", "fair", "good"])
    assert classifier.base.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    body = classifier.base.bert.encoder.state_dict()
    assert all(torch.equal(value, body[name]) for name, value in model.base.bert.encoder.state_dict().items())
    classifier.save_pretrained(tmp_path / "classifier")
    assert load_checkpoint(tmp_path / "classifier")(**make_batch()).logits.shape == (3, 3)
