"""Layer initialization: which of the teacher's layers a student has, and that they are the teacher's."""

from pathlib import Path

import pytest
import torch

from stages.distillation.capture import measure_shape
from stages.errors import BadInput
from stages.models.anatomy import ModelParts
from stages.models.layers import Layers, choose_layers, keep_layers
from stages.models.loading import load_checkpoint
from tests.makers import decoders
from tests.makers.decoders import make_decoder, read_token_logits
from tests.makers.encoders import FAMILIES, make_teacher


@pytest.mark.parametrize(
    ("layers", "depth", "teacher_depth", "expected"),
    [
        ("every", 3, 6, [2, 4, 6]),
        ("every", 2, 6, [3, 6]),
        ("every", 1, 6, [6]),
        ("every", 4, 6, [2, 3, 4, 6]),
        ("every", 5, 12, [2, 5, 7, 10, 12]),
        ("every", 6, 6, [1, 2, 3, 4, 5, 6]),
        ("first", 2, 6, [1, 2]),
        ("last", 2, 6, [5, 6]),
        ("all", 1, 3, [1, 2, 3]),
        ([2, 5], 9, 6, [2, 5]),
    ],
)
def test_which_layers_are_chosen(layers: Layers, depth: int, teacher_depth: int, expected: list[int]):
    assert choose_layers(layers, depth, teacher_depth) == expected


@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2"])
def test_an_encoders_layers_are_the_teachers(family: str):
    teacher = make_teacher(family, layers=4)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = keep_layers(teacher, [2, 4])
    paths = {"distilbert": "distilbert.transformer.layer", "xlm-roberta": "roberta.encoder.layer"}
    path = paths.get(family, f"{family.removesuffix('-v2')}.encoder.layer")
    weights = student.state_dict()
    numbers = {name.split(".")[3] for name in weights if name.startswith(path)}
    assert student.config.num_hidden_layers == 2 and numbers == {"0", "1"}
    for name, value in weights.items():
        source = name.replace(f"{path}.1.", f"{path}.3.").replace(f"{path}.0.", f"{path}.1.")
        assert torch.equal(value, before[source]), name
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items()), "the teacher changed"


@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_a_decoders_layers_are_the_teachers(family: str):
    teacher = make_decoder(family, layers=4)
    student, path = keep_layers(teacher, [2, 4]), ModelParts(teacher).layers_path
    assert student.config.num_hidden_layers == 2
    weights = teacher.state_dict()
    for name, value in student.state_dict().items():
        source = name.replace(f"{path}.1.", f"{path}.3.").replace(f"{path}.0.", f"{path}.1.")
        assert torch.equal(value, weights[source]), name


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", decoders.FAMILIES)
def test_a_decoder_with_fewer_layers_is_a_plain_model(family: str, tied: bool, tmp_path: Path):
    """The Auto class loads it without any code of ours."""
    from transformers import AutoModelForCausalLM

    model = keep_layers(make_decoder(family, layers=3, tie_word_embeddings=tied), [1, 3])
    measure_shape(ModelParts(model))  # leaves it as it is
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model) and not any(report.values())
    expected = read_token_logits(model)
    assert torch.equal(read_token_logits(loaded.eval()), expected)
    assert torch.equal(read_token_logits(load_checkpoint(tmp_path)), expected)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


def test_layers_keep_their_sliding_windows():
    teacher = make_decoder("qwen2", layers=4, use_sliding_window=True, sliding_window=3, max_window_layers=2)
    assert measure_shape(ModelParts(teacher)).windows == {3: 3, 4: 3}
    assert measure_shape(ModelParts(keep_layers(teacher, [2, 4]))).windows == {2: 3}


def test_layers_whose_number_counts_are_not_cut():
    with pytest.raises(BadInput, match="scale_attn_by_inverse_layer_idx"):
        keep_layers(make_decoder("gpt2", scale_attn_by_inverse_layer_idx=True), [2])
