"""A service in a thread, and an exported folder whose answers are counted by hand."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import onnx
import uvicorn
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers

from serving.http.server import configure_server
from serving.service import Service
from serving.settings import Settings
from tests.makers.processes import PATIENCE

WORDS = {"[PAD]": 0, "[UNK]": 1, "fine": 2, "dull": 3, "a": 4, "film": 5}


def write_counting_model(folder: Path, pair: bool) -> Path:
    """A folder as `export` writes it, whose graph counts: `dull` against `fine`."""
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
        "task": {"kind": "classification", "labels": ["negative", "positive"]},
        "files": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "variants": {"fp32": {"file": "onnx/model.onnx"}},
        "max_length": 16,
        "pair": pair,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@contextmanager
def run_service(folder: Path | str, **settings: Any) -> Iterator[tuple[Service, httpx.Client]]:
    """A service behind uvicorn on a free port, and a client of it; at the end everything accepted is answered."""
    service = Service(Settings(model=str(folder), **settings))
    server = uvicorn.Server(configure_server(service, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, verify=False) as client:
            yield service, client
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


class Gate:
    """Stands in the way of a model's runs until it is opened; counts the texts that came by."""

    def __init__(self, service: Service) -> None:
        self._model, self.texts, self.batches = service.student.worker.model, 0, []
        self._run, self._open, self.reached = self._model.run, threading.Event(), threading.Event()
        self._model.run = self._wait

    def _wait(self, batch):
        self.reached.set()
        assert self._open.wait(PATIENCE)
        self.batches.append(batch["input_ids"].shape)
        return self._run(batch)

    def open(self) -> None:
        self._open.set()
