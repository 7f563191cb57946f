"""Before every route: the API key, and the time that headers and body may take to arrive (on a simulated clock)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from serving.http.server import configure_server
from serving.service import Service
from serving.settings import Settings
from tests.makers.clocks import run_simulated
from tests.makers.services import run_service

BEGUN = b"GET /v2/health/live HTTP/1.1\r\n"
LIVE = BEGUN + b"Host: x\r\n\r\n"


def test_a_key_is_required(films: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    with run_service(films, api_key_file=tmp_path / "key") as (_, client):
        for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic s3cret"}, {"Authorization": "é"}):
            headers = [(name, value.encode()) for name, value in wrong.items()]
            answer = client.post("/predict", json={"inputs": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
        right = client.post("/predict", json={"inputs": "a"}, headers={"Authorization": "Bearer s3cret"})
        assert right.status_code == 200
        assert client.get("/metrics").status_code == 401 and client.get("/health").status_code == 200


def serve_simulated(folder: Path, use: Callable[[int], Awaitable[Any]], **settings: Any) -> None:
    """Does `use` with the port of a service on the same event loop, whose clock is simulated."""

    async def serve() -> None:
        server = uvicorn.Server(configure_server(Service(Settings(model=str(folder), **settings)), port=0))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.1)
        try:
            await use(server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    run_simulated(serve())


def test_a_body_that_does_not_arrive_is_given_up(films: Path) -> None:
    async def send_half(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert b"408 Request Timeout" in await reader.read(4096)
        writer.close()

    serve_simulated(films, send_half, arrival_seconds=3)


def test_headers_that_do_not_arrive_are_given_up(films: Path) -> None:
    """Neither the first request's nor a later one's; a connection that is only unused stays open."""

    async def begin_requests(port: int) -> None:
        now = asyncio.get_running_loop().time
        first, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(BEGUN)
        begun = now()
        assert await first.read() == b""
        assert now() - begun == pytest.approx(3, abs=0.5)
        second, writer = await asyncio.open_connection("127.0.0.1", port)
        for pause in (5, 0):
            writer.write(LIVE)
            assert (await second.readuntil(b'{"live":true}')).startswith(b"HTTP/1.1 200 OK")
            await asyncio.sleep(pause)
        writer.write(BEGUN)
        begun = now()
        assert await second.read() == b""
        assert now() - begun == pytest.approx(3, abs=0.5)
        writer.close()

    serve_simulated(films, begin_requests, arrival_seconds=3)
