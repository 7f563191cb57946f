"""`python -m serving` as a process: what it listens on, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import wait_for
from test_registered_model import exported

from serving.__main__ import _listen
from serving.settings import Settings


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("films") / "film", pair=False)


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command itself, and its address."""
    command = [sys.executable, "-m", "serving", str(folder), "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        while "http://127.0.0.1:" not in (line := server.stderr.readline()):
            assert line, "it did not start"
        yield server, json.loads(line)["message"].rpartition(" ")[2]
    finally:
        server.kill()
        server.communicate()


def test_sigterm_answers_what_was_accepted_and_ends_with_0(films: Path) -> None:
    """400 texts behind a batch of one token: the server is told to end while it works on them."""
    with running(films, "--max-tokens", "1") as (server, url):

        async def ask() -> list[int]:
            patient = httpx.AsyncHTTPTransport(retries=5, verify=False)
            async with httpx.AsyncClient(base_url=url, timeout=30, transport=patient) as client:
                body = {"inputs": [["fine"]] * 200}
                asked = [asyncio.create_task(client.post("/predict", json=body)) for _ in range(2)]
                while 'makd_inside{model="film"} 400.0' not in (await client.get("/metrics")).text:
                    assert not any(task.done() for task in asked)
                server.send_signal(signal.SIGHUP)  # looks for a changed model; there is none
                server.send_signal(signal.SIGTERM)
                return [len((await task).json()) for task in asked]

        assert asyncio.run(ask()) == [200, 200]
        lines = server.communicate(timeout=30)[1].splitlines()
        assert server.returncode == 0, lines


def test_a_second_interrupt_waits_for_nobody(films: Path) -> None:
    with running(films, "--max-wait-ms", "60000") as (server, url), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/predict", json={"inputs": "fine"}, timeout=30)
        wait_for(lambda: 'makd_inside{model="film"} 1.0' in httpx.get(f"{url}/metrics").text, 10)
        server.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.5)
        server.send_signal(signal.SIGINT)
        server.wait(10)
        asked.exception()


def test_no_answer_waits_for_the_client_to_acknowledge_its_headers() -> None:
    """Nagle's algorithm is off on accepted connections."""

    async def accepted() -> int:
        first: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            first.set_result(found)
            writer.close()

        listening = _listen(Settings(model="any", port=0))
        async with await asyncio.start_server(connected, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await first

    assert asyncio.run(accepted()) != 0
