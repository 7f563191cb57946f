"""An exported decoder whose answers are known: it goes on with the alphabet, and `.` ends a text."""

import hashlib
import json
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz."


def write_spelling_model(folder: Path) -> Path:
    """A folder as `export` writes it; the model reads 32 tokens."""
    (folder / "onnx").mkdir(parents=True)
    onnx.save(_make_graph(), folder / "onnx/model.onnx")
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": len(LETTERS) - 1}))
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "name": "letters",
        "task": {"kind": "causal_lm"},
        "positions": 32,
        "variants": {"fp32": {"file": "onnx/model.onnx"}},
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _make_graph() -> ModelProto:
    """The next letter has logit 9, all others 0; the cache holds what was read."""
    size = len(LETTERS)
    numbers = {"one": [1], "size": [size], "shape": [0, 1, -1, 1], "axis": [2]}
    node = helper.make_node
    nodes = [
        *(node("Constant", [], [name], value_ints=value) for name, value in numbers.items()),
        node("Constant", [], ["depth"], value_int=size),
        node("Constant", [], ["off_on"], value_floats=[0.0, 9.0]),
        node("Add", ["input_ids", "one"], ["after"]),
        node("Mod", ["after", "size"], ["next"]),
        node("OneHot", ["next", "depth", "off_on"], ["logits"]),
        node("Cast", ["input_ids"], ["read"], to=TensorProto.FLOAT),
        node("Reshape", ["read", "shape"], ["new"]),
        *(node("Concat", [f"past_key_values.0.{p}", "new"], [f"present.0.{p}"], axis=2) for p in ("key", "value")),
    ]
    info, cache = helper.make_tensor_value_info, ["batch", 1, "past", 1]
    ids = [info(name, TensorProto.INT64, ["batch", name]) for name in ("input_ids", "attention_mask", "position_ids")]
    past = [info(f"past_key_values.0.{part}", TensorProto.FLOAT, cache) for part in ("key", "value")]
    present = [info(f"present.0.{part}", TensorProto.FLOAT, ["batch", 1, "total", 1]) for part in ("key", "value")]
    logits = info("logits", TensorProto.FLOAT, ["batch", "input_ids", size])
    graph = helper.make_graph(nodes, "spell", ids + past, [logits, *present])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
