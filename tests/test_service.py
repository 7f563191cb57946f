"""The service over real HTTP, in front of a graph that counts words: right under load, bounded, cancelled, drained."""

import hashlib
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import wait_for
from prometheus_client.parser import text_string_to_metric_families
from service_at_work import Gate, served
from test_registered_model import exported

from serving.batching import nearest
from serving.predictor import Predictor


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("films") / "film", pair=False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("pairs") / "pair", pair=True)


@pytest.fixture(scope="module")
def client(films: Path):
    with served(films, max_bytes=200_000) as (_, client):
        yield client


def logits(text: str) -> list[float]:
    """What the graph counts: `dull`, then `fine`, of the first 16 words."""
    words = text.split()[:16]
    return [float(words.count("dull")), float(words.count("fine"))]


def scores(text: str) -> dict[str, float]:
    odds = np.exp(logits(text))
    return dict(zip(("negative", "positive"), odds / odds.sum(), strict=True))


def check(found: list[dict], text: str) -> None:
    """All labels, best first, with their probabilities."""
    assert {row["label"]: row["score"] for row in found} == pytest.approx(scores(text), abs=1e-6)
    assert found[0]["score"] >= found[1]["score"]


def some_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(["a", "film", "fine", "dull"], k=draw.randint(1, 30))) for _ in range(count)]


HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)


def test_texts_as_tei_has_them(client: httpx.Client) -> None:
    check(client.post("/predict", json={"inputs": "a fine film"}).json(), "a fine film")
    check(client.post("/predict", json={"inputs": ["dull dull"]}).json(), "dull dull")
    batch = client.post("/predict", json={"inputs": [["a fine film"], ["dull"], ["a"]]}).json()
    for found, text in zip(batch, ["a fine film", "dull", "a"], strict=True):
        check(found, text)
    raw = client.post("/predict", json={"inputs": "dull fine fine", "raw_scores": True}).json()
    assert raw == [{"label": "positive", "score": 2.0}, {"label": "negative", "score": 1.0}]


def test_pairs(pairs: Path) -> None:
    expected = Predictor(pairs).predict([("a fine film", "fine"), ("a film", "dull")])
    with served(pairs) as (_, client):
        one = client.post("/predict", json={"inputs": ["a fine film", "fine"]}).json()
        both = client.post("/predict", json={"inputs": [["a fine film", "fine"], ["a film", "dull"]]}).json()
        assert one == both[0] and [rows[0] for rows in both] == expected
        refused = client.post("/predict", json={"inputs": "a film"})
        assert refused.status_code == 422 and "is not a pair of texts" in refused.json()["error"]


def test_long_texts_are_cut_or_refused(client: httpx.Client, films: Path) -> None:
    text = "dull " * 16 + "fine " * 50
    check(client.post("/predict", json={"inputs": text}).json(), text)
    refused = client.post("/predict", json={"inputs": text, "truncate": False})
    assert refused.status_code == 422 and "longer than the 16 tokens" in refused.json()["error"]
    with served(films, long_texts="refuse") as (_, strict):
        assert strict.post("/predict", json={"inputs": text}).status_code == 422
        check(strict.post("/predict", json={"inputs": text, "truncate": True}).json(), text)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b'{"inputs": ', 400, "Malformed"),
        (b"\xff\xfe", 400, "Malformed"),
        (b"[" * 100_000, 400, "Malformed"),
        (b"", 422, "Validation"),
        (b"{}", 422, "Validation"),
        (b'{"inputs": 3}', 422, "Validation"),
        (b'{"inputs": []}', 422, "Validation"),
        (b'{"inputs": [[]]}', 422, "Validation"),
        (b'{"inputs": ["a", "b", "c"]}', 422, "Validation"),
        (b'{"inputs": ["a", "b"]}', 422, "Validation"),
        (b'{"inputs": "\\ud800"}', 422, "Validation"),
        (b'{"inputs": ""}', 422, "Validation"),
        (b'{"inputs": "a", "raw_scores": "perhaps"}', 422, "Validation"),
        (json.dumps({"inputs": [["a"]] * 257}).encode(), 413, "TooLarge"),
        (json.dumps({"inputs": [""] * 30_000}).encode(), 422, "Validation"),
        (b'{"inputs": "' + b"a" * 10_000_000 + b'"}', 413, "TooLarge"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, bytes) else None,
)
def test_what_cannot_be_answered_is_said_to_be(client: httpx.Client, body: bytes, status: int, kind: str) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert 10 < len(answer.json()["error"]) < 250


def test_odd_texts_are_texts(client: httpx.Client) -> None:
    for text in ("fine\0dull", "fine \u202e dull", "\N{GRINNING FACE} fine", " \t\n fine ", "fine " * 20_000):
        assert client.post("/predict", json={"inputs": text}).status_code == 200
    check(client.post("/predict", json={"inputs": [["fine"]] * 256}).json()[255], "fine")


def test_other_paths_and_methods(client: httpx.Client) -> None:
    assert client.get("/nowhere").json()["error_type"] == "NotFound"
    assert client.get("/predict").json()["error_type"] == "MethodNotAllowed"
    assert client.get("/health").status_code == client.get("/v2/health/live").status_code == 200
    assert "<html" in client.get("/").text


def test_metrics_log_and_info(films: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serving.access")
    with served(films) as (service, client):
        for inputs in ("a fine film", [["dull secret"], ["fine"]]):
            assert client.post("/predict", json={"inputs": inputs}, headers={"X-Request-ID": "n.1"}).status_code == 200
        assert client.post("/predict", content=b"").headers["X-Request-ID"] != "n.1"
        text = client.get("/metrics").text
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        info, recent = client.get("/info").json(), client.get("/latencies").json()["points"]
    assert found["makd_requests_total", "/predict", "200"] == 2 and found["makd_requests_total", "/predict", "422"] == 1
    assert found["makd_batch_texts_sum", "film"] == 3 and found["makd_tokens_total", "real", "film"] == 6
    assert found["makd_inside", "film"] == 0 and found["makd_served", "film", "fp32", service.student.version] == 1
    assert sum(point["requests"] for point in recent) == 3 and sum(point["errors"] for point in recent) == 1
    assert info["model_type"]["classifier"]["id2label"] == {"0": "negative", "1": "positive"}
    lines = [record.fields for record in caplog.records if record.name == "serving.access"]
    own = [line for line in lines if line["id"] == "n.1"]
    assert [line["texts"] for line in own] == [1, 2] and own[0]["status"] == 200 and own[0]["ms"] > 0
    assert "secret" not in caplog.text


def test_many_clients_at_once_get_their_own_answers(films: Path) -> None:
    """32 clients, texts of 1 to 30 words, alone and in batches, two instances: every answer is its text's."""
    texts = some_texts(32 * 12)

    def ask(number: int) -> None:
        own = texts[12 * number : 12 * number + 12]
        for text in own[:3]:
            check(client.post("/predict", json={"inputs": text}).json(), text)
        answers = client.post("/predict", json={"inputs": [[text] for text in own]}).json()
        for found, text in zip(answers, own, strict=True):
            check(found, text)

    with served(films, instances=2, max_tokens=64) as (_, client), ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))


def test_a_full_queue_refuses_at_once_and_loses_nothing(films: Path) -> None:
    with served(films, max_queue=4, max_texts=4) as (service, client), ThreadPoolExecutor(8) as pool:
        gate = Gate(service)
        waiting = [pool.submit(client.post, "/predict", json={"inputs": "fine " * n}) for n in range(1, 5)]
        wait_for(lambda: service.student.lane.inside == 4, 10)
        start = time.monotonic()
        refused = client.post("/predict", json={"inputs": "a"})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["Retry-After"]) >= 1 and time.monotonic() - start < 2
        gate.open()
        for n, answer in enumerate(waiting, start=1):
            check(answer.result().json(), "fine " * n)
        assert client.post("/predict", json={"inputs": "a"}).status_code == 200


def test_who_hangs_up_is_not_answered(films: Path) -> None:
    """Of three requests behind a busy model one goes away: its text is never run, and its seat is free."""
    with served(films) as (service, client), ThreadPoolExecutor(8) as pool:
        gate = Gate(service)
        first = pool.submit(client.post, "/predict", json={"inputs": "a"})
        assert gate.reached.wait(10)
        stays = pool.submit(client.post, "/predict", json={"inputs": "fine fine"})
        with connected(client) as leaves:
            body = b'{"inputs": "dull dull dull"}'
            leaves.sendall(HEAD % len(body) + body)
            wait_for(lambda: service.student.lane.inside == 3, 10)
        wait_for(lambda: service.student.lane.inside == 2, 10)
        gate.open()
        check(first.result().json(), "a")
        check(stays.result().json(), "fine fine")
        assert gate.batches == [(1, 1), (1, 2)]


def test_short_texts_do_not_pay_for_long_ones(films: Path) -> None:
    """Behind a busy model: the oldest goes first, with those of its length; a batch holds 32 tokens."""
    with served(films, max_tokens=32) as (service, client), ThreadPoolExecutor(20) as pool:
        gate = Gate(service)
        asked = [pool.submit(client.post, "/predict", json={"inputs": "a"})]
        assert gate.reached.wait(10)
        for count, words in enumerate([3, 16, 3, 16, 3, 16, 3], start=2):
            asked.append(pool.submit(client.post, "/predict", json={"inputs": "fine " * words}))
            wait_for(lambda count=count: len(service.student.lane._batcher._rows) == count - 1, 10)
        gate.open()
        assert all(answer.result().status_code == 200 for answer in asked)
        assert gate.batches == [(1, 1), (4, 3), (2, 16), (1, 16)]


def test_nobody_waits_while_large_texts_are_tokenized(films: Path) -> None:
    with served(films) as (service, client), ThreadPoolExecutor(4) as pool:
        model, tokenized = service.student.lane.model, threading.Event()
        encode = model.encode
        model.encode = lambda texts: encode(texts) if len(texts[0]) < 50_000 or tokenized.wait(20) else None
        large = [pool.submit(client.post, "/predict", json={"inputs": "fine " * 20_000}) for _ in range(4)]
        wait_for(lambda: service.student.lane.inside == 4, 10)
        check(client.post("/predict", json={"inputs": "dull"}).json(), "dull")
        assert not any(one.done() for one in large)
        tokenized.set()
        for one in large:
            check(one.result().json(), "fine " * 16)


def test_a_model_that_is_free_waits_for_more(films: Path) -> None:
    with served(films, max_wait_ms=300) as (service, client), ThreadPoolExecutor(4) as pool:
        gate = Gate(service)
        gate.open()
        list(pool.map(lambda _: client.post("/predict", json={"inputs": "a"}), range(3)))
        assert gate.batches == [(3, 1)]


@pytest.mark.parametrize(
    ("lengths", "most", "padding", "expected"),
    [
        ([5], 1, 0.0, {0}),
        ([5, 5, 5, 5], 15, 0.0, {0, 1, 2}),
        ([5, 9, 4, 5], 100, 0.0, {0, 3}),
        ([5, 9, 4, 5], 100, 0.1, {0, 2, 3}),
        ([5, 9, 4, 5], 100, 0.5, {0, 1, 2, 3}),
        ([100, 2, 2, 2], 1000, 0.3, {0}),
    ],
)
def test_a_batch_is_the_oldest_and_its_like(lengths: list[int], most: int, padding: float, expected: set[int]) -> None:
    found = nearest(lengths, most, padding)
    assert {lengths[i] for i in found} == {lengths[i] for i in expected} and len(found) == len(expected) and 0 in found


def test_nothing_is_padded_or_overfull() -> None:
    """Any queue: within both limits, and no text starves."""
    draw = random.Random(1)
    for _ in range(200):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 40))]
        most, padding = draw.randint(60, 400), draw.choice([0, 0.1, 0.4])
        taken = nearest(lengths, most, padding)
        padded = len(taken) * max(lengths[i] for i in taken)
        assert 0 in taken and padded <= most
        assert padded - sum(lengths[i] for i in taken) <= padding * padded


def test_a_key_is_asked_for(films: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    with served(films, api_key_file=tmp_path / "key") as (_, client):
        for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic s3cret"}, {"Authorization": "é"}):
            headers = [(name, value.encode()) for name, value in wrong.items()]
            answer = client.post("/predict", json={"inputs": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
        right = client.post("/predict", json={"inputs": "a"}, headers={"Authorization": "Bearer s3cret"})
        assert right.status_code == 200
        assert client.get("/metrics").status_code == 401 and client.get("/health").status_code == 200


def test_a_body_that_does_not_come_is_given_up(films: Path) -> None:
    with served(films, arrival_seconds=0.3) as (_, client), connected(client) as slow:
        slow.sendall(HEAD % 9 + b"{")
        assert b"408 Request Timeout" in slow.recv(4096)


def test_headers_that_do_not_come_are_given_up(films: Path) -> None:
    """Neither the first request's nor a later one's; a connection that is only unused stays open."""
    begun = b"GET /v2/health/live HTTP/1.1\r\n"
    with served(films, arrival_seconds=0.5) as (_, client):
        with connected(client) as slow:
            slow.sendall(begun)
            assert slow.recv(4096) == b""
        with closing(HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)) as again:
            for pause in (0.8, 0):
                again.request("GET", "/v2/health/live")
                assert again.getresponse().read()
                time.sleep(pause)
            again.sock.sendall(begun)
            assert again.sock.recv(4096) == b""


def relabeled(folder: Path, config: bytes, link: Path) -> Path:
    """Says in the manifest that the config is another, and puts the folder where the link leads, at one stroke."""
    facts = json.loads((folder / "manifest.json").read_text())
    facts["files"]["config.json"] = hashlib.sha256(config).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(facts))
    (link.parent / "new").symlink_to(folder)
    return (link.parent / "new").rename(link)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with labels of its own, which its manifest does not know."""
    folder = exported(tmp_path / "other", pair=False)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "bad", "1": "good"}}))
    return folder


def test_a_changed_model_takes_over_under_load(films: Path, other: Path, tmp_path: Path) -> None:
    """No request fails; each answer is wholly one model's; a broken folder changes nothing."""
    link, names, done = tmp_path / "link", [], threading.Event()
    link.symlink_to(films)

    def ask(_: int) -> None:
        while not done.is_set():
            found = client.post("/predict", json={"inputs": "a fine film"}).json()
            names.append(tuple(row["label"] for row in found))
            assert found[0]["score"] == pytest.approx(scores("a fine film")["positive"])

    def take(config: bytes) -> None:
        relabeled(other, config, link)
        count = len(names)
        loop.call_soon_threadsafe(service.look)
        wait_for(lambda: len(names) > count + 30, 10)

    with served(link, name="film") as (service, client), ThreadPoolExecutor(4) as pool:
        loop, asking = service._watch.get_loop(), [pool.submit(ask, number) for number in range(4)]
        try:
            take(b"another")
            wait_for(lambda: 'makd_swaps_total{result="failed"} 1.0' in client.get("/metrics").text, 10)
            assert set(names) == {("positive", "negative")}
            take((other / "config.json").read_bytes())
            wait_for(lambda: names[-1] == ("good", "bad"), 10)
        finally:
            done.set()
        for each in asking:
            each.result()
        assert set(names) == {("positive", "negative"), ("good", "bad")}
        assert client.get("/info").json()["labels"] == ["bad", "good"]


def test_a_changed_model_is_found_by_looking(films: Path, other: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(films)
    with served(link, name="film", poll_seconds=0.05) as (_, client):
        assert client.get("/info").json()["labels"] == ["negative", "positive"]
        relabeled(other, (other / "config.json").read_bytes(), link)
        wait_for(lambda: client.get("/info").json()["labels"] == ["bad", "good"], 10)
