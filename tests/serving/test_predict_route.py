"""/predict over real HTTP: right answers, and refusals that say what is wrong."""

import json
from pathlib import Path

import httpx
import pytest

from serving.predictor import Predictor
from tests.makers.answers import check_answer
from tests.makers.services import run_service


def test_texts_in_the_form_of_text_embeddings_inference(client: httpx.Client) -> None:
    check_answer(client.post("/predict", json={"inputs": "a fine film"}).json(), "a fine film")
    check_answer(client.post("/predict", json={"inputs": ["dull dull"]}).json(), "dull dull")
    batch = client.post("/predict", json={"inputs": [["a fine film"], ["dull"], ["a"]]}).json()
    for answer, text in zip(batch, ["a fine film", "dull", "a"], strict=True):
        check_answer(answer, text)
    raw = client.post("/predict", json={"inputs": "dull fine fine", "raw_scores": True}).json()
    assert raw == [{"label": "positive", "score": 2.0}, {"label": "negative", "score": 1.0}]


def test_pairs(pairs: Path) -> None:
    expected = Predictor(pairs).predict([("a fine film", "fine"), ("a film", "dull")])
    with run_service(pairs) as (_, client):
        single = client.post("/predict", json={"inputs": ["a fine film", "fine"]}).json()
        both = client.post("/predict", json={"inputs": [["a fine film", "fine"], ["a film", "dull"]]}).json()
        assert single == both[0] and [rows[0] for rows in both] == expected
        refused = client.post("/predict", json={"inputs": "a film"})
        assert refused.status_code == 422 and "is not a pair of texts" in refused.json()["error"]


def test_long_texts_are_cut_or_refused(client: httpx.Client, films: Path) -> None:
    text = "dull " * 16 + "fine " * 50
    check_answer(client.post("/predict", json={"inputs": text}).json(), text)
    refused = client.post("/predict", json={"inputs": text, "truncate": False})
    assert refused.status_code == 422 and "longer than the 16 tokens" in refused.json()["error"]
    with run_service(films, long_texts="refuse") as (_, strict):
        assert strict.post("/predict", json={"inputs": text}).status_code == 422
        check_answer(strict.post("/predict", json={"inputs": text, "truncate": True}).json(), text)


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
def test_requests_that_cannot_be_answered_are_refused(
    client: httpx.Client, body: bytes, status: int, kind: str
) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert 10 < len(answer.json()["error"]) < 250


def test_odd_texts_are_texts(client: httpx.Client) -> None:
    for text in ("fine\0dull", "fine \u202e dull", "\N{GRINNING FACE} fine", " \t\n fine ", "fine " * 20_000):
        assert client.post("/predict", json={"inputs": text}).status_code == 200
    check_answer(client.post("/predict", json={"inputs": [["fine"]] * 256}).json()[255], "fine")


def test_other_paths_and_methods(client: httpx.Client) -> None:
    assert client.get("/nowhere").json()["error_type"] == "NotFound"
    assert client.get("/predict").json()["error_type"] == "MethodNotAllowed"
    assert client.get("/health").status_code == client.get("/v2/health/live").status_code == 200
    assert "<html" in client.get("/").text
