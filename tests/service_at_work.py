"""What the tests of the service share: tiny folders whose answers are counted by hand, and a server in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from serving.http.server import configure
from serving.service import Service
from serving.settings import Settings


@contextmanager
def served(folder: Path | str, **settings) -> Iterator[tuple[Service, httpx.Client]]:
    """A service behind uvicorn on a free port, and a client of it; at the end everything accepted is answered."""
    service = Service(Settings(model=str(folder), **settings))
    server = uvicorn.Server(configure(service, port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, verify=False) as client:
            yield service, client
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Gate:
    """Stands in the way of a model's runs until it is opened; counts the texts that came by."""

    def __init__(self, service: Service) -> None:
        self._model, self.texts, self.batches = service.student.lane.model, 0, []
        self._run, self._open, self.reached = self._model.run, threading.Event(), threading.Event()
        self._model.run = self._wait

    def _wait(self, batch):
        self.reached.set()
        assert self._open.wait(20)
        self.batches.append(batch["input_ids"].shape)
        return self._run(batch)

    def open(self) -> None:
        self._open.set()
