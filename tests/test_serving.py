"""Serving: the predictor answers as the model does, without torch, from whole folders only; the benchmark."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from service_at_work import served

from serving import timing
from serving.benchmark import benchmark
from serving.predictor import ModelError, Predictor
from stages.graph.card import write_manifest
from stages.graph.check import texts
from stages.graph.folder import Folder
from stages.graph.subject import subject
from stages.models.base import load, load_classifier
from stages.prepare import prepare
from stages.race import race
from stages.settings import BadInput, Base, Benchmark, Compare, Data, Export, Prepare, Race
from stages.tasks import Task
from stages.tasks.batches import predict
from stages.tasks.metrics import scores
from stages.tasks.splits import read_split
from stages.tracking import Run

REVIEWS = Task(text=["text"], labels=["bad", "good"])


class Notes(Run):
    """A tracked run that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, float] = {}
        self.tags: dict[str, dict[str, object]] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.told |= values

    def tag_model(self, name: str, tags: dict[str, object]) -> None:
        self.tags[name] = tags


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, tiny_data) -> Path:
    """`data`, a random `model`, and `exported` from it in fp32 and int8; its logits in `expected.npy`."""
    from transformers import AutoTokenizer

    place, base = tmp_path_factory.mktemp("serving"), Base(model=str(tiny_model))
    prepare(
        name="reviews",
        task=REVIEWS,
        data=Data(source=str(tiny_data), custom={"reviews": REVIEWS}),
        base=base,
        settings=Prepare(max_length=24),
        seed=1,
        output=place,
        run=Run(),
    )
    torch.manual_seed(0)
    model = load_classifier(base, REVIEWS)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(place / "model")
    split, tokenizer = read_split(place / "data", "validation"), AutoTokenizer.from_pretrained(tiny_model)
    logits, labels = predict(model, split, tokenizer, 8, "expected")
    np.save(place / "expected.npy", logits)
    (place / "exported").mkdir()
    facts = {"name": "reviews", "role": "student"}
    model = subject(place / "model", REVIEWS, place / "data", 24)
    made = Folder(place / "exported", Export(int8_score_drop=100), facts, model)
    made.build(["int8"], evaluated=scores(REVIEWS, logits, labels)["accuracy"], seed=1)
    write_manifest(place / "exported", made.facts)
    return place


@pytest.fixture
def copy(place: Path, tmp_path: Path) -> Path:
    """An exported folder to damage."""
    return Path(shutil.copytree(place / "exported", tmp_path / "copy"))


def sentences(place: Path) -> list[str]:
    return texts(read_split(place / "data", "validation"))


def test_needs_neither_torch_nor_transformers(place: Path) -> None:
    code = (
        "import sys; from serving.predictor import Predictor\n"
        f"print(Predictor({str(place / 'exported')!r}).predict(['a fine film'])[0]['label'])\n"
        "heavy = {'torch', 'transformers', 'stages', 'pydantic', 'onnx'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}') if heavy else None\n"
        "from serving.http.app import create_app\n"
        "from serving.service import Service\n"
        "from serving.settings import Settings\n"
        f"create_app(Service(Settings(model={str(place / 'exported')!r})))\n"
        "heavy = {'torch', 'transformers', 'stages', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'the service loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in REVIEWS.labels


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_come_in_the_order_asked(place: Path, batch_size: int) -> None:
    """Texts of all lengths, mixed: logits are PyTorch's, row by row, however they are batched."""
    found = Predictor(place / "exported").logits(sentences(place), batch_size)
    np.testing.assert_allclose(found, np.load(place / "expected.npy"), atol=1e-5)


def test_labels_and_probabilities(place: Path) -> None:
    expected = torch.from_numpy(np.load(place / "expected.npy")).softmax(-1)
    for row, shares in zip(Predictor(place / "exported").predict(sentences(place)), expected, strict=True):
        assert row["label"] == REVIEWS.labels[int(shares.argmax())]
        assert row["score"] == pytest.approx(float(shares.max()), abs=1e-5)


def test_no_texts_no_answers(place: Path) -> None:
    assert Predictor(place / "exported").predict([]) == []


def test_truncates_where_the_manifest_says(place: Path) -> None:
    predictor = Predictor(place / "exported")
    long = predictor.encode(["film " * 100])[0]
    assert len(long.ids) == 24
    np.testing.assert_array_equal(predictor.logits(["film " * 100]), predictor.logits(["film " * 50]))


def test_other_libraries_truncate_there_too(place: Path) -> None:
    """transformers and transformers.js read tokenizer_config.json, and not the truncation of tokenizer.json."""
    from transformers import AutoTokenizer

    text = "film " * 100
    found = AutoTokenizer.from_pretrained(place / "exported")(text, truncation=True)["input_ids"]
    assert found == Predictor(place / "exported").encode([text])[0].ids


def test_the_service_answers_as_the_predictor(place: Path) -> None:
    """32 clients, mixed lengths: what a text shares its batch with does not show."""
    expected = Predictor(place / "exported").predict(sentences(place))
    with served(place / "exported", max_tokens=128) as (_, client), ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda text: client.post("/predict", json={"inputs": text}).json()[0], sentences(place))
        for found, row in zip(answers, expected, strict=True):
            assert found["label"] == row["label"] and found["score"] == pytest.approx(row["score"], abs=1e-6)


@pytest.mark.parametrize("wrong", [3, None, ("one", "two"), ["x"] * 3])
def test_what_is_no_text_is_refused(place: Path, wrong: object) -> None:
    with pytest.raises(ModelError, match="is not a text"):
        Predictor(place / "exported").predict(["fine", wrong])


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


def test_a_variant_that_is_not_there_names_those_that_are(copy: Path) -> None:
    with pytest.raises(ModelError, match=r"variant fp16 is not in .*; it has fp32, int8"):
        Predictor(copy, "fp16")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no manifest"):
        Predictor(tmp_path)


@pytest.mark.filterwarnings("error")
def test_cuda_that_fell_back_is_an_error(place: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match="fell back to CPUExecutionProvider"):
        Predictor(place / "exported", provider="cuda")


def test_bound_inputs_and_outputs_give_the_same(place: Path) -> None:
    """What runs on CUDA, here with a session on the CPU."""
    predictor = Predictor(place / "exported")
    batch = predictor.pad(predictor.encode(sentences(place)[:5]))
    expected, predictor._provider = predictor.run(batch), "cuda"
    np.testing.assert_array_equal(predictor.run(batch), expected)


def measured(place: Path, output: Path, student: Path, **changes) -> tuple[dict, Notes]:
    output.mkdir()
    settings = {"batch_sizes": [1, 4], "lengths": ["real", 16], "seconds": 0.05} | changes
    notes = Notes()
    made = benchmark(
        Benchmark(**settings),
        name="reviews",
        data=place / "data",
        teacher=place / "exported",
        student=student,
        output=output,
        seed=1,
        run=notes,
    )
    return made, notes


def test_benchmark_measures_every_cell(place: Path, tmp_path: Path) -> None:
    """Teacher and student are the same graph here: the ratio of fp32 is about 1."""
    made, notes = measured(place, tmp_path / "out", place / "exported", seconds=0.3)
    assert made == json.loads((tmp_path / "out/metrics.json").read_text())
    assert (tmp_path / "out/latency.png").stat().st_size > 10_000
    assert len(made["cells"]) == 2 * 2 * 3
    for cell in made["cells"]:
        assert 0 < cell["p50_ms"] <= cell["p95_ms"] <= cell["p99_ms"]
    same = [made["ratio"][f"fp32/{length}/{size}"] for length in ("real", 16) for size in (1, 4)]
    assert 0.7 < np.median(same) < 1.4
    assert made["bytes"]["student/fp32"] == (place / "exported/onnx/model.onnx").stat().st_size
    assert all(size > 0 for size in made["resident_bytes"].values())
    assert notes.told["ratio/int8/16/4"] == made["ratio"]["int8/16/4"]
    assert notes.tags["makd-reviews"]["latency_ms"] > 0


def test_benchmark_leaves_out_what_export_refused(place: Path, copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    row = manifest["variants"]["int8"]
    (copy / row.pop("file")).unlink()
    row["refused"] = "accuracy 50.00 against 80.00 of fp32"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    made, _ = measured(place, tmp_path / "out", copy, batch_sizes=[1], lengths=["real"])
    assert list(made["ratio"]) == ["fp32/real/1"]


def test_benchmark_refuses_lengths_that_the_model_cannot_read(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"benchmark\.lengths has 1000, but this model reads 2 to \d+ tokens"):
        measured(place, tmp_path / "out", place / "exported", lengths=[1000])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are of this process's work: what others do on the machine does not count."""
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=time.process_time))


def raced(place: Path, output: Path, rival: Path, settings: Race | None = None, **cell) -> dict:
    output.mkdir()
    return race(
        settings or Race(),
        Benchmark(seconds=0.2),
        Compare(**cell),
        Export(),
        data=place / "data",
        teacher=place / "exported",
        rival=rival,
        output=output,
        seed=1,
        run=Run(),
    )


def test_a_rival_that_is_the_teacher_is_as_fast(place: Path, tmp_path: Path, work: None) -> None:
    made = raced(place, tmp_path / "out", place / "model", batch_size=4)
    assert made == json.loads((tmp_path / "out/metrics.json").read_text())
    assert 0.7 < made["speedup"] < 1.4 and (made["length"], made["batch_size"]) == ("real", 4)
    assert made["p50_ms"] > 0 and made["teacher_p50_ms"] > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"], "the graph is not kept"


def test_a_shallower_rival_is_faster(place: Path, tmp_path: Path, work: None) -> None:
    """One layer of two: by how much depends on the head, but not on which side."""
    half = load(place / "model")
    half.bert.encoder.layer = half.bert.encoder.layer[:1]
    half.config.num_hidden_layers = 1
    half.save_pretrained(tmp_path / "half")
    assert raced(place, tmp_path / "out", tmp_path / "half", length=24, batch_size=8)["speedup"] > 1.15


def test_a_race_that_is_off_times_nothing(place: Path, tmp_path: Path) -> None:
    assert raced(place, tmp_path / "out", tmp_path / "no such model", Race(enabled=False)) == {}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == {}


def test_a_race_refuses_a_length_that_the_model_cannot_read(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"compare\.length is 1000, but this model reads 2 to \d+ tokens"):
        raced(place, tmp_path / "out", place / "model", length=1000)
