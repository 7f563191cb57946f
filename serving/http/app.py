"""The HTTP application: every route, in the order of the files beside this one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serving.http import completions, errors, infer, predict, status, v2
from serving.http.guard import AccessLog, Guard
from serving.service import Service


def create_app(service: Service) -> FastAPI:
    """The application of a service whose models are loaded; it starts and stops the service.

    Raises:
        ModelError: the API key cannot be read.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title=f"makd: {service.student.name}", lifespan=lifespan, redoc_url=None)
    app.state.service = service
    for part in (predict, v2, infer, completions, status):
        app.include_router(part.router)
    errors.install_handlers(app)
    app.openapi_schema = infer.complete_openapi(app.openapi(), service.student.name)
    settings = service.settings
    limits = {"max_bytes": settings.max_bytes, "arrival_seconds": settings.arrival_seconds}
    app.add_middleware(Guard, key=settings.read_key(), **limits)
    app.add_middleware(AccessLog, telemetry=service.telemetry)  # the last one added stands before all others
    return app
