"""The models of one server, and how one replaces another without dropping a request.

A changed model is loaded and warmed up beside the one that answers. Then new requests go to the new one, and the old
one is let go when it has answered what it had accepted.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from serving import model_source
from serving.exported import ModelError
from serving.served_model import ServedModel, load_model
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
        self.student = load_model(settings.model, settings.name or "", settings.variant, settings, self.telemetry)
        self.teacher = self._load_teacher() if settings.teacher else None
        self.ready = False
        """False before the start and while the last requests are answered."""
        self._changed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def find_model(self, name: str) -> ServedModel | None:
        """The model of that name."""
        return next((model for model in self.list_models() if model.name == name), None)

    def list_models(self) -> list[ServedModel]:
        return [self.student, *([self.teacher] if self.teacher else [])]

    async def start(self) -> None:
        for model in self.list_models():
            model.worker.start()
            self._export_metrics(model)
        self._watcher = asyncio.create_task(self._watch())
        self.ready = True

    async def stop(self) -> None:
        """Ends when all that was accepted is answered."""
        self.ready = False
        self._watcher.cancel()
        await asyncio.gather(*(model.worker.close() for model in self.list_models()), *self._closing)

    def check_for_changes(self) -> None:
        """Loads a changed student soon; safe in a signal handler of the event loop."""
        self._changed.set()

    async def swap_student(self) -> bool:
        """Loads the student anew if it has changed; a model that cannot be served changes nothing, and is logged."""
        settings, old = self.settings, self.student
        try:
            if await asyncio.to_thread(model_source.find_version, settings.model) == old.version:
                return False
            new = await asyncio.to_thread(
                load_model, settings.model, settings.name or old.name, settings.variant, settings, self.telemetry
            )
        except Exception as error:  # whatever is wrong with the new one, the old one answers
            self.telemetry.swaps.labels("failed").inc()
            log.error("%s was not loaded: %s", settings.model, error, exc_info=not isinstance(error, ModelError))
            return False
        new.worker.start()
        self.student = new
        self.telemetry.model_info.remove(old.name, old.version, old.variant)
        self._export_metrics(new)
        self.telemetry.swaps.labels("done").inc()
        log.info("%s: version %s replaces %s", new.name, new.version, old.version)
        closing = asyncio.create_task(old.worker.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return True

    async def _watch(self) -> None:
        """Checks when `check_for_changes` was called, and every `poll_seconds`."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self.settings.poll_seconds or None)
            self._changed.clear()
            await self.swap_student()

    def _load_teacher(self) -> ServedModel:
        name = f"{self.student.name}-teacher"
        teacher = load_model(self.settings.teacher, name, "fp32", self.settings, self.telemetry)
        if type(teacher.worker) is not type(self.student.worker):
            raise ModelError(f"teacher {self.settings.teacher} is a model of another kind; give the student's own")
        return teacher

    def _export_metrics(self, model: ServedModel) -> None:
        self.telemetry.model_info.labels(model.name, model.version, model.variant).set(1)
        self.telemetry.pending.labels(model.name).set_function(lambda: model.worker.pending)
