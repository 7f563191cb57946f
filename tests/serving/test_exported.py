"""Only whole folders are opened, by the class for their kind; anything else is refused with what would work."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from serving.exported import ModelError
from serving.generator import Generator
from serving.opening import open_model
from serving.predictor import Predictor
from stages.graph.card import write_manifest


@pytest.fixture
def copy(exported_reviews: Path, tmp_path: Path) -> Path:
    """An exported folder to damage."""
    return Path(shutil.copytree(exported_reviews / "exported", tmp_path / "copy"))


@pytest.mark.parametrize("file", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_a_changed_file_is_refused(copy: Path, file: str) -> None:
    blob = bytearray((copy / file).read_bytes())
    blob[len(blob) // 2] ^= 1
    (copy / file).write_bytes(blob)
    with pytest.raises(ModelError, match=f"{file} differs from its checksum"):
        Predictor(copy)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_graph_of_other_labels_is_refused(copy: Path, labels: int) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"id2label": {str(i): f"l{i}" for i in range(labels)}}
    (copy / "config.json").write_text(json.dumps(config))
    write_manifest(copy, json.loads((copy / "manifest.json").read_text()))
    with pytest.raises(ModelError, match=rf"config\.json names {labels} labels"):
        Predictor(copy)


def test_a_missing_file_is_refused(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        Predictor(copy)


def test_a_missing_variant_is_refused_with_those_that_exist(copy: Path, exported_llama: Path) -> None:
    with pytest.raises(ModelError, match=r"variant fp16 is not in .*; it has fp32, int8"):
        Predictor(copy, "fp16")
    with pytest.raises(ModelError, match="variant fp16 is not in"):
        Generator(exported_llama / "onnx", "fp16")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no manifest"):
        Predictor(tmp_path)


def test_a_model_of_another_kind_is_refused(copy: Path, exported_llama: Path) -> None:
    with pytest.raises(ModelError, match=r"holds a model for causal_lm; open it with serving\.opening\.open_model"):
        Predictor(exported_llama / "onnx")
    with pytest.raises(ModelError, match=r"holds a model for classification; open it with serving\.opening\."):
        Generator(copy)
    assert isinstance(open_model(copy), Predictor) and isinstance(open_model(exported_llama / "onnx"), Generator)


def test_a_decoders_changed_file_is_refused(exported_llama: Path, tmp_path: Path) -> None:
    decoder = Path(shutil.copytree(exported_llama / "onnx", tmp_path / "decoder"))
    (decoder / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match="differs from its checksum"):
        Generator(decoder)


@pytest.mark.filterwarnings("error")
def test_cuda_that_fell_back_is_an_error(exported_reviews: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match="fell back to CPUExecutionProvider"):
        Predictor(exported_reviews / "exported", provider="cuda")
