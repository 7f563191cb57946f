"""One request: what is sent, and what counts as an answer.

api           path                    body                                  an answer holds
predict       /predict                {"inputs": [[text], ...]}             a list for each text
v2            /v2/models/NAME/infer   `text` (and `text_pair`), BYTES [n]   outputs whose first dimension is n
completions   /v1/completions         {"prompt": [text, ...], ...}          a choice for each text

Bodies are made before the clock runs, so that the client's own work per request stays small.
"""

import errno
import json
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp

from serving.exported import ModelError
from serving.load.settings import Load
from serving.load.texts import Texts

KEY = "MAKD_API_KEY"
"""Environment variable with the service's API key, if it wants one."""
TIMEOUT = "timeout"


class Api(NamedTuple):
    """How one protocol asks, and how many texts an answer is for."""

    path: str
    body: Callable[[Texts, Load], dict[str, Any]]
    answered: Callable[[Any], int]


def _tensors(texts: Texts, _: Load) -> dict[str, Any]:
    columns = zip(("text", "text_pair"), zip(*texts, strict=True), strict=False)
    return {"inputs": [{"name": n, "datatype": "BYTES", "shape": [len(c)], "data": list(c)} for n, c in columns]}


APIS = {
    "predict": Api("/predict", lambda texts, _: {"inputs": texts}, len),
    "v2": Api("/v2/models/{name}/infer", _tensors, lambda answer: answer["outputs"][0]["shape"][0]),
    "completions": Api(
        "/v1/completions",
        lambda texts, settings: {"prompt": [text[0] for text in texts], "max_tokens": settings.tokens},
        lambda answer: len(answer["choices"]),
    ),
}


class Client:
    """Connections to the service; `ask` sends one body and says what went wrong, if anything."""

    def __init__(self, settings: Load) -> None:
        self.settings, self.api = settings, APIS[settings.api]
        self.url = settings.url.rstrip("/") + self.api.path.format(name=settings.name)

    async def __aenter__(self) -> Self:
        key = os.environ.get(KEY)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.settings.connections),
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout),
            headers={"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    def make_bodies(self, texts: Texts) -> list[bytes]:
        """Requests of `batch` texts each, ready to send; the last ones begin again at the front."""
        size = self.settings.batch
        rows = [[texts[(i + k) % len(texts)] for k in range(size)] for i in range(0, len(texts), size)]
        return [json.dumps(self.api.body(row, self.settings)).encode() for row in rows]

    async def ask(self, body: bytes) -> str | None:
        """Sends one request; returns None where it was answered, else the kind of error."""
        try:
            async with self.session.post(self.url, data=body) as response:
                answer = await response.read()
                return self._judge(answer) if response.status == 200 else f"HTTP {response.status}"
        except TimeoutError:
            return TIMEOUT
        except aiohttp.ClientConnectorError as error:
            return "no connection" if error.errno != errno.EMFILE else "too many open files here"
        except (aiohttp.ClientError, OSError):
            return "connection lost"

    def _judge(self, answer: bytes) -> str | None:
        try:
            whole = self.api.answered(json.loads(answer)) == self.settings.batch
        except (ValueError, TypeError, LookupError):
            whole = False
        return None if whole else "wrong answer"

    async def check_service(self, body: bytes) -> None:
        """Asks once.

        Raises:
            ModelError: the service is not there, or does not take such requests; with what it says itself.
        """
        try:
            async with self.session.post(self.url, data=body) as response:
                said = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise ModelError(
                f"{self.settings.url} does not answer ({str(error) or 'timeout'}); "
                "start the service, for example `python -m serving outputs/export/<task>`"
            ) from error
        if response.status != 200 or self._judge(said):
            raise ModelError(
                f"{self.url} answers HTTP {response.status}: {said.decode(errors='replace')[:300]}; "
                f"--api {self.settings.api}, --name, --texts and {KEY} say what is sent"
            )
