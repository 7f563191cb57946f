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

from serving.__main__ import _listen
from serving.settings import Settings
from tests.makers.processes import PATIENCE, wait_for

HOUR = 3600


@contextmanager
def start_command(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The command itself, and its address."""
    command = [sys.executable, "-m", "serving", str(folder), "--port", "0", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        yield server, read_log_until(server, "http://127.0.0.1:").rpartition(" ")[2]
    finally:
        server.kill()
        server.communicate()


def read_log_until(server: subprocess.Popen, part: str) -> str:
    """The first message from here on that has this in it."""
    while part not in (line := server.stderr.readline()):
        assert line, f"the server ended without a word of {part!r}"
    return json.loads(line)["message"]


def test_sigterm_answers_what_was_accepted_and_ends_with_0(films: Path) -> None:
    """400 texts behind a batch of one token: the server is told to end while it works on them."""
    with start_command(films, "--max-tokens", "1") as (server, url):

        async def send_requests() -> list[int]:
            transport = httpx.AsyncHTTPTransport(retries=5, verify=False)
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, transport=transport) as client:
                body = {"inputs": [["fine"]] * 200}
                requests = [asyncio.create_task(client.post("/predict", json=body)) for _ in range(2)]
                while 'makd_pending_texts{model="film"} 400.0' not in (await client.get("/metrics")).text:
                    assert not any(task.done() for task in requests)
                server.send_signal(signal.SIGHUP)  # looks for a changed model; there is none
                server.send_signal(signal.SIGTERM)
                return [len((await task).json()) for task in requests]

        assert asyncio.run(send_requests()) == [200, 200]
        lines = server.communicate(timeout=PATIENCE)[1].splitlines()
        assert server.returncode == 0, lines


def test_a_second_interrupt_waits_for_no_request(films: Path) -> None:
    """The first one waits for the request, which has hours left; so only the second can end the server."""
    options = ("--max-wait-ms", str(1000 * HOUR), "--drain-seconds", str(HOUR))
    with start_command(films, *options) as (server, url), ThreadPoolExecutor(1) as pool:
        request = pool.submit(httpx.post, f"{url}/predict", json={"inputs": "fine"}, timeout=2 * PATIENCE)
        wait_for(lambda: 'makd_pending_texts{model="film"} 1.0' in httpx.get(f"{url}/metrics").text)
        server.send_signal(signal.SIGINT)
        read_log_until(server, "Waiting for connections to close")
        assert server.poll() is None and not request.done()
        server.send_signal(signal.SIGINT)
        server.wait(PATIENCE)
        outcome = request.exception() or request.result().status_code
        assert outcome == 500 or isinstance(outcome, httpx.TransportError), "it is not answered"


def test_no_answer_waits_for_the_client_to_acknowledge_its_headers() -> None:
    """Nagle's algorithm is off on accepted connections."""

    async def read_option() -> int:
        first: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            first.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = _listen(Settings(model="any", port=0))
        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await first

    assert asyncio.run(read_option()) != 0
