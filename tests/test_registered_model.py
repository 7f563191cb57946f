"""An exported folder, logged and registered, answers text through MLflow as the predictor does."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

WORDS = {"[PAD]": 0, "[UNK]": 1, "fine": 2, "dull": 3, "a": 4, "film": 5}


def exported(folder: Path, pair: bool) -> Path:
    """A folder as `export` writes it, whose graph counts: `dull` against `fine`."""
    import onnx
    from onnx import TensorProto, helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    (folder / "onnx").mkdir(parents=True)
    nodes, outputs = [], []
    for name, word in {"negative": "dull", "positive": "fine"}.items():
        nodes += [
            helper.make_node("Constant", [], [f"{name}_id"], value_int=WORDS[word]),
            helper.make_node("Equal", ["input_ids", f"{name}_id"], [f"{name}_hit"]),
            helper.make_node("Cast", [f"{name}_hit"], [f"{name}_one"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"{name}_one", "axis"], [name], keepdims=1),
        ]
        outputs.append(name)
    nodes.append(helper.make_node("Concat", outputs, ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "count",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "onnx" / "model.onnx")
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "negative", "1": "positive"}}))
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "files": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "variants": {"fp32": {"file": "onnx/model.onnx"}},
        "max_length": 16,
        "pair": pair,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("pair", [False, True])
def test_a_registered_model_takes_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: bool) -> None:
    import mlflow
    import pandas

    from serving import source
    from serving.predictor import ModelError, Predictor
    from serving.served import load
    from serving.settings import Settings
    from serving.telemetry import Telemetry
    from stages.tracking.delivery import Delivery
    from stages.tracking.journal import Journal

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = exported(tmp_path / "export" / "film", pair)
    journal = Journal.create(tmp_path / ".makd" / "journal", "export@film")
    start = {"name": "export@film", "experiment": "makd", "params": {}, "tags": {}, "pipeline": None}
    journal.append("start", **start, process=["", 0, 0.0], monitor=False)
    model = {"name": "makd-film", "tags": {"score": "90.5"}, "pair": pair}
    journal.append("model", folder=journal.keep(folder), **model)
    journal.append("tag_model", name="makd-film", tags={"latency_ms": "1.5"})
    Delivery(journal, tmp_path).send()
    journal.note({})  # as after a time-out: everything is sent once more
    journal.append("end", status="FINISHED", error="")
    assert Delivery(journal, tmp_path).send()

    client = mlflow.MlflowClient()
    (version,) = client.search_model_versions("name = 'makd-film'")
    assert client.get_model_version_by_alias("makd-film", "challenger").version == version.version
    assert (version.tags["score"], version.tags["latency_ms"]) == ("90.5", "1.5")
    loaded = mlflow.pyfunc.load_model("models:/makd-film@challenger")
    predictor = Predictor(folder)
    if pair:
        pairs = [("a fine film", "fine"), ("a film", "dull")]
        answer = loaded.predict(pandas.DataFrame(pairs, columns=["text", "text_pair"]))
        assert answer == predictor.predict(pairs)
    else:
        answer = loaded.predict(["a fine film", "a dull film"])
        assert answer == predictor.predict(["a fine film", "a dull film"])
    assert [row["label"] for row in answer] == ["positive", "negative"]
    served = load("models:/makd-film@challenger", "", "fp32", Settings(model="-"), Telemetry())
    assert served.version == version.version and served.lane.model.predict(["a fine film"] if not pair else pairs[:1])
    with pytest.raises(ModelError, match=r"models:/makd-film@champion is not in the registry"):
        source.version("models:/makd-film@champion")
    requirements = Path(mlflow.pyfunc.get_model_dependencies("models:/makd-film@challenger")).read_text()
    assert "onnxruntime" in requirements and "torch" not in requirements


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image."""
    from serving import source
    from serving.folder import ModelError

    for name in ("mlflow", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match="needs mlflow; install it, or give a folder"):
        source.version("models:/makd-film@champion")
