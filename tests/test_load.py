"""The load tool: percentiles are right, a stall is felt by all who came in it, errors are counted by kind.

What depends on time runs on a simulated clock, where all figures are known exactly; the rest against a real server.
"""

import asyncio
import json
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from serving.folder import ModelError
from serving.load.__main__ import load, main
from serving.load.client import Client
from serving.load.figures import kept_up, saturation, summary
from serving.load.loops import Sample, closed, opened, schedule
from serving.load.plot import plot
from serving.load.settings import Load
from serving.load.texts import read

BODY = b'{"inputs": [["a film"]]}'


class Simulated(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to whatever is due next, so that seconds of sleep take no time."""

    class Selector(selectors.DefaultSelector):
        now = 0.0

        def select(self, timeout: float | None = None) -> list:
            self.now += timeout or 0.0
            return super().select(0)

    def __init__(self) -> None:
        self.selector = self.Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def simulated(work: Coroutine) -> Any:
    with asyncio.Runner(loop_factory=Simulated) as runner:
        return runner.run(work)


class Queue:
    """One worker that takes `seconds` a request, in the order of arrival."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._free = seconds, asyncio.Semaphore(1)

    async def ask(self, body: bytes) -> None:
        async with self._free:
            await asyncio.sleep(self.seconds)


class Stalling:
    """Answers after 10 ms, but stands still from 0.3 to 0.7 s."""

    async def ask(self, body: bytes) -> None:
        await asyncio.sleep(0.01)
        now = asyncio.get_running_loop().time()
        if 0.3 <= now < 0.7:
            await asyncio.sleep(0.7 - now)


def test_a_stall_is_felt_by_all_who_came_in_it() -> None:
    """0.4 s of one second stand still: of requests spread evenly, a tenth wait for 0.3 s or more.

    A request that comes t seconds before the end of the stall takes t; so P(latency > x) = 0.4 - x.
    """
    found = summary(simulated(opened(Stalling().ask, [BODY], schedule(1000, 1.0, "constant", 1))), 1.0)
    assert found["p90_ms"] == pytest.approx(310, abs=2) and found["p99_ms"] == pytest.approx(400, abs=2)
    assert found["p50_ms"] == pytest.approx(10)


def test_one_client_that_waits_omits_the_stall() -> None:
    """It meets it once: of some sixty answers one is slow, and the tail is as short as if nothing had happened."""
    found = summary(simulated(closed(Stalling().ask, [BODY], 1, 1.0)), 1.0)
    assert found["p95_ms"] == pytest.approx(10) and found["max_ms"] == pytest.approx(410, abs=11)
    assert found["sent"] == pytest.approx(61, abs=2)


def test_saturation_is_the_capacity() -> None:
    """10 ms a request: 100 per second, found to 5 % from below, whether the first guess is too high or too low."""

    async def search(guess: float) -> float:
        queue = Queue(0.01)

        async def keeps_up(rate: float) -> bool:
            return kept_up(summary(await opened(queue.ask, [BODY], schedule(rate, 4, "poisson", 1)), 4))

        return await saturation(keeps_up, guess)

    for guess in (30, 300):
        assert 85 < simulated(search(guess)) < 103


def test_an_overloaded_service_drifts() -> None:
    """At 1.8 times the capacity a request waits 0.8 s longer with each second that passes (rate / capacity - 1)."""

    async def run(rate: float) -> dict:
        return summary(await opened(Queue(0.01).ask, [BODY], schedule(rate, 3, "constant", 1)), 3)

    assert simulated(run(180))["drift"] == pytest.approx(0.8, abs=0.01)
    assert simulated(run(90))["drift"] == pytest.approx(0, abs=1e-6)


def test_a_limit_on_the_tail_lowers_what_counts_as_sustained() -> None:
    run = summary(simulated(opened(Stalling().ask, [BODY], schedule(100, 5, "constant", 1))), 5)
    assert kept_up(run) and kept_up(run, 500) and not kept_up(run, 300)


def test_one_lump_is_no_keeping_up() -> None:
    """All answered at once, long after the run: the latency does not grow, but the service was not up to the rate."""
    samples = [Sample(due=i / 100, sent=i / 100, done=3 - i / 1e6, error=None) for i in range(100)]
    assert not kept_up(summary(samples, 1.0))
    assert kept_up(summary([sample._replace(done=sample.due + 0.05) for sample in samples], 1.0))


def test_latency_counts_from_the_due_time_though_the_client_was_late() -> None:
    """A client that is kept from sending owns up to it: 0.2 s of its own delay are in every latency."""

    async def instant(body: bytes) -> None:
        if body == b"block":
            time.sleep(0.2)

    samples = asyncio.run(opened(instant, [b"block", b"", b""], [0.0, 0.01, 0.02]))
    late = [sample.sent - sample.due for sample in samples]
    assert late[1] > 0.17 and late[2] > 0.16
    assert samples[1].latency >= late[1]
    assert summary(samples, 0.1)["late_ms"] > 160


@pytest.mark.parametrize("arrivals", ["poisson", "constant"])
def test_schedules_have_their_rate(arrivals: str) -> None:
    """Gaps of 1/rate in the mean; exponential ones have a deviation as large as their mean (Poisson)."""
    due = schedule(100, 200.0, arrivals, seed=3)
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(0.01, rel=0.03) and gaps.min() >= 0 and due[-1] < 200
    assert gaps.std() == pytest.approx(0.01 if arrivals == "poisson" else 0, rel=0.05, abs=1e-9)
    assert due == schedule(100, 200.0, arrivals, seed=3)


def test_percentiles_are_numpys() -> None:
    """Of latencies that are known: 1 to 1000 ms."""
    samples = [
        Sample(due=i / 1000, sent=i / 1000, done=i / 1000 + (i * 7 % 1000 + 1) / 1000, error=None) for i in range(1000)
    ]
    found = summary(samples, 1.0)
    assert [found[name] for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")] == pytest.approx(
        [500.5, 900.1, 990.01, 1000]
    )


class Server:
    """A real HTTP server on loopback: /predict answers after `delay` seconds, `workers` at a time, so many requests."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/predict", self._answer)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.reset()
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    async def _answer(self, request: web.Request) -> web.Response:
        inputs = (await request.json())["inputs"]
        self.asked.append(inputs)
        async with self._free:
            start = time.perf_counter()
            await asyncio.sleep(self.delay)
            self.served.append(time.perf_counter() - start)
        status = 200 if len(self.asked) <= self.answers else 503
        return web.json_response([[{"label": "good", "score": 1.0}]] * len(inputs), status=status)

    def reset(self, delay: float = 0.0, workers: int = 1000, answers: int = 1_000_000) -> "Server":
        """As new; call it between tests."""
        self.delay, self.answers, self.asked, self.served = delay, answers, [], []
        self._free = asyncio.Semaphore(workers)
        return self

    def stall(self, after: float, seconds: float) -> None:
        """The whole server stands still for a while, from now + `after` on."""
        self._loop.call_soon_threadsafe(self._loop.call_later, after, time.sleep, seconds)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(started: Server) -> Server:
    return started.reset()


def run(server: Server | SimpleNamespace, loop, *arguments, **settings) -> list[Sample]:
    async def whole() -> list[Sample]:
        async with Client(Load(url=server.url, **settings)) as client:
            return await loop(client.ask, [BODY], *arguments)

    return asyncio.run(whole())


def test_a_known_delay_is_measured(server: Server) -> None:
    """Against what the server itself measured, to which the way there and back comes."""
    for loop, arguments in ((closed, (4, 0.8)), (opened, (schedule(40, 0.8, "poisson", 1),))):
        server.reset(delay=0.1)
        found = summary(samples := run(server, loop, *arguments), 0.8)
        served = 1000 * np.median(server.served)
        assert 100 <= served <= found["p50_ms"] < served + 40
        assert found["p99_ms"] >= found["p90_ms"] >= found["p50_ms"]
        assert found["errors"] == {} and found["answered"] == len(samples) == len(server.served) > 15


def test_a_real_stall_is_in_the_tail(server: Server) -> None:
    """As on the simulated clock; more where the server takes a while to catch up."""
    server.stall(0.3, 0.4)
    found = summary(run(server, opened, schedule(60, 1.0, "constant", 1)), 1.0)
    assert found["p90_ms"] > 280 and found["errors"] == {}


def test_errors_by_kind(server: Server) -> None:
    server.reset(answers=0)
    assert summary(run(server, closed, 2, 0.2), 0.2)["errors"].keys() == {"HTTP 503"}
    server.reset(delay=2.0)
    found = summary(run(server, opened, [0.0, 0.05], timeout=0.3), 0.1)
    assert found["errors"] == {"timeout": 2}
    assert found["p50_ms"] > 295, "what was given up counts with the time waited"
    server.reset()
    assert summary(run(server, opened, [0.0], batch=2), 0.1)["errors"] == {"wrong answer": 1}
    nobody = run(SimpleNamespace(url="http://127.0.0.1:9"), opened, [0.0])
    assert summary(nobody, 0.1)["errors"] == {"no connection": 1}


def test_nothing_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["load", "http://127.0.0.1:9", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"http://127\.0\.0\.1:9 does not answer .*python -m serving") as found:
        main()
    assert isinstance(found.value.code, str) and not list((tmp_path / "out").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["load", "http://127.0.0.1:9", "--output", str(tmp_path / "file/out")])
    with pytest.raises(SystemExit, match=r"file/out cannot be written \(Not a directory\)"):
        main()


def test_a_service_that_refuses_all_has_no_saturation(server: Server) -> None:
    server.reset(answers=1)
    with pytest.raises(ModelError, match="none was answered: HTTP 503"):
        asyncio.run(load(Load(url=server.url, clients=[1], seconds=0.1, warmup=0)))


def test_wrong_settings_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["load", "http://127.0.0.1:9", "--seconds", "0", "--rates", "5,-1"])
    with pytest.raises(SystemExit, match=r"^load: rates\.1 .*greater than 0; seconds .*greater than 0$"):
        main()


def test_a_wrong_path_says_what_the_service_said(server: Server) -> None:
    with pytest.raises(ModelError, match=r"/v2/models/reviews/infer answers HTTP 404.*--api v2"):
        asyncio.run(load(Load(url=server.url, api="v2", name="reviews")))


def test_all_of_it(server: Server, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a film\nanother\na third\n", encoding="utf8")
    server.reset(delay=0.005, workers=1)
    found = asyncio.run(load(Load(url=server.url, texts=texts, clients=[1, 4], seconds=0.2, warmup=0.1, shares=[0.5])))
    assert [run["clients"] for run in found["runs"][:2]] == [1, 4]
    assert found["runs"][-1]["rate"] == pytest.approx(found["saturation"] / 2)
    assert {tuple(map(tuple, inputs)) for inputs in server.asked} == {(("a film",),), (("another",),), (("a third",),)}
    plot(found, tmp_path / "load.png")
    assert (tmp_path / "load.png").stat().st_size > 10_000


def test_benchmark_hands_an_address_over(server: Server, tmp_path: Path) -> None:
    flags = {"output": tmp_path, "clients": 1, "rates": 20, "seconds": 0.2, "warmup": 0}
    words = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "serving.benchmark", server.url, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [run["loop"] for run in json.loads((tmp_path / "load.json").read_text())["runs"]] == ["closed", "open"]


def test_texts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("one\ttwo\n\nthree\tfour\n", encoding="utf8")
    assert sorted(read(path, 1)) == [["one", "two"], ["three", "four"]]
    path.write_text("one\ttwo\nthree\n", encoding="utf8")
    with pytest.raises(ModelError, match="in every line two with a tab"):
        read(path, 1)
    with pytest.raises(ModelError, match=r"nowhere\.txt cannot be read"):
        read(tmp_path / "nowhere.txt", 1)


def test_made_up_texts_are_of_mixed_lengths() -> None:
    lengths = [len(text.split()) for [text] in read(None, 1)]
    assert min(lengths) <= 5 and max(lengths) > 30 and len(set(lengths)) > 20


def test_a_plot_of_no_answers(tmp_path: Path) -> None:
    runs = [{"loop": "closed", "clients": 1} | summary([Sample(0.0, 0.0, 0.1, "no connection")], 1.0)]
    settings = Load(url="http://127.0.0.1:9").model_dump(mode="json")
    plot({"settings": settings, "runs": runs}, tmp_path / "load.png")
    assert (tmp_path / "load.png").is_file()
