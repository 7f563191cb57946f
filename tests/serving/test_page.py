"""The front page in a real browser: it shows the models, answers a typed text, draws latencies, asks for a key.

Chromium is driven through chromedriver's WebDriver protocol (W3C), which is JSON over HTTP.
"""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.makers.processes import PATIENCE, wait_for
from tests.makers.services import run_service, write_counting_model

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""Key under which WebDriver answers with an element."""


class Browser:
    """One window; elements are named by CSS selectors and waited for."""

    def __init__(self, driver: httpx.Client, binary: str) -> None:
        options = {"binary": binary, "args": FLAGS}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"implicit": 60_000},
        }
        self._driver, self._session = driver, ""
        self._session = f"/session/{self._post('/session', capabilities={'alwaysMatch': wanted})['sessionId']}"

    def _post(self, path: str, **body):
        return self._driver.post(self._session + path, json=body).raise_for_status().json()["value"]

    def _find_element(self, selector: str) -> str:
        return f"/element/{self._post('/element', using='css selector', value=selector)[ELEMENT]}"

    def open(self, url: object) -> None:
        self._post("/url", url=str(url))

    def type(self, selector: str, text: str) -> None:
        self._post(f"{self._find_element(selector)}/value", text=text)

    def click(self, selector: str) -> None:
        self._post(f"{self._find_element(selector)}/click")

    def read_text(self, selector: str) -> str:
        return self._driver.get(f"{self._session}{self._find_element(selector)}/text").json()["value"]

    def read_console(self) -> list[str]:
        """What the page wrote to the console."""
        return [entry["message"] for entry in self._post("/se/log", type="browser")]

    def close(self) -> None:
        self._driver.delete(self._session)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver, binary = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not binary:
        pytest.skip("no chromium and chromedriver here (on Debian the packages chromium and chromium-driver)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        try:
            wait_for(lambda: is_ready(client))
            browser = Browser(client, binary)
            yield browser
            browser.close()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/status").json()["value"]["ready"]
    except httpx.TransportError:
        return False


def format_scores(text: str) -> list[str]:
    """What the test graph's counts of `dull` and `fine` come to, as the page writes it."""
    odds = np.exp([text.split().count("dull"), text.split().count("fine")])
    return [f"{score:.4f}" for score in odds / odds.sum()]


def test_a_typed_text_is_answered_by_both(browser: Browser, tmp_path: Path) -> None:
    folder = write_counting_model(tmp_path / "film", pair=False)
    (folder / "README.md").write_text("# A card\n\n| metric | value |\n|---|---|\n| accuracy | `90 <b>` |\n")
    with run_service(folder, teacher=str(folder)) as (service, client):
        browser.open(client.base_url)
        browser.type("#text", "a fine fine film")
        browser.click("#send")
        for role in ("Student", "Teacher"):
            rows = [browser.read_text(f"[data-role={role}] .score:nth-of-type({k})") for k in (1, 2)]
            expected = zip(("negative", "positive"), format_scores("a fine fine film"), strict=True)
            assert [row.split() for row in rows] == [list(pair) for pair in expected]
        assert browser.read_text("#name") == service.student.name
        assert browser.read_text("#card td:nth-child(2) code") == "90 <b>", "text, not HTML"
        browser.read_text("#chart path.p99")
        assert browser.read_text("#chart-text").startswith("Requests: 2, of them errors: 0.")
    assert browser.read_console() == []


def test_a_pair_behind_a_key_and_a_refusal(browser: Browser, tmp_path: Path) -> None:
    with run_service(write_counting_model(tmp_path / "pair", pair=True), api_key="secret", max_bytes=1000) as (
        _,
        client,
    ):
        browser.open(client.base_url)
        browser.type("#key", "secret")
        browser.click("#unlock button")
        browser.type("#text", "a fine film")
        browser.type("#pair", "dull")
        browser.click("#send")
        assert browser.read_text("[data-role=Student] .score strong") in ("negative", "positive")
        browser.type("#pair", "dull " * 300)
        browser.click("#send")
        assert "more than the 1000 bytes" in browser.read_text("[data-role=Student] .bad")
