"""Graph rewrites: the function stays, operators go, and unknown surroundings are left alone."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from stages.graph import rewrite
from stages.graph.rewrites.attention import flatten_attention
from stages.graph.rewrites.first_token import keep_first_token
from stages.graph.rewrites.padding import simplify_padding
from stages.graph.rewrites.residual import sum_residuals
from stages.graph.trace import trace_classifier
from stages.lowrank.assemble import assemble_low_rank
from stages.models.anatomy import ModelParts

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random BERT (2 layers x 32) and a low-rank one, as the exporter writes them."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    dense = BertForSequenceClassification(config).eval()
    for name, parameter in dense.named_parameters():  # also biases and norms, which start as zeros and ones
        torch.nn.init.normal_(parameter, mean=float(name.endswith("Norm.weight")), std=0.3)
    shapes = {name: dense.get_submodule(name).weight.shape for name in ModelParts(dense).list_matrix_names()}
    factors = {name: (torch.randn(out, 8) * 0.3, torch.randn(8, into) * 0.3) for name, (out, into) in shapes.items()}
    folder = tmp_path_factory.mktemp("traced")
    models = {"dense": dense, "low-rank": assemble_low_rank(dense, factors)}
    for name, model in models.items():
        trace_classifier(model, INPUTS, folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in models}


def rewrite_copy(path: Path, target: Path) -> onnx.ModelProto:
    """A copy after all rewrites."""
    target.write_bytes(path.read_bytes())
    rewrite.rewrite_graph(target)
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    return model


def compute_logits(path: Path, batch: int, length: int) -> np.ndarray:
    """Of random texts, padded on the right, the last one in its middle, too."""
    draw = np.random.default_rng(length)
    feed = {name: np.zeros((batch, length), np.int64) for name in INPUTS}
    feed["input_ids"], feed["token_type_ids"] = (draw.integers(0, top, (batch, length)) for top in (100, 2))
    for row, own in enumerate(feed["attention_mask"]):
        own[: length - row] = 1
    feed["attention_mask"][-1, length // 2 : length // 2 + batch // 3] = 0
    return onnxruntime.InferenceSession(path).run(["logits"], feed)[0]


def name_steps(steps: list) -> str:
    return " ".join(step.__name__ for step in steps)


def count_operators(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("steps", [rewrite.REWRITES, *([step] for step in rewrite.REWRITES)], ids=name_steps)
@pytest.mark.parametrize("name", ["dense", "low-rank"])
def test_each_rewrite_changes_the_graph_and_not_the_function(
    name: str, steps: list, traced: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All together, and one by one."""
    monkeypatch.setattr(rewrite, "REWRITES", steps)
    changed = rewrite_copy(traced[name], tmp_path / "model.onnx")
    assert count_operators(changed) != count_operators(onnx.load(traced[name]))
    shapes = ((1, 2), (1, 12), (6, 9), (3, 40))
    before = np.concatenate([compute_logits(traced[name], *shape) for shape in shapes])
    after = np.concatenate([compute_logits(tmp_path / "model.onnx", *shape) for shape in shapes])
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    assert before.std() > 0.02, "texts that all give the same prove nothing"


@pytest.mark.parametrize("name", ["dense", "low-rank"])
def test_what_is_left_of_the_graph(name: str, traced: dict[str, Path], tmp_path: Path) -> None:
    """No head is moved, no mask is gathered, and ONNX Runtime brings no slow fusion back."""
    left = count_operators(rewrite_copy(traced[name], tmp_path / "model.onnx"))
    assert not left.keys() & {"Transpose", "Reshape", "GatherND", "Range", "And"}
    assert left["Attention"] == left["Gelu"] == 2 and left["Sum"] == left["LayerNormalization"] == 5
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    assert "SkipLayerNormalization" not in count_operators(onnx.load(tmp_path / "optimized.onnx"))


def test_the_last_layer_sees_one_token(traced: dict[str, Path], tmp_path: Path) -> None:
    """Behind the last Attention everything is (batch, 1, width); keys and values still are of all tokens."""
    rewrite_copy(traced["low-rank"], tmp_path / "model.onnx")
    nodes = list(ir.load(tmp_path / "model.onnx").graph)
    last = max(i for i, node in enumerate(nodes) if node.op_type == "Attention")
    behind = [node.outputs[0].shape for node in nodes[last:] if node.outputs[0].shape.rank() == 3]
    assert len(behind) == 15 and all(shape[1] == 1 for shape in behind)
    query, key, value = (part.shape[1] for part in nodes[last].inputs[:3])
    assert query == 1 and key == value != 1


WIDE = "float[batch, length, 8] x, int64[batch, length] attention_mask"


def make_graph(body: str, outputs: str, inputs: str = WIDE) -> ir.Model:
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
    made ({inputs}) => ({outputs})
    <int64 zero = {{0}}, int64 one = {{1}}, int64[2] middle = {{1, 2}}, float[8] g = {{1, 2, 3, 4, 5, 6, 7, 8}},
     float[2, 8] words = {{1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1}}>
    {{ {body} }}"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(model)


HEAD = "hidden = LayerNormalization<axis = -1>(x, g) first = Gather<axis = 1>(hidden, {index})"
FIRST = "float[batch, 8] first"


@pytest.mark.parametrize(
    ("body", "outputs", "cut"),
    [
        (HEAD.format(index="zero"), FIRST, True),
        (HEAD.format(index="one"), FIRST, False),
        (HEAD.format(index="zero").replace("axis = 1", "axis = 0"), "float[length, 8] first", False),
        (HEAD.format(index="zero").replace("axis = -1", "axis = 1").replace(", g)", ", x)"), FIRST, False),
        (HEAD.format(index="zero") + "mean = ReduceMean<keepdims = 0>(hidden, one)", f"{FIRST}, float[batch, 8] mean",
         False),
    ],
    ids=["the first", "the second", "another axis", "a norm over tokens", "a mean, too"],
)  # fmt: skip
def test_only_what_nothing_else_reads_is_cut(body: str, outputs: str, cut: bool) -> None:
    model = make_graph(body, outputs)
    keep_first_token(model.graph)
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert (norm.inputs[0].name != "x") == cut


ATTENTION = """{mask} y = Attention<q_num_heads = 2, kv_num_heads = 2{causal}>(x, x, x, mask)
    first = Gather<axis = 1>(y, zero)"""
PADDING = """real = Cast<to = 9>(attention_mask) keys = Unsqueeze(real, middle) size = Shape<start = 1>(attention_mask)
    lead = Constant<value_ints = [1, 1]>() last = Constant<value_ints = [1]>()
    square = Concat<axis = 0>(lead, size, last) bare = Expand(keys, square) mask = {then}(bare)"""


@pytest.mark.parametrize("causal", ["", ", is_causal = 1"])
def test_a_query_is_cut_unless_attention_is_causal(causal: str) -> None:
    """A causal kernel would take the one query for the last token."""
    model = make_graph(ATTENTION.format(mask=PADDING.format(then="Identity"), causal=causal), FIRST)
    keep_first_token(model.graph)
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert (node.inputs[0].name == "x") == bool(causal) and node.inputs[1].name == "x"


@pytest.mark.parametrize(("then", "known"), [("Identity", True), ("Not", False)])
def test_only_a_mask_that_is_the_padding_is_replaced(then: str, known: bool) -> None:
    body = "x = Gather(words, input_ids)" + ATTENTION.format(mask=PADDING.format(then=then), causal="")
    model = make_graph(body, FIRST, "int64[batch, length] input_ids, int64[batch, length] attention_mask")
    simplify_padding(model.graph)
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert (node.inputs[3].producer().op_type == "Expand") == known


def test_unknown_surroundings_are_left_alone() -> None:
    """Attention that keeps its cache, a norm behind something else than an addition."""
    body = "y, k, v = Attention<q_num_heads = 2, kv_num_heads = 2>(x, x, x) first = LayerNormalization<axis = -1>(y, g)"
    model = make_graph(body, "float[batch, length, 8] first")
    before = [node.op_type for node in model.graph]
    for step in (flatten_attention, sum_residuals):
        step(model.graph)
    assert [node.op_type for node in model.graph] == before
