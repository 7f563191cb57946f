"""Export: the folder is the model, and says what it is."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import torch

from stages.export import name_base_model
from stages.graph import quantize
from stages.models.loading import load_checkpoint
from stages.settings import Export
from tests.makers.exports import export_chain, read_student_score


def test_every_variant_stays_near_pytorch(review_chain: Path) -> None:
    rows = json.loads((review_chain / "student/manifest.json").read_text())["variants"]
    assert rows["fp32"]["difference"] < 1e-5
    assert rows["portable"]["difference"] < 1e-5
    assert rows["fp32"]["score"] == read_student_score(review_chain) > 70
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["fp32"]["bytes"]
    assert rows["int8"]["agreement"] > 95
    assert [rows[name]["opset"] for name in ("fp32", "portable")] == [23, 18]


def test_dense_and_low_rank_attention_stay_one_node(review_chain: Path) -> None:
    for side in ("teacher", "student"):
        graph = onnx.load(review_chain / side / "onnx/model.onnx").graph
        operators = [node.op_type for node in graph.node]
        assert operators.count("Attention") == operators.count("Gelu") == 2


def test_graphs_name_no_local_folder(review_chain: Path) -> None:
    for path in review_chain.rglob("*.onnx"):
        assert str(Path(quantize.__file__).parent.parent.parent).encode() not in path.read_bytes()


def test_the_folder_opens_as_the_base_architecture(review_chain: Path) -> None:
    config = json.loads((review_chain / "student/config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}


def test_the_code_on_the_card_runs_as_it_stands(review_chain: Path) -> None:
    """The code in README.md against PyTorch on the same two texts."""
    from transformers import AutoTokenizer

    card = (review_chain / "student/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("print(logits)", "print(logits.tolist())")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=review_chain / "student", capture_output=True, text=True, check=True
    )
    tokenizer = AutoTokenizer.from_pretrained(review_chain / "prepare/data/tokenizer")
    batch = tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = load_checkpoint(review_chain / "factorize/model")(**batch).logits
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_the_card_has_the_figures(review_chain: Path) -> None:
    card = (review_chain / "student/README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: onnx" in front and "pipeline_tag: text-classification" in front
    assert "A low-rank student of" in card and "tags: [onnx, low-rank, distillation]" in front
    assert "low-rank" not in (review_chain / "teacher/README.md").read_text()
    assert f"{read_student_score(review_chain):.2f}" in card and "onnx/model_int8.onnx" in card


def test_export_twice_gives_the_same_bytes(review_chain: Path, tmp_path: Path) -> None:
    again = export_chain(review_chain, tmp_path, Export(variants=["int8"]))
    before = json.loads((review_chain / "student/manifest.json").read_text())
    for file in ("onnx/model.onnx", "onnx/model_int8.onnx", "tokenizer.json", "config.json"):
        assert again["files"][file] == before["files"][file]


def test_the_card_never_names_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "my-bert").mkdir()
    assert name_base_model(str(tmp_path / "my-bert")) == "my-bert"
    assert name_base_model("minilm") == "sentence-transformers/all-MiniLM-L6-v2"
    assert name_base_model("bert-base-uncased") == "bert-base-uncased"
