"""finetune: a base model that cannot be a model of the task's kind, or taken as it is lacks weights, is refused."""

from pathlib import Path

import pytest

from stages.errors import BadInput
from tests.makers.chains import SHORT, SHORT_CAUSAL, run_finetune
from tests.makers.runs import measure_drift, prepare_task, read_weights
from tests.makers.texts import REVIEWS


def test_a_base_model_that_is_no_causal_language_model_is_refused(
    causal_chain: Path, tiny_model: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertLMHeadModel, LlamaModel

    data = causal_chain / "prepare/data"
    with pytest.raises(BadInput, match=r"base\.model .* has no weights for cls\.predictions"):
        run_finetune(data, tiny_model, tmp_path / "a", **SHORT_CAUSAL)
    BertLMHeadModel(BertConfig.from_pretrained(tiny_model)).save_pretrained(tmp_path / "bert")
    with pytest.raises(BadInput, match=r"base\.model .* is an encoder, which attends to later tokens"):
        run_finetune(data, tmp_path / "bert", tmp_path / "b", **SHORT_CAUSAL)
    LlamaModel.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "headless")
    with pytest.raises(BadInput, match=r"base\.model .* has no weights for lm_head"):
        run_finetune(data, tmp_path / "headless", tmp_path / "c", **SHORT_CAUSAL)


def test_a_classifier_as_it_is_needs_its_own_head_for_these_labels(
    tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    from transformers import BertForSequenceClassification

    data, _ = prepare_task(tiny_model, tiny_data, tmp_path / "p", "reviews", REVIEWS)
    untrained = SHORT | {"epochs": 0}
    with pytest.raises(BadInput, match=r"has no weights for classifier\.bias; give a checkpoint with all of them"):
        run_finetune(data, tiny_model, tmp_path / "a", **untrained)
    names = {"id2label": {0: "GOOD", 1: "BAD"}, "label2id": {"GOOD": 0, "BAD": 1}}
    BertForSequenceClassification.from_pretrained(tiny_model, **names).save_pretrained(tmp_path / "model")
    with pytest.raises(BadInput, match=r"has the labels good, bad, in this order, and the task bad, good"):
        run_finetune(data, tmp_path / "model", tmp_path / "b", **untrained)
    BertForSequenceClassification.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    run_finetune(data, tmp_path / "model", tmp_path / "c", **untrained)
    assert measure_drift(read_weights(tmp_path / "model"), read_weights(tmp_path / "c/model")) == 0
