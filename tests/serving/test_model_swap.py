"""A changed model takes over: under load without a failed request, and found by looking."""

import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.makers.answers import compute_scores
from tests.makers.processes import wait_for
from tests.makers.services import run_service, write_counting_model


def point_link(folder: Path, config: bytes, link: Path) -> None:
    """Writes into the manifest that the config is this one, and points the link to the folder, at one stroke."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["config.json"] = hashlib.sha256(config).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (link.parent / "new").symlink_to(folder)
    (link.parent / "new").rename(link)


@pytest.fixture
def relabeled(tmp_path: Path) -> Path:
    """A folder with labels of its own, which its manifest does not know."""
    folder = write_counting_model(tmp_path / "relabeled", pair=False)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "bad", "1": "good"}}))
    return folder


def test_a_changed_model_takes_over_under_load(films: Path, relabeled: Path, tmp_path: Path) -> None:
    """No request fails; each answer is wholly one model's; a broken folder changes nothing."""
    link, names, done = tmp_path / "link", [], threading.Event()
    link.symlink_to(films)

    def send_requests(_: int) -> None:
        while not done.is_set():
            rows = client.post("/predict", json={"inputs": "a fine film"}).json()
            names.append(tuple(row["label"] for row in rows))
            assert rows[0]["score"] == pytest.approx(compute_scores("a fine film")["positive"])

    def announce(config: bytes) -> None:
        point_link(relabeled, config, link)
        count = len(names)
        loop.call_soon_threadsafe(service.check_for_changes)
        wait_for(lambda: len(names) > count + 30)

    with run_service(link, name="film") as (service, client), ThreadPoolExecutor(4) as pool:
        loop, senders = service._watcher.get_loop(), [pool.submit(send_requests, number) for number in range(4)]
        try:
            announce(b"another")
            wait_for(lambda: 'makd_model_swaps_total{result="failed"} 1.0' in client.get("/metrics").text)
            assert set(names) == {("positive", "negative")}
            announce((relabeled / "config.json").read_bytes())
            wait_for(lambda: names[-1] == ("good", "bad"))
        finally:
            done.set()
        for sender in senders:
            sender.result()
        assert set(names) == {("positive", "negative"), ("good", "bad")}
        assert client.get("/info").json()["labels"] == ["bad", "good"]


def test_a_changed_model_is_found_by_looking(films: Path, relabeled: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(films)
    with run_service(link, name="film", poll_seconds=0.05) as (_, client):
        assert client.get("/info").json()["labels"] == ["negative", "positive"]
        point_link(relabeled, (relabeled / "config.json").read_bytes(), link)
        wait_for(lambda: client.get("/info").json()["labels"] == ["bad", "good"])
