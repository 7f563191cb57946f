"""`python -m serving outputs/export/sentiment`: an exported model behind HTTP; `--help` has the settings."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pydantic_settings import CliApp

from serving.exported import ModelError
from serving.settings import Settings, format_errors

if TYPE_CHECKING:
    from serving.service import Service


def main() -> None:
    signal.signal(signal.SIGTERM, _exit)  # uvicorn's own takes its place while it serves, and calls it at the end
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # `threads` and `instances` say which cores are used
    try:
        settings = CliApp.run(Settings)
        serve(settings)
    except ValidationError as error:
        sys.exit(f"serving: {format_errors(error)}")
    except ModelError as error:
        sys.exit(f"serving: {error}")


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ModelError: a model cannot be served, or the address cannot be used.
    """
    import uvicorn

    from serving.http.server import configure_server
    from serving.service import Service
    from serving.telemetry import JsonFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    listening = _listen(settings)
    service = Service(settings)
    config = configure_server(service)
    gc.collect()
    gc.freeze()  # what is loaded stays; to look through it for garbage would halt all requests for 40 ms now and then
    server, (host, port) = uvicorn.Server(config), listening.getsockname()[:2]
    model = service.student
    logging.info("%s, version %s, %s: http://%s:%s", model.name, model.version, model.variant, host, port)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, service, listening))


async def _serve(server, service: "Service", listening: socket.socket) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.check_for_changes)
    await server.serve(sockets=[listening])


def _listen(settings: Settings) -> socket.socket:
    """Before the models are loaded, so that an address in use is refused at once."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        # asyncio turns Nagle's algorithm off only where it is told the protocol; else each answer waits for 40 ms
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ModelError(f"host {settings.host}, port {settings.port} cannot be used: {error.strerror}") from None
    return bound


def _exit(*_: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
