"""OpenAI's completions, in front of a graph that spells; the OpenAPI page of both kinds of service."""

import functools
import hashlib
import json
import operator
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import wait_for
from service_at_work import served
from test_registered_model import exported

from serving.http.stops import Until

LETTERS = "abcdefghijklmnopqrstuvwxyz."


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory):
    """A decoder that goes on with the alphabet, whose `.` ends a text; and a second one as its teacher."""
    folder = spelling(tmp_path_factory.mktemp("letters") / "letters")
    with served(folder, teacher=str(folder), max_generations=3) as (service, client):
        yield service, client


def spelling(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    (folder / "onnx").mkdir(parents=True)
    size = len(LETTERS)
    numbers = {"one": [1], "size": [size], "shape": [0, 1, -1, 1], "axis": [2]}
    node = helper.make_node
    nodes = [
        *(node("Constant", [], [name], value_ints=value) for name, value in numbers.items()),
        node("Constant", [], ["depth"], value_int=size),
        node("Constant", [], ["off_on"], value_floats=[0.0, 9.0]),
        node("Add", ["input_ids", "one"], ["after"]),
        node("Mod", ["after", "size"], ["next"]),
        node("OneHot", ["next", "depth", "off_on"], ["logits"]),
        node("Cast", ["input_ids"], ["read"], to=TensorProto.FLOAT),
        node("Reshape", ["read", "shape"], ["new"]),
        *(node("Concat", [f"past_key_values.0.{p}", "new"], [f"present.0.{p}"], axis=2) for p in ("key", "value")),
    ]
    info, cache = helper.make_tensor_value_info, ["batch", 1, "past", 1]
    ids = [info(name, TensorProto.INT64, ["batch", name]) for name in ("input_ids", "attention_mask", "position_ids")]
    past = [info(f"past_key_values.0.{part}", TensorProto.FLOAT, cache) for part in ("key", "value")]
    present = [info(f"present.0.{part}", TensorProto.FLOAT, ["batch", 1, "total", 1]) for part in ("key", "value")]
    logits = info("logits", TensorProto.FLOAT, ["batch", "input_ids", size])
    graph = helper.make_graph(nodes, "spell", ids + past, [logits, *present])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "onnx/model.onnx"
    )
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="."))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": size - 1}))
    files = [path for path in folder.rglob("*") if path.is_file()]
    digests = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    facts = {"name": "letters", "kind": "causal_lm", "positions": 32, "variants": {"fp32": {"file": "onnx/model.onnx"}}}
    (folder / "manifest.json").write_text(json.dumps(facts | {"files": digests}))
    return folder


def completed(client: httpx.Client, prompt, **settings) -> dict:
    answer = client.post("/v1/completions", json={"prompt": prompt, "temperature": 0, **settings})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(client: httpx.Client, **settings) -> list[dict]:
    with client.stream("POST", "/v1/completions", json={"temperature": 0, "stream": True, **settings}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream") and lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_completions(speller) -> None:
    _, client = speller
    made = completed(client, "ab", max_tokens=5)
    assert made["choices"] == [{"index": 0, "text": "cdefg", "logprobs": None, "finish_reason": "length"}]
    assert made["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}
    assert made["object"] == "text_completion" and made["model"] == "letters"
    ended = completed(client, "w", max_tokens=99)["choices"][0]
    assert (ended["text"], ended["finish_reason"]) == ("xyz", "stop")
    both = completed(client, ["a", "x"], max_tokens=2, model="letters-teacher")
    assert [choice["text"] for choice in both["choices"]] == ["bc", "yz"] and both["model"] == "letters-teacher"
    assert len(completed(client, "a" * 20, max_tokens=99)["choices"][0]["text"]) == 12, "the model reads 32 tokens"


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
def test_stops(speller, stop: str | list[str], text: str, finish: str) -> None:
    """Whether in one piece or in several; what only began like a stop is not lost."""
    _, client = speller
    whole = completed(client, "a", max_tokens=6, stop=stop)["choices"][0]
    assert (whole["text"], whole["finish_reason"]) == (text, finish)
    pieces = [event["choices"][0] for event in events(client, prompt="a", max_tokens=6, stop=stop)]
    assert "".join(piece["text"] for piece in pieces) == text and pieces[-1]["finish_reason"] == finish


@pytest.mark.parametrize("stops", [["abab"], ["aa", "b"], ["ab", "abc"], ["cc"]])
def test_stops_are_found_wherever_the_text_is_cut(stops: list[str]) -> None:
    for text in ("aabababc", "abcabc", "cacacc", "ccc"):
        ends = [text.find(stop) for stop in stops if stop in text]
        for size in (1, 2, 3, 8):
            until, said = Until(stops), ""
            for start in range(0, len(text), size):
                said += until.add(text[start : start + size])
                if until.found:
                    break
            assert said + until.rest() == text[: min(ends)] if ends else text


def test_a_stream_comes_piece_by_piece(speller) -> None:
    _, client = speller
    made = events(client, prompt="a", max_tokens=3, stream_options={"include_usage": True})
    assert [event["choices"][0]["text"] for event in made[:-1]] == ["b", "c", "d"]
    assert [event["choices"][0]["finish_reason"] for event in made[:-1]] == [None, None, "length"]
    assert made[-1]["usage"]["total_tokens"] == 4 and len({event["id"] for event in made}) == 1


def test_a_seed_draws_the_same_again(speller) -> None:
    _, client = speller
    draw = {"temperature": 2.0, "max_tokens": 20, "stop": None}
    first = completed(client, "a", seed=3, **draw)["choices"][0]["text"]
    assert completed(client, "a", seed=3, **draw)["choices"][0]["text"] == first
    assert any(completed(client, "a", seed=seed, **draw)["choices"][0]["text"] != first for seed in range(4, 9))


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
def test_completions_that_cannot_be(speller, change: dict, status: int) -> None:
    service, client = speller
    answer = client.post("/v1/completions", json=change)
    assert answer.status_code == status and len(answer.json()["error"]["message"]) > 10
    assert service.student.lane.inside == 0


def test_tiny_temperatures_are_greedy(speller) -> None:
    _, client = speller
    assert completed(client, "a", temperature=1e-300, max_tokens=3)["choices"][0]["text"] == "bcd"


def test_writers_are_bounded_and_leave_their_seats(speller) -> None:
    """Three write, a fourth is refused; one that hangs up in the middle of its stream makes room."""
    service, client = speller
    body, decoder = {"prompt": "a", "max_tokens": 30, "stream": True}, service.student.lane.model.decoder
    step, steps = decoder.step, threading.Semaphore(3)
    decoder.step = lambda *arguments: step(*arguments) if steps.acquire(timeout=20) else None
    try:
        with ThreadPoolExecutor(2) as pool:
            with client.stream("POST", "/v1/completions", json=body) as leaves:
                lines = leaves.iter_lines()  # httpx hangs up when this is let go
                assert next(lines).startswith("data:")
                stay = [pool.submit(events, client, prompt="a", max_tokens=4) for _ in range(2)]
                wait_for(lambda: service.student.lane.inside == 3, 10)
                refused = client.post("/v1/completions", json=body)
                assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
                assert refused.json()["error"]["type"] == "Overloaded"
            wait_for(lambda: service.student.lane.inside == 2, 10)
            steps.release(100)
            for one in stay:
                assert "".join(event["choices"][0]["text"] for event in one.result()) == "bcde"
    finally:
        decoder.step = step


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory):
    with served(exported(tmp_path_factory.mktemp("film") / "film", pair=False)) as (_, client):
        yield client


def test_the_openapi_page_is_whole_and_its_examples_work(classifier: httpx.Client, speller) -> None:
    for each, name in ((classifier, "film"), (speller[1], "letters")):
        page = each.get("/openapi.json").json()
        for place in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(page))):
            functools.reduce(operator.getitem, place.split("/"), page)
        answers = []
        for path, methods in page["paths"].items():
            for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
                examples = [e["value"] for e in content.get("examples", {}).values()] or [content["example"]]
                url = path.format(name=name, number=each.get("/info").json()["model_sha"])
                answers += [each.post(url, json=example).status_code for example in examples]
        right = 4 if each is classifier else 2
        assert sorted(answers) == [200] * right + [404] * (6 - right)


def test_a_classifier_does_not_write_and_a_writer_does_not_classify(classifier: httpx.Client, speller) -> None:
    assert classifier.post("/v1/completions", json={"prompt": "a"}).status_code == 404
    assert speller[1].post("/predict", json={"inputs": "a"}).status_code == 404
    assert speller[1].get("/v1/models").json()["data"][0]["id"] == "letters"
    assert speller[1].get("/info").json()["model_type"] == {"causal_lm": {}}
