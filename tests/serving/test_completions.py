"""OpenAI's completions, in front of a graph that spells the alphabet."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from serving.service import Service
from tests.makers.processes import PATIENCE, wait_for


def complete(client: httpx.Client, prompt: str | list[str], **settings: Any) -> dict[str, Any]:
    answer = client.post("/v1/completions", json={"prompt": prompt, "temperature": 0, **settings})
    assert answer.status_code == 200, answer.text
    return answer.json()


def read_events(client: httpx.Client, **settings: Any) -> list[dict[str, Any]]:
    with client.stream("POST", "/v1/completions", json={"temperature": 0, "stream": True, **settings}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream") and lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_completions(speller: tuple[Service, httpx.Client]) -> None:
    _, client = speller
    answer = complete(client, "ab", max_tokens=5)
    assert answer["choices"] == [{"index": 0, "text": "cdefg", "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    assert answer["object"] == "text_completion" and answer["model"] == "letters"
    ended = complete(client, "w", max_tokens=99)["choices"][0]
    assert (ended["text"], ended["finish_reason"]) == ("xyz", "stop")
    both = complete(client, ["a", "x"], max_tokens=2, model="letters-teacher")
    assert [choice["text"] for choice in both["choices"]] == ["bc", "yz"] and both["model"] == "letters-teacher"
    assert len(complete(client, "a" * 20, max_tokens=99)["choices"][0]["text"]) == 12, "the model reads 32 tokens"


@pytest.mark.parametrize(
    ("stop", "text", "finish"),
    [
        ("ef", "bcd", "stop"),
        (["x", "d"], "bc", "stop"),
        ("fz", "bcdefg", "length"),
        ("b", "", "stop"),
        ("gz", "bcdefg", "length"),
    ],
)
def test_stops(speller: tuple[Service, httpx.Client], stop: str | list[str], text: str, finish: str) -> None:
    """Whether in one piece or in several; what only began like a stop is not lost."""
    _, client = speller
    whole = complete(client, "a", max_tokens=6, stop=stop)["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (text, finish)
    pieces = [event["choices"][0] for event in read_events(client, prompt="a", max_tokens=6, stop=stop)]
    assert "".join(piece["text"] for piece in pieces) == text and pieces[-1]["finish_reason"] == finish


def test_a_stream_comes_piece_by_piece(speller: tuple[Service, httpx.Client]) -> None:
    _, client = speller
    events = read_events(client, prompt="a", max_tokens=3, stream_options={"include_usage": True})
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["b", "c", "d"]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None, None, "length"]
    assert events[-1]["usage"]["total_tokens"] == 4 and len({event["id"] for event in events}) == 1


def test_a_seed_draws_the_same_again(speller: tuple[Service, httpx.Client]) -> None:
    _, client = speller
    draw = {"temperature": 2.0, "max_tokens": 20, "stop": None}
    first = complete(client, "a", seed=3, **draw)["choices"][0]["text"]
    assert complete(client, "a", seed=3, **draw)["choices"][0]["text"] == first
    assert any(complete(client, "a", seed=seed, **draw)["choices"][0]["text"] != first for seed in range(4, 9))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"prompt": ""}, 422),
        ({"prompt": []}, 422),
        ({"prompt": [[]]}, 422),
        ({"prompt": [99]}, 422),
        ({"prompt": ["a", 3]}, 422),
        ({"prompt": "a" * 32}, 422),
        ({"prompt": "a", "max_tokens": 0}, 422),
        ({"prompt": "a", "temperature": 3}, 422),
        ({"prompt": "a", "top_p": 0}, 422),
        ({"prompt": "a", "n": 2}, 422),
        ({"prompt": "a", "echo": True}, 422),
        ({"prompt": "a", "stop": ["a"] * 5}, 422),
        ({"prompt": "a", "stop": ""}, 422),
        ({"prompt": ["a"] * 4}, 422),
        ({"prompt": ["a", "b"], "stream": True}, 422),
        ({"prompt": "", "stream": True}, 422),
        ({"prompt": "a", "model": "gpt"}, 404),
    ],
    ids=str,
)
def test_completions_that_cannot_be(speller: tuple[Service, httpx.Client], change: dict, status: int) -> None:
    service, client = speller
    answer = client.post("/v1/completions", json=change)
    assert answer.status_code == status and len(answer.json()["error"]["message"]) > 10
    assert service.student.worker.pending == 0


def test_tiny_temperatures_are_greedy(speller: tuple[Service, httpx.Client]) -> None:
    _, client = speller
    assert complete(client, "a", temperature=1e-300, max_tokens=3)["choices"][0]["text"] == "bcd"


def test_generations_are_bounded_and_leave_their_places(speller: tuple[Service, httpx.Client]) -> None:
    """Three are generated, a fourth is refused; a client that disconnects in the middle of its stream makes room."""
    service, client = speller
    body, decoder = {"prompt": "a", "max_tokens": 30, "stream": True}, service.student.worker.model.decoder
    step, steps = decoder.step, threading.Semaphore(3)
    decoder.step = lambda *arguments: step(*arguments) if steps.acquire(timeout=PATIENCE) else None
    try:
        with ThreadPoolExecutor(2) as pool:
            with client.stream("POST", "/v1/completions", json=body) as leaves:
                lines = leaves.iter_lines()  # httpx disconnects when this is let go
                assert next(lines).startswith("data:")
                stay = [pool.submit(read_events, client, prompt="a", max_tokens=4) for _ in range(2)]
                wait_for(lambda: service.student.worker.pending == 3)
                refused = client.post("/v1/completions", json=body)
                assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
                assert refused.json()["error"]["type"] == "Overloaded"
            wait_for(lambda: service.student.worker.pending == 2)
            steps.release(100)
            for stream in stay:
                assert "".join(event["choices"][0]["text"] for event in stream.result()) == "bcde"
    finally:
        decoder.step = step
