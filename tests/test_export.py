"""Export: the folder is the model, for every family, and what is worse than it should be does not ship."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from stages.evaluate import evaluate
from stages.export import export, known_as
from stages.factorize import factorize
from stages.finetune import finetune
from stages.graph import quantize
from stages.graph.folder import Folder
from stages.graph.rewrite import rewrite
from stages.graph.subject import subject
from stages.graph.trace import trace
from stages.graph.triton import write_model
from stages.models.base import load
from stages.prepare import prepare
from stages.settings import BadInput, Base, Data, Evaluate, Export, Factorize, Finetune, Prepare
from stages.tasks import Task
from stages.tasks.batches import predict
from stages.tasks.splits import read_split
from stages.tracking import Run

REVIEWS = Task(text=["text"], labels=["bad", "good"])


@pytest.fixture(scope="module")
def chain(tmp_path_factory, tiny_model, tiny_data) -> Path:
    """Data, a trained teacher, a low-rank student, their scores, and both exported."""
    place, base = tmp_path_factory.mktemp("chain"), Base(model=str(tiny_model))
    for name in ("prepare", "finetune", "factorize", "evaluate", "teacher", "student"):
        (place / name).mkdir()
    data = place / "prepare/data"
    prepare(
        name="reviews",
        task=REVIEWS,
        data=Data(source=str(tiny_data), custom={"reviews": REVIEWS}),
        base=base,
        settings=Prepare(max_length=32),
        seed=1,
        output=place / "prepare",
        run=Run(),
    )
    finetune(
        Finetune(epochs=12, batch_size=16, learning_rate=1e-3),
        base=base,
        data=data,
        output=place / "finetune",
        state=place / "state",
        seed=1,
        run=Run(),
    )
    factorize(
        Factorize(budget=0.95, multiple_of=1),
        data=data,
        teacher=place / "finetune/model",
        output=place / "factorize",
        seed=1,
        run=Run(),
    )
    models = {"teacher": place / "finetune/model", "student": place / "factorize/model"}
    evaluate(Evaluate(bootstrap=100), data=data, models=models, output=place / "evaluate", seed=1, run=Run())
    export_chain(place, place / "teacher", place / "student", Export(variants=["portable", "fp16", "int8"]))
    return place


def export_chain(place: Path, teacher: Path, student: Path, settings: Export) -> dict[str, Any]:
    triton = student.with_name("triton")
    triton.mkdir()
    return export(
        settings,
        name="reviews",
        base="tiny",
        max_length=32,
        data=place / "prepare/data",
        teacher=place / "finetune/model",
        student=place / "factorize/model",
        evaluation=place / "evaluate/metrics.json",
        output=student,
        teacher_output=teacher,
        triton_output=triton,
        seed=1,
        run=Run(),
    )


def folder(place: Path, output: Path, **settings) -> Folder:
    """The student's once more; its graph is the one that is there, as another trace would be (export twice)."""
    output.mkdir()
    facts = {"name": "reviews", "role": "student"}
    made = subject(place / "factorize/model", REVIEWS, place / "prepare/data", 32)
    made.trace = lambda path, opset: shutil.copy(place / "student/onnx/model.onnx", path)
    return Folder(output, Export(**settings), facts, made)


def student_score(place: Path) -> float:
    return json.loads((place / "evaluate/metrics.json").read_text())["student"]["score"]


def test_every_variant_stays_near_pytorch(chain: Path) -> None:
    rows = json.loads((chain / "student/manifest.json").read_text())["variants"]
    assert rows["fp32"]["difference"] < 1e-5
    assert rows["portable"]["difference"] < 1e-5
    assert rows["fp32"]["score"] == student_score(chain) > 70
    assert rows["int8"]["bytes"] < rows["fp16"]["bytes"] < rows["fp32"]["bytes"]
    assert rows["int8"]["agreement"] > 95
    assert [rows[name]["opset"] for name in ("fp32", "portable")] == [23, 18]


def test_dense_and_low_rank_attention_stay_one_node(chain: Path) -> None:
    for side in ("teacher", "student"):
        graph = onnx.load(chain / side / "onnx/model.onnx").graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("Attention") == kinds.count("Gelu") == 2


def test_graphs_name_no_local_folder(chain: Path) -> None:
    for path in chain.rglob("*.onnx"):
        assert str(Path(quantize.__file__).parent.parent.parent).encode() not in path.read_bytes()


def test_folder_opens_as_the_base_architecture(chain: Path) -> None:
    config = json.loads((chain / "student/config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}


def test_a_stranger_runs_the_lines_of_the_card(chain: Path) -> None:
    """The code in README.md, as it stands there, against PyTorch on the same two texts."""
    from transformers import AutoTokenizer

    card = (chain / "student/README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("print(logits)", "print(logits.tolist())")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=chain / "student", capture_output=True, text=True, check=True
    )
    tokenizer = AutoTokenizer.from_pretrained(chain / "prepare/data/tokenizer")
    batch = tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = load(chain / "factorize/model")(**batch).logits
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-5)


def test_card_tells_the_figures(chain: Path) -> None:
    card = (chain / "student/README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: onnx" in front and "pipeline_tag: text-classification" in front
    assert "A low-rank student of" in card and "tags: [onnx, low-rank, distillation]" in front
    assert "low-rank" not in (chain / "teacher/README.md").read_text()
    assert f"{student_score(chain):.2f}" in card and "onnx/model_int8.onnx" in card


def test_export_twice_gives_the_same_bytes(chain: Path, tmp_path: Path) -> None:
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    again = export_chain(chain, tmp_path / "teacher", tmp_path / "student", Export(variants=["int8"]))
    before = json.loads((chain / "student/manifest.json").read_text())
    for file in ("onnx/model.onnx", "onnx/model_int8.onnx", "tokenizer.json", "config.json"):
        assert again["files"][file] == before["files"][file]


def test_smoothing_changes_nothing_but_the_ranges(chain: Path) -> None:
    """The smoothed float graph computes the same; outlier channels of the activations are gone."""
    import onnxruntime

    model = onnx.load(chain / "student/onnx/model.onnx")
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 120, size=(3, 9))
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, batch)[0]
    ranges = quantize._ranges(model, [batch])
    quantize.smooth(model, ranges)
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, batch)[0]
    np.testing.assert_allclose(after, before, atol=1e-4)
    spread = [np.log(r.max() / max(np.median(r), 1e-6)) for r in ranges.values()]
    smoothed = [np.log(r.max() / max(np.median(r), 1e-6)) for r in quantize._ranges(model, [batch]).values()]
    assert np.mean(smoothed) < np.mean(spread)


def test_wrecked_int8_is_refused_with_both_figures(chain: Path, tmp_path: Path, monkeypatch) -> None:
    """Weights rounded after a nonsense scale: the score falls, and the file is not there."""
    real = quantize._ranges

    def wrecked(model, texts):
        rng = np.random.default_rng(0)
        return {name: 10 ** rng.uniform(-12, 12, largest.shape) for name, largest in real(model, texts).items()}

    monkeypatch.setattr(quantize, "_ranges", wrecked)
    made = folder(chain, tmp_path / "out", int8_score_drop=0.5)
    made.build(["int8"], evaluated=student_score(chain), seed=1)
    row = made.facts["variants"]["int8"]
    assert f"{row['score']:.2f} against {student_score(chain):.2f}" in row["refused"]
    assert "file" not in row and not (tmp_path / "out/onnx/model_int8.onnx").exists()


def test_tolerance_is_a_gate(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"export\.tolerance is 1e-12"):
        folder(chain, tmp_path / "out", tolerance=1e-12).build([], evaluated=student_score(chain), seed=1)


def test_another_score_than_evaluates_is_an_error(chain: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run evaluate again"):
        folder(chain, tmp_path / "out").build([], evaluated=student_score(chain) - 10, seed=1)


def test_pairs_and_values(tmp_path: Path, tiny_model: Path) -> None:
    """A regression over two texts: the folder's values are PyTorch's, from raw pairs."""
    from transformers import AutoTokenizer

    from serving.predictor import ModelError, Predictor
    from stages.models.base import load_classifier

    task = Task(kind="regression", text=["a", "b"], metrics=["pearson"])
    rows = [f"the film is great number {i},the plot {'again ' * (i % 5)}is dull,{i % 7 / 2}" for i in range(24)]
    source, base = tmp_path / "source/similar", Base(model=str(tiny_model))
    source.mkdir(parents=True)
    for split in ("train", "validation"):
        (source / f"{split}.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    output = tmp_path / "out"
    output.mkdir()
    custom = Data(source=str(tmp_path / "source"), custom={"similar": task})
    prepare(
        name="similar",
        task=task,
        data=custom,
        base=base,
        settings=Prepare(max_length=16),
        seed=1,
        output=tmp_path,
        run=Run(),
    )
    torch.manual_seed(0)
    model = load_classifier(base, task)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "model")
    split, tokenizer = read_split(tmp_path / "data", "validation"), AutoTokenizer.from_pretrained(tiny_model)
    expected, labels = predict(model, split, tokenizer, 8, "expected")
    evaluated = 100 * float(np.corrcoef(expected[:, 0], labels)[0, 1])
    model = subject(tmp_path / "model", task, tmp_path / "data", 16)
    made = Folder(output, Export(), {"name": "similar", "role": "teacher"}, model)
    made.build([], evaluated=evaluated, seed=1)
    predictor = Predictor(output)
    found = predictor.predict(list(zip(split["text"], split["text_pair"], strict=True)))
    np.testing.assert_allclose([row["score"] for row in found], expected[:, 0], atol=1e-4)
    assert max(len(e.ids) for e in predictor.encode([("film " * 40, "plot " * 40)])) == 16
    with pytest.raises(ModelError, match="a pair of texts"):
        predictor.predict(["one text"])


SHAPE = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "initializer_range": 0.5,
}
FAMILIES = {
    "roberta": {**SHAPE, "pad_token_id": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, **SHAPE},
    "electra": {**SHAPE, "embedding_size": 8},
    "deberta-v2": {
        **SHAPE,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    """Random models with large weights: the graph, traced or rewritten, gives PyTorch's logits at many shapes."""
    import onnxruntime
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **FAMILIES[family])
    model = AutoModelForSequenceClassification.from_config(config).eval()
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (family == "electra")
    trace(model, names, tmp_path / "model.onnx")
    sessions = [onnxruntime.InferenceSession(tmp_path / "model.onnx")]
    rewrite(tmp_path / "model.onnx")
    sessions.append(onnxruntime.InferenceSession(tmp_path / "model.onnx"))
    seen = []
    for shape in [(1, 2), (1, 38), (3, 17), (5, 9)]:
        batch = {name: torch.zeros(shape, dtype=torch.int64) for name in names}
        batch["input_ids"] = torch.randint(5, 100, shape)
        batch["attention_mask"] += 1
        for row in range(1, shape[0]):
            batch["attention_mask"][row, -row:] = 0
            batch["input_ids"][row, -row:] = config.pad_token_id
        with torch.inference_mode():
            expected = model(**batch).logits.numpy()
        for session in sessions:
            got = session.run(["logits"], {name: tensor.numpy() for name, tensor in batch.items()})[0]
            np.testing.assert_allclose(got, expected, atol=1e-4)
        seen.append(expected)
    assert np.concatenate(seen).std() > 0.1


def test_unknown_architecture_is_named() -> None:
    class Strange(torch.nn.Module):
        config = type("Config", (), {"model_type": "strange", "max_position_embeddings": 40})

        def set_attn_implementation(self, name: str) -> None: ...

        def forward(self, input_ids):
            return type("Out", (), {"logits": torch.tensor([float(input_ids.sum().item())])})

    with pytest.raises(BadInput, match="cannot take strange at opset 23"):
        trace(Strange(), ["input_ids"], Path("never.onnx"))


def test_card_never_names_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "my-bert").mkdir()
    assert known_as(str(tmp_path / "my-bert")) == "my-bert"
    assert known_as("minilm") == "sentence-transformers/all-MiniLM-L6-v2"
    assert known_as("bert-base-uncased") == "bert-base-uncased"


def test_a_graph_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    from stages.graph.check import difference

    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BadInput, match=r"ONNX Runtime cannot run model\.onnx"):
        difference(torch.nn.Identity(), tmp_path / "model.onnx", [])


def test_triton_gets_the_portable_graph_and_its_shapes(chain: Path) -> None:
    """What the configuration says of inputs and outputs is what ONNX Runtime finds in the graph beside it."""
    graph, text = chain / "triton/1/model.onnx", (chain / "triton/config.pbtxt").read_text()
    assert graph.read_bytes() == (chain / "student/onnx/model_portable.onnx").read_bytes()
    found = re.findall(r'\{ name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \]', text)
    session = InferenceSession(graph)
    types = {"tensor(int64)": "INT64", "tensor(float)": "FP32"}
    for value, (name, kind, dims) in zip([*session.get_inputs(), *session.get_outputs()], found, strict=True):
        free = [dim if isinstance(dim, int) else -1 for dim in value.shape[1:]]
        assert (value.name, types[value.type], free) == (name, kind, [int(dim) for dim in dims.split(",")])
    assert (chain / "triton/labels.txt").read_text().splitlines() == REVIEWS.labels


def test_triton_reads_its_configuration(chain: Path) -> None:
    """Parsed by Triton's own message type; its module is loaded by itself, without the gRPC around it."""
    found = importlib.util.find_spec("tritonclient")
    if found is None:
        pytest.skip("tritonclient is not installed")
    from google.protobuf import text_format

    place = Path(found.submodule_search_locations[0], "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", place)
    spec.loader.exec_module(messages := importlib.util.module_from_spec(spec))
    config = text_format.Parse((chain / "triton/config.pbtxt").read_text(), messages.ModelConfig())
    assert config.backend == "onnxruntime" and config.max_batch_size > 1
    assert [tensor.name for tensor in config.input][:2] == ["input_ids", "attention_mask"]
    assert config.output[0].label_filename == "labels.txt"


def test_triton_gets_fp32_where_the_wanted_graph_was_refused(tmp_path: Path) -> None:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "model.onnx")
    rows = {"fp32": {"file": "model.onnx"}, "int8": {"refused": "accuracy 50 against 80"}}
    (tmp_path / "out").mkdir()
    assert write_model(tmp_path, {"variants": rows, "task": {"labels": []}}, "int8", tmp_path / "out") == "fp32"
    assert not (tmp_path / "out/labels.txt").exists()
