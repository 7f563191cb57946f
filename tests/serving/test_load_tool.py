"""The load tool over real HTTP: delays are measured, errors are counted by kind, and the command writes its figures.

Where a figure depends on time, client and server share a simulated clock.
"""

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.exported import ModelError
from serving.load.__main__ import main, measure_service
from serving.load.client import Client
from serving.load.figures import summarize
from serving.load.loops import Sample, run_closed_loop, run_open_loop, schedule_requests
from serving.load.plot import plot_latency
from serving.load.settings import Load
from serving.load.texts import read_texts
from tests.makers.clocks import run_simulated
from tests.makers.services import run_service
from tests.makers.slow_server import SlowServer

BODY = b'{"inputs": [["a film"]]}'
CLOSED_PORT = "http://127.0.0.1:9"


def send_requests(
    server: SlowServer, loop: Callable[..., Awaitable[list[Sample]]], *arguments: Any, **settings: Any
) -> list[Sample]:
    """What a loop's client measures of the server; `url` in the settings takes the place of its address."""

    async def send() -> list[Sample]:
        async with server.listen() as url, Client(Load(**{"url": url} | settings)) as client:
            return await loop(client.ask, [BODY], *arguments)

    return run_simulated(send())


def measure(server: SlowServer, **settings: Any) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        async with server.listen() as url:
            return await measure_service(Load(url=url, **settings))

    return run_simulated(run())


def test_a_known_delay_is_measured() -> None:
    """Against what the server itself measured; the way there and back takes no simulated time."""
    for loop, arguments in ((run_closed_loop, (4, 0.8)), (run_open_loop, (schedule_requests(40, 0.8, "poisson", 1),))):
        server = SlowServer(delay=0.1)
        samples = send_requests(server, loop, *arguments)
        figures, served = summarize(samples, 0.8), 1000 * np.median(server.seconds)
        assert served == pytest.approx(100) and figures["p50_ms"] == pytest.approx(served, abs=1)
        assert figures["p99_ms"] >= figures["p90_ms"] >= figures["p50_ms"]
        assert figures["errors"] == {} and figures["answered"] == len(samples) == len(server.seconds) > 15


def test_a_stall_of_the_server_is_in_the_tail() -> None:
    samples = send_requests(SlowServer(stall=(0.3, 0.7)), run_open_loop, schedule_requests(60, 1.0, "constant", 1))
    figures = summarize(samples, 1.0)
    assert figures["p90_ms"] == pytest.approx(300, abs=20) and figures["errors"] == {}


def test_errors_by_kind() -> None:
    refused = summarize(send_requests(SlowServer(answers=0), run_closed_loop, 2, 0.2), 0.2)
    assert refused["errors"].keys() == {"HTTP 503"}
    slow = summarize(send_requests(SlowServer(delay=2.0), run_open_loop, [0.0, 0.05], timeout=0.3), 0.1)
    assert slow["errors"] == {"timeout": 2}
    assert slow["p50_ms"] == pytest.approx(300, abs=5), "what was given up counts with the time waited"
    wrong = summarize(send_requests(SlowServer(), run_open_loop, [0.0], batch=2), 0.1)
    assert wrong["errors"] == {"wrong answer": 1}
    unreachable = summarize(send_requests(SlowServer(), run_open_loop, [0.0], url=CLOSED_PORT), 0.1)
    assert unreachable["errors"] == {"no connection": 1}


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["load", CLOSED_PORT, "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"http://127\.0\.0\.1:9 does not answer .*python -m serving") as error:
        main()
    assert isinstance(error.value.code, str) and not list((tmp_path / "out").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["load", CLOSED_PORT, "--output", str(tmp_path / "file/out")])
    with pytest.raises(SystemExit, match=r"file/out cannot be written \(Not a directory\)"):
        main()


def test_a_service_that_refuses_all_has_no_saturation() -> None:
    with pytest.raises(ModelError, match="none was answered: HTTP 503"):
        measure(SlowServer(answers=1), clients=[1], seconds=0.1, warmup=0)


def test_wrong_settings_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["load", CLOSED_PORT, "--seconds", "0", "--rates", "5,-1"])
    with pytest.raises(SystemExit, match=r"^load: rates\.1 .*greater than 0; seconds .*greater than 0$"):
        main()


def test_a_wrong_path_is_refused_with_the_services_answer() -> None:
    with pytest.raises(ModelError, match=r"/v2/models/reviews/infer answers HTTP 404.*--api v2"):
        measure(SlowServer(), api="v2", name="reviews")


def test_all_of_it(tmp_path: Path) -> None:
    texts, server = tmp_path / "texts.txt", SlowServer(delay=0.005, workers=1)
    texts.write_text("a film\nanother\na third\n", encoding="utf8")
    result = measure(server, texts=texts, clients=[1, 4], seconds=0.2, warmup=0.1, shares=[0.5])
    assert [run["clients"] for run in result["runs"][:2]] == [1, 4]
    assert result["runs"][-1]["rate"] == pytest.approx(result["saturation"] / 2)
    assert {tuple(map(tuple, inputs)) for inputs in server.inputs} == {(("a film",),), (("another",),), (("a third",),)}
    plot_latency(result, tmp_path / "load.png")
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_the_command_writes_its_figures(films: Path, tmp_path: Path) -> None:
    flags = {"output": tmp_path, "clients": 1, "rates": 20, "seconds": 0.2, "warmup": 0}
    words = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    with run_service(films) as (_, client):
        command = [sys.executable, "-m", "serving.load", str(client.base_url), *words]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [run["loop"] for run in json.loads((tmp_path / "load.json").read_text())["runs"]] == ["closed", "open"]
    assert (tmp_path / "load.png").is_file()


def test_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("one\ttwo\n\nthree\tfour\n", encoding="utf8")
    assert sorted(read_texts(path, 1)) == [["one", "two"], ["three", "four"]]
    path.write_text("one\ttwo\nthree\n", encoding="utf8")
    with pytest.raises(ModelError, match="in every line two with a tab"):
        read_texts(path, 1)
    with pytest.raises(ModelError, match=r"nowhere\.txt cannot be read"):
        read_texts(tmp_path / "nowhere.txt", 1)


def test_made_up_texts_are_of_mixed_lengths() -> None:
    lengths = [len(text.split()) for [text] in read_texts(None, 1)]
    assert min(lengths) <= 5 and max(lengths) > 30 and len(set(lengths)) > 20


def test_a_plot_of_no_answers(tmp_path: Path) -> None:
    runs = [{"loop": "closed", "clients": 1} | summarize([Sample(0.0, 0.0, 0.1, "no connection")], 1.0)]
    settings = Load(url=CLOSED_PORT).model_dump(mode="json")
    plot_latency({"settings": settings, "runs": runs}, tmp_path / "load.png")
    assert (tmp_path / "load.png").is_file()
