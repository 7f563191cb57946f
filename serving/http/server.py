"""Uvicorn for this application: connections without a request are closed, those that may send another stay open."""

import asyncio
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.http.app import create_app
from serving.service import Service

KEEP_ALIVE = 75
"""Seconds that an unused connection stays open; longer than clients and load balancers keep theirs (15 to 60), or they
would send a request just when it is closed."""


def configure_server(service: Service, **address: Any) -> uvicorn.Config:
    """For a `uvicorn.Server`.

    Args:
        address: where to listen, as uvicorn takes it; nothing where the server is given a socket.

    Raises:
        ModelError: the API key cannot be read.
    """
    settings = service.settings
    return uvicorn.Config(
        create_app(service),
        http=partial(Connection, seconds=settings.arrival_seconds),
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.drain_seconds,
        **address,
    )


class Connection(H11Protocol):
    """Closes when a request's headers take longer than `seconds`, for which uvicorn's own waits without end."""

    def __init__(self, *args: Any, seconds: float, **others: Any) -> None:
        super().__init__(*args, **others)
        self._seconds = seconds
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the clock where a request has begun, or is the first to come; stops it when its headers are here."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._clock is None:
            self._clock = self.loop.call_later(self._seconds, self.transport.close)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
