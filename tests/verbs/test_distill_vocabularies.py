"""distill and factorize refuse language models whose token ids mean different tokens."""

import json
import shutil
from pathlib import Path

import pytest

from stages.distill import distill
from stages.errors import BadInput
from stages.factorize import factorize
from stages.settings import Calibration, Distill, Factorize
from tests.makers.chains import SHORT_CAUSAL
from tests.makers.runs import make_work


def exchange_two_tokens(model: Path, folder: Path) -> tuple[str, str]:
    """A copy of the model whose tokenizer has ids 5 and 9 exchanged; returns their tokens in the model."""
    shutil.copytree(model, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    tokens = {number: token for token, number in words.items() if number in (5, 9)}
    words[tokens[5]], words[tokens[9]] = 9, 5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return tokens[5], tokens[9]


def test_other_vocabularies_are_refused_before_training(causal_chain: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(causal_chain / "finetune/model", vocab_size=400)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(
        BadInput, match=r"the student has 400 tokens and the teacher \d+: their logits cannot be compared"
    ):
        distill(
            Distill(**SHORT_CAUSAL),
            make_work(tmp_path / "out"),
            data=causal_chain / "prepare/data",
            teacher=causal_chain / "finetune/model",
            student=tmp_path / "other",
        )


@pytest.mark.parametrize("causal_chain", ["sums"], indirect=True)
def test_tokens_of_other_ids_are_refused_although_they_are_as_many(causal_chain: Path, tmp_path: Path) -> None:
    """A student, a teacher and a pretrained student whose tokenizer has two ids exchanged."""
    other, data = tmp_path / "other", causal_chain / "prepare/data"
    five, nine = exchange_two_tokens(causal_chain / "finetune/model", other)
    models = {"student": causal_chain / "factorize/model", "teacher": causal_chain / "finetune/model"}
    for name in models:
        with pytest.raises(BadInput) as refusal:
            distill(Distill(**SHORT_CAUSAL), make_work(tmp_path / "out"), data=data, **models | {name: other})
        sentence = f"the {name} means {nine!r} by token 5, and the prepared text {five!r}"
        assert str(refusal.value).startswith(sentence)
    with pytest.raises(
        BadInput,
        match=r"^factorize\.pretrained_student .*other means .* by token 5, the teacher .*; start from a m",
    ):
        factorize(
            Factorize(pretrained_student=str(other)),
            make_work(tmp_path / "a"),
            data=data,
            teacher=models["teacher"],
        )
    for file in other.glob("*token*"):
        file.unlink()
    settings = Factorize(pretrained_student=str(other), multiple_of=1, calibration=Calibration(examples=8))
    metrics = factorize(settings, make_work(tmp_path / "b"), data=data, teacher=models["teacher"])
    assert metrics["share"] < 1, "a model without a tokenizer is taken at its word"
