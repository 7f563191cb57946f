"""A real HTTP server whose delays are set, on an event loop whose clock is simulated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(kw_only=True)
class SlowServer:
    """POST /predict answers after `delay` seconds, `workers` requests at a time, `answers` of them with 200."""

    delay: float = 0.0
    workers: int = 1000
    answers: int = 1_000_000
    stall: tuple[float, float] = (0.0, 0.0)
    """From when until when, by the loop's clock, the server stands still."""
    inputs: list[list] = field(default_factory=list)
    """What the requests held."""
    seconds: list[float] = field(default_factory=list)
    """How long each took, once its turn had come."""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """On a free port of loopback; gives the address."""
        self._free = asyncio.Semaphore(self.workers)
        app = web.Application()
        app.router.add_post("/predict", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        inputs, now = (await request.json())["inputs"], asyncio.get_running_loop().time
        self.inputs.append(inputs)
        async with self._free:
            start = now()
            await asyncio.sleep(self.delay)
            if self.stall[0] <= now() < self.stall[1]:
                await asyncio.sleep(self.stall[1] - now())
            self.seconds.append(now() - start)
        status = 200 if len(self.inputs) <= self.answers else 503
        return web.json_response([[{"label": "good", "score": 1.0}]] * len(inputs), status=status)
