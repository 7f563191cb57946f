"""Open Inference Protocol v2, JSON and binary, in front of a graph that counts."""

import json
import socket
import struct

import httpx
import numpy as np
import pytest

from tests.makers.processes import PATIENCE, wait_for
from tests.makers.services import WORDS

TEXTS = ["a fine film", "dull", "a film", "fine fine dull dull dull"]
COUNTS = [[0, 1], [1, 0], [0, 0], [3, 2]]
URL = "/v2/models/film/infer"
LENGTH = "Inference-Header-Content-Length"


def infer(client: httpx.Client, *inputs: dict, **rest: object) -> dict[str, np.ndarray]:
    """The outputs of a JSON request as arrays."""
    answer = client.post(URL, json={"inputs": list(inputs), **rest})
    assert answer.status_code == 200, answer.text
    return {out["name"]: np.reshape(out["data"], out["shape"]) for out in answer.json()["outputs"]}


def make_tensor(name: str, values: list, datatype: str = "BYTES") -> dict:
    return {"name": name, "shape": list(np.shape(values)), "datatype": datatype, "data": values}


def test_health_and_metadata(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    facts = client.get("/v2/models/film").json()
    assert [tensor["name"] for tensor in facts["inputs"]] == ["text", "input_ids"]
    assert [tensor["name"] for tensor in facts["outputs"]] == ["label", "scores", "logits"]
    (version,) = facts["versions"]
    assert client.get(f"/v2/models/film/versions/{version}/ready").json() == {"name": "film", "ready": True}
    for missing in ("/v2/models/other", "/v2/models/film/versions/7", "/v2/models/other/ready"):
        assert client.get(missing).status_code == 404


@pytest.mark.parametrize("shape", [[4], [4, 1]])
def test_texts_in_json(client: httpx.Client, shape: list[int]) -> None:
    outputs = infer(client, make_tensor("text", TEXTS) | {"shape": shape})
    np.testing.assert_array_equal(outputs["logits"], COUNTS)
    odds = np.exp(np.array(COUNTS, float))
    np.testing.assert_allclose(outputs["scores"], odds / odds.sum(1, keepdims=True), atol=1e-6)
    assert outputs["label"].tolist() == ["positive", "negative", "negative", "negative"]


def test_ids_in_json(client: httpx.Client) -> None:
    """Padded, nested or flat, as their sender likes."""
    ids = [[WORDS["fine"], WORDS["a"], 0], [WORDS["dull"]] * 3]
    mask = [[1, 1, 0], [1, 1, 1]]
    for data in (ids, [*ids[0], *ids[1]]):
        outputs = infer(
            client,
            make_tensor("input_ids", ids, "INT64") | {"data": data},
            make_tensor("attention_mask", mask, "INT64"),
        )
        np.testing.assert_array_equal(outputs["logits"], [[0, 1], [3, 0]])


def test_only_the_requested_outputs(client: httpx.Client) -> None:
    answer = client.post(
        URL, json={"id": "q7", "inputs": [make_tensor("text", ["fine"])], "outputs": [{"name": "logits"}]}
    )
    assert answer.json()["id"] == "q7" and [out["name"] for out in answer.json()["outputs"]] == ["logits"]
    assert answer.json()["model_name"] == "film" and answer.json()["model_version"]


def test_what_triton_answers_in_another_form_is_refused(client: httpx.Client) -> None:
    """`class_count` of Triton's clients asks for texts such as "0.9:1" in place of numbers."""
    wanted = [{"name": "scores", "parameters": {"classification": 2}}]
    answer = client.post(URL, json={"inputs": [make_tensor("text", ["fine"])], "outputs": wanted})
    assert answer.status_code == 422 and "class_count" in answer.json()["error"]


def test_the_openapi_page_names_the_model(client: httpx.Client) -> None:
    """So that its examples can be tried as they are."""
    page = client.get("/openapi.json").json()
    for path in ("/v2/models/{name}", URL.replace("film", "{name}")):
        (operation,) = page["paths"][path].values()
        name = next(parameter for parameter in operation["parameters"] if parameter["name"] == "name")
        assert client.get(f"/v2/models/{name['example']}/ready").status_code == 200
    body = page["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post(URL, json=body).status_code == 200


def make_binary(texts: list[str], **parameters: bool) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with binary texts, as the extension describes them."""
    blob = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    entry = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    head = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    return head + blob, {LENGTH: str(len(head))}


def test_binary_both_ways(client: httpx.Client) -> None:
    body, headers = make_binary([*TEXTS, "naïve fine"], binary_data_output=True)
    answer = client.post(URL, content=body, headers=headers)
    end = int(answer.headers[LENGTH])
    outputs, blob = json.loads(answer.content[:end])["outputs"], answer.content[end:]
    parts, at = {}, 0
    for out in outputs:
        parts[out["name"]] = blob[at : at + out["parameters"]["binary_data_size"]]
        at += out["parameters"]["binary_data_size"]
    assert at == len(blob) and [out["shape"] for out in outputs] == [[5], [5, 2], [5, 2]]
    np.testing.assert_array_equal(np.frombuffer(parts["logits"], "<f4").reshape(5, 2), [*COUNTS, [0, 1]])
    assert parts["label"].startswith(struct.pack("<I", 8) + b"positive" + struct.pack("<I", 8) + b"negative")


def test_binary_ids_and_json_back(client: httpx.Client) -> None:
    ids = np.array([[WORDS["dull"], WORDS["dull"]]], "<i8")
    entry = {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [entry]}).encode()
    answer = client.post(URL, content=head + ids.tobytes(), headers={LENGTH: str(len(head))})
    assert [out["data"] for out in answer.json()["outputs"] if out["name"] == "logits"] == [[2, 0]]


TEXT = make_tensor("text", ["fine"])
IDS = make_tensor("input_ids", [[2, 3]], "INT64")


@pytest.mark.filterwarnings("error::RuntimeWarning")  # what overflows is refused, not only warned of
@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        ([], 422),
        ([TEXT, TEXT], 422),
        ([TEXT | {"shape": [2]}], 422),
        ([TEXT | {"shape": [-1]}], 422),
        ([TEXT | {"shape": [2**31, 2**31]}], 422),
        ([TEXT | {"datatype": "STRING"}], 422),
        ([TEXT | {"datatype": "FP32"}], 422),
        ([TEXT | {"data": [3]}], 422),
        ([TEXT | {"data": None}], 422),
        ([TEXT | {"shape": [0], "data": []}], 422),
        ([TEXT | {"name": "texts"}], 422),
        ([TEXT | {"parameters": {"binary_data_size": 10}}], 400),
        ([TEXT | {"parameters": {"binary_data_size": "x"}}], 400),
        ([IDS | {"data": [2, 2**70]}], 422),
        ([IDS | {"datatype": "FP16", "data": [2, 1e30]}], 422),
        ([IDS | {"data": [2, 3.5]}], 422),
        ([IDS | {"data": [2, True]}], 422),
        ([IDS | {"data": [2, False]}], 422),
        ([IDS | {"data": [2, 6]}], 422),
        ([IDS | {"data": [2, -1]}], 422),
        ([IDS | {"shape": [2]}], 422),
        ([IDS, make_tensor("attention_mask", [[0, 0]], "INT64")], 422),
        ([IDS, make_tensor("attention_mask", [[1]], "INT64")], 422),
        ([IDS, make_tensor("token_type_ids", [[0, 1]], "INT64")], 422),
        ([make_tensor("input_ids", [[2] * 17], "INT64")], 422),
        ([make_tensor("input_ids", [[]], "INT64")], 422),
        ([make_tensor("text", ["a"] * 257)], 413),
    ],
    ids=lambda value: json.dumps(value)[9:60] if isinstance(value, list) else None,
)
def test_wrong_tensors_are_refused(client: httpx.Client, inputs: list[dict], status: int) -> None:
    answer = client.post(URL, json={"inputs": inputs})
    assert answer.status_code == status and 10 < len(answer.json()["error"]) < 250


def test_wrong_bytes_are_refused(client: httpx.Client) -> None:
    body, headers = make_binary(["fine"])
    for content, length, status in [
        (body[:-1], headers[LENGTH], 400),
        (body + b"x", headers[LENGTH], 400),
        (body.replace(struct.pack("<I", 4), struct.pack("<I", 5)), headers[LENGTH], 400),
        (body.replace(b"fine", b"f\xffne"), headers[LENGTH], 422),
        (body, "9" * 5000, 400),
        (body, "-1", 400),
        (body, str(len(body) + 1), 400),
        (body, "0", 400),
        (b'{"inputs": [{"name": "\\ud800"}]}', None, 400),
    ]:
        answer = client.post(URL, content=content, headers={LENGTH: length} if length else {})
        assert answer.status_code == status, answer.text
    assert client.post(URL, content=b"", headers={"content-encoding": "gzip"}).status_code == 415


def test_a_client_that_disconnects_in_the_middle_of_a_body_is_no_error(client: httpx.Client) -> None:
    """The server asks for the body (`100 Continue`) and then waits for the rest of it."""
    for path in (URL, "/predict"):
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=PATIENCE) as leaves:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
            leaves.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
            assert leaves.recv(4096).startswith(b"HTTP/1.1 100")
            leaves.sendall(b'{"inputs"')
    line = 'makd_requests_total{route="%s",status="%s"} 1.0'
    for counted in (("/v2/models/{name}/infer", 499), ("/predict", 400)):  # FastAPI reads the body of the latter
        wait_for(lambda counted=counted: line % counted in client.get("/metrics").text)
    assert 'status="500"' not in client.get("/metrics").text
