"""Dynamic batching under load: every answer is its text's; the queue is bounded; who disconnects is not answered."""

import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.batching import pick_batch
from tests.makers.answers import check_answer, make_texts
from tests.makers.processes import PATIENCE, wait_for
from tests.makers.services import Gate, run_service

HOUR = 3_600_000
"""In milliseconds: longer than any test."""


def test_many_clients_at_once_get_their_own_answers(films: Path) -> None:
    """32 clients, texts of 1 to 30 words, alone and in batches, two instances: every answer is its text's."""
    texts = make_texts(32 * 12)

    def send_requests(number: int) -> None:
        own = texts[12 * number : 12 * number + 12]
        for text in own[:3]:
            check_answer(client.post("/predict", json={"inputs": text}).json(), text)
        answers = client.post("/predict", json={"inputs": [[text] for text in own]}).json()
        for answer, text in zip(answers, own, strict=True):
            check_answer(answer, text)

    with run_service(films, instances=2, max_tokens=64) as (_, client), ThreadPoolExecutor(32) as pool:
        list(pool.map(send_requests, range(32)))


def test_a_full_queue_refuses_at_once_and_loses_nothing(films: Path) -> None:
    """The refusal comes while the model stands still, so it waits for nothing."""
    with run_service(films, max_queue=4, max_texts=4) as (service, client), ThreadPoolExecutor(8) as pool:
        gate = Gate(service)
        waiting = [pool.submit(client.post, "/predict", json={"inputs": "fine " * n}) for n in range(1, 5)]
        wait_for(lambda: service.student.worker.pending == 4)
        refused = client.post("/predict", json={"inputs": "a"})
        assert (refused.status_code, refused.json()["error_type"]) == (429, "Overloaded")
        assert int(refused.headers["Retry-After"]) >= 1 and service.student.worker.pending == 4
        assert not any(request.done() for request in waiting)
        gate.open()
        for n, request in enumerate(waiting, start=1):
            check_answer(request.result().json(), "fine " * n)
        assert client.post("/predict", json={"inputs": "a"}).status_code == 200


def test_a_client_that_disconnects_is_not_answered(films: Path) -> None:
    """Of three requests behind a busy model one goes away: its text is never run, and its place is free."""
    with run_service(films) as (service, client), ThreadPoolExecutor(8) as pool:
        gate = Gate(service)
        first = pool.submit(client.post, "/predict", json={"inputs": "a"})
        assert gate.reached.wait(PATIENCE)
        second = pool.submit(client.post, "/predict", json={"inputs": "fine fine"})
        with socket.create_connection((client.base_url.host, client.base_url.port)) as third:
            head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            body = b'{"inputs": "dull dull dull"}'
            third.sendall(head % len(body) + body)
            wait_for(lambda: service.student.worker.pending == 3)
        wait_for(lambda: service.student.worker.pending == 2)
        gate.open()
        check_answer(first.result().json(), "a")
        check_answer(second.result().json(), "fine fine")
        assert gate.batches == [(1, 1), (1, 2)]


def test_short_texts_do_not_pay_for_long_ones(films: Path) -> None:
    """Behind a busy model: the oldest goes first, with those of its length; a batch holds 32 tokens."""
    with run_service(films, max_tokens=32) as (service, client), ThreadPoolExecutor(20) as pool:
        gate = Gate(service)
        requests = [pool.submit(client.post, "/predict", json={"inputs": "a"})]
        assert gate.reached.wait(PATIENCE)
        for count, words in enumerate([3, 16, 3, 16, 3, 16, 3], start=2):
            requests.append(pool.submit(client.post, "/predict", json={"inputs": "fine " * words}))
            wait_for(lambda count=count: len(service.student.worker._batcher._rows) == count - 1)
        gate.open()
        assert all(request.result().status_code == 200 for request in requests)
        assert gate.batches == [(1, 1), (4, 3), (2, 16), (1, 16)]


def test_no_request_waits_while_large_texts_are_tokenized(films: Path) -> None:
    with run_service(films) as (service, client), ThreadPoolExecutor(4) as pool:
        model, tokenized = service.student.worker.model, threading.Event()
        encode = model.encode
        model.encode = lambda texts: encode(texts) if len(texts[0]) < 50_000 or tokenized.wait(PATIENCE) else None
        large = [pool.submit(client.post, "/predict", json={"inputs": "fine " * 20_000}) for _ in range(4)]
        wait_for(lambda: service.student.worker.pending == 4)
        check_answer(client.post("/predict", json={"inputs": "dull"}).json(), "dull")
        assert not any(request.done() for request in large)
        tokenized.set()
        for request in large:
            check_answer(request.result().json(), "fine " * 16)


def test_a_free_model_waits_until_the_batch_is_full(films: Path) -> None:
    """Three texts of one token fill a batch of three, an hour before the wait would end."""
    with run_service(films, max_wait_ms=HOUR, max_tokens=3) as (service, client), ThreadPoolExecutor(4) as pool:
        gate = Gate(service)
        gate.open()
        list(pool.map(lambda _: client.post("/predict", json={"inputs": "a"}), range(3)))
        assert gate.batches == [(3, 1)]


def test_a_free_model_does_not_wait_for_ever(films: Path) -> None:
    with run_service(films, max_wait_ms=50) as (service, client):
        gate = Gate(service)
        gate.open()
        check_answer(client.post("/predict", json={"inputs": "a"}).json(), "a")
        assert gate.batches == [(1, 1)]


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
    taken = pick_batch(lengths, most, padding)
    assert {lengths[i] for i in taken} == {lengths[i] for i in expected} and len(taken) == len(expected) and 0 in taken


def test_no_batch_is_overfull_or_padded_too_much() -> None:
    """Any queue: within both limits, and no text starves."""
    draw = random.Random(1)
    for _ in range(200):
        lengths = [draw.randint(1, 60) for _ in range(draw.randint(1, 40))]
        most, padding = draw.randint(60, 400), draw.choice([0, 0.1, 0.4])
        taken = pick_batch(lengths, most, padding)
        padded = len(taken) * max(lengths[i] for i in taken)
        assert 0 in taken and padded <= most
        assert padded - sum(lengths[i] for i in taken) <= padding * padded
