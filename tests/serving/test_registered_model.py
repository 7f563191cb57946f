"""An exported folder, logged and registered, answers through MLflow as its own reader does."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving import model_source
from serving.exported import ModelError
from serving.generator import Generator
from serving.predictor import Predictor
from serving.served_model import load_model
from serving.settings import Settings
from serving.telemetry import Telemetry
from tests.makers.exports import LINES
from tests.makers.services import write_counting_model


def register_film(folder: Path, checkout: Path) -> None:
    """As export's and benchmark's runs do, everything sent twice."""
    from stages.tracking.delivery import Delivery
    from stages.tracking.journal import Journal

    journal = Journal.create(checkout / ".makd" / "journal", "export@film")
    start = {"name": "export@film", "experiment": "makd", "params": {}, "tags": {}, "pipeline": None}
    journal.append("start", **start, process=["", 0, 0.0], monitor=False)
    journal.append("model", folder=journal.keep_file(folder), name="makd-film", tags={"score": "90.5"})
    journal.append("challenger_tags", name="makd-film", tags={"latency_ms": "1.5"})
    Delivery(journal, checkout).send()
    journal.write_progress({})  # as after a time-out: everything is sent once more
    journal.append("end", status="FINISHED", error="")
    assert Delivery(journal, checkout).send()


@pytest.mark.parametrize("pair", [False, True])
def test_a_registered_model_takes_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: bool) -> None:
    import mlflow
    import pandas

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = write_counting_model(tmp_path / "export" / "film", pair)
    register_film(folder, tmp_path)

    client = mlflow.MlflowClient()
    (version,) = client.search_model_versions("name = 'makd-film'")
    assert client.get_model_version_by_alias("makd-film", "challenger").version == version.version
    assert (version.tags["score"], version.tags["latency_ms"]) == ("90.5", "1.5")
    loaded, predictor = mlflow.pyfunc.load_model("models:/makd-film@challenger"), Predictor(folder)
    texts = [("a fine film", "fine"), ("a film", "dull")] if pair else ["a fine film", "a dull film"]
    table = pandas.DataFrame(texts, columns=["text", "text_pair"]) if pair else texts
    answer = loaded.predict(table)
    assert answer == predictor.predict(texts)
    assert [row["label"] for row in answer] == ["positive", "negative"]
    served = load_model("models:/makd-film@challenger", "", "fp32", Settings(model="-"), Telemetry())
    assert served.version == str(version.version) and served.worker.model.predict(texts[:1])
    with pytest.raises(ModelError, match=r"models:/makd-film@champion is not in the registry"):
        model_source.find_version("models:/makd-film@champion")
    requirements = Path(mlflow.pyfunc.get_model_dependencies("models:/makd-film@challenger")).read_text()
    assert "onnxruntime" in requirements and "torch" not in requirements


def test_without_mlflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the image."""
    for name in ("mlflow", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match="needs mlflow; install it, or give a folder"):
        model_source.find_version("models:/makd-film@champion")


def test_a_registered_decoder_generates(exported_llama: Path) -> None:
    import pandas

    from serving.mlflow_model import TextModel

    model = TextModel()
    model.load_context(SimpleNamespace(artifacts={"model": str(exported_llama / "onnx")}))
    answers = model.predict(None, pandas.DataFrame({"0": LINES[:2]}))
    expected = [Generator(exported_llama / "onnx").generate([text])[0].text for text in LINES[:2]]
    assert [row["text"] for row in answers] == expected and any(expected)
