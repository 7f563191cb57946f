"""The models of one server, and how one takes the place of another without dropping a request.

A changed model is loaded and warmed up beside the one that answers. Then new requests go to the new one, and the old
one is let go when it has answered what it had accepted.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from serving import source
from serving.folder import ModelError
from serving.served import Served, load
from serving.telemetry import Telemetry

if TYPE_CHECKING:
    from serving.settings import Settings

log = logging.getLogger(__name__)


class Service:
    """The student, and the teacher where there is one, loaded; `start` and `stop` on the event loop that serves them.

    Raises:
        ModelError: a model cannot be served.
    """

    def __init__(self, settings: "Settings") -> None:
        self.settings, self.telemetry = settings, Telemetry()
        self.student = load(settings.model, settings.name or "", settings.variant, settings, self.telemetry)
        self.teacher = self._teacher() if settings.teacher else None
        self.ready = False
        """False before the start and while the last requests are answered."""
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def find(self, name: str) -> Served | None:
        """The model that clients call so."""
        return next((one for one in self.models() if one.name == name), None)

    def models(self) -> list[Served]:
        return [self.student, *([self.teacher] if self.teacher else [])]

    async def start(self) -> None:
        for one in self.models():
            one.lane.start()
            self._show(one)
        self._watch = asyncio.create_task(self._watching())
        self.ready = True

    async def stop(self) -> None:
        """Ends when all that was accepted is answered."""
        self.ready = False
        self._watch.cancel()
        await asyncio.gather(*(one.lane.close() for one in self.models()), *self._closing)

    def look(self) -> None:
        """Takes a changed student soon; safe in a signal handler of the event loop."""
        self._changed.set()

    async def swap(self) -> bool:
        """Takes the student anew if it has changed; a model that cannot be served changes nothing, and is logged."""
        settings, old = self.settings, self.student
        try:
            if await asyncio.to_thread(source.version, settings.model) == old.version:
                return False
            new = await asyncio.to_thread(
                load, settings.model, settings.name or old.name, settings.variant, settings, self.telemetry
            )
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self.telemetry.swaps.labels("failed").inc()
            log.error("%s was not taken: %s", settings.model, error, exc_info=not isinstance(error, ModelError))
            return False
        new.lane.start()
        self.student = new
        self.telemetry.served.remove(old.name, old.version, old.variant)
        self._show(new)
        self.telemetry.swaps.labels("done").inc()
        log.info("%s: version %s takes the place of %s", new.name, new.version, old.version)
        closing = asyncio.create_task(old.lane.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return True

    async def _watching(self) -> None:
        """Looks whenever it is told to, and every `poll_seconds`."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.settings.poll_seconds or None)
            self._changed.clear()
            await self.swap()

    def _teacher(self) -> Served:
        name = f"{self.student.name}-teacher"
        teacher = load(self.settings.teacher, name, "fp32", self.settings, self.telemetry)
        if type(teacher.lane) is not type(self.student.lane):
            raise ModelError(f"teacher {self.settings.teacher} is a model of another kind; give the student's own")
        return teacher

    def _show(self, one: Served) -> None:
        self.telemetry.served.labels(one.name, one.version, one.variant).set(1)
        self.telemetry.inside.labels(one.name).set_function(lambda: one.lane.inside)
