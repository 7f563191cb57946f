"""Metrics, latencies and the access log count every request, and hold no text."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.makers.services import run_service


def test_metrics_log_and_info(films: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "serving.access")
    with run_service(films) as (service, client):
        for inputs in ("a fine film", [["dull secret"], ["fine"]]):
            assert client.post("/predict", json={"inputs": inputs}, headers={"X-Request-ID": "n.1"}).status_code == 200
        assert client.post("/predict", content=b"").headers["X-Request-ID"] != "n.1"
        text = client.get("/metrics").text
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        info, recent = client.get("/info").json(), client.get("/latencies").json()["points"]
    requests = {status: values["makd_requests_total", "/predict", status] for status in ("200", "422")}
    assert requests == {"200": 2, "422": 1}
    assert values["makd_batch_texts_sum", "film"] == 3 and values["makd_tokens_total", "real", "film"] == 6
    assert values["makd_pending_texts", "film"] == 0
    assert values["makd_model_info", "film", "fp32", service.student.version] == 1
    assert sum(point["requests"] for point in recent) == 3 and sum(point["errors"] for point in recent) == 1
    assert info["model_type"]["classifier"]["id2label"] == {"0": "negative", "1": "positive"}
    lines = [record.fields for record in caplog.records if record.name == "serving.access"]
    own = [line for line in lines if line["id"] == "n.1"]
    assert [line["texts"] for line in own] == [1, 2] and own[0]["status"] == 200 and own[0]["ms"] > 0
    assert "secret" not in caplog.text
