"""The OpenAPI page of both kinds of service, and what each refuses of the other's."""

import functools
import json
import operator
import re

import httpx

from serving.service import Service


def test_the_openapi_page_is_whole_and_its_examples_work(
    client: httpx.Client, speller: tuple[Service, httpx.Client]
) -> None:
    for each, name in ((client, "film"), (speller[1], "letters")):
        page = each.get("/openapi.json").json()
        for place in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(page))):
            functools.reduce(operator.getitem, place.split("/"), page)
        answers = []
        for path, methods in page["paths"].items():
            for content in methods.get("post", {}).get("requestBody", {}).get("content", {}).values():
                examples = [e["value"] for e in content.get("examples", {}).values()] or [content["example"]]
                url = path.format(name=name, number=each.get("/info").json()["model_sha"])
                answers += [each.post(url, json=example).status_code for example in examples]
        right = 4 if each is client else 2
        assert sorted(answers) == [200] * right + [404] * (6 - right)


def test_a_classifier_does_not_generate_and_a_decoder_does_not_classify(
    client: httpx.Client, speller: tuple[Service, httpx.Client]
) -> None:
    assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 404
    assert speller[1].post("/predict", json={"inputs": "a"}).status_code == 404
    assert speller[1].get("/v1/models").json()["data"][0]["id"] == "letters"
    assert speller[1].get("/info").json()["model_type"] == {"causal_lm": {}}
