"""The service's telemetry: Prometheus metrics, latencies of the last minutes, a log in JSON without texts."""

import json
import logging
import random
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SLOT, SLOTS, KEPT = 5, 120, 2000
"""Latencies are kept by slots of 5 s for 10 minutes, at most 2,000 of each slot, drawn evenly: 1 MB together."""


class Telemetry:
    """The counters of one service; `registry` is what `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        ProcessCollector(registry=own)
        GCCollector(registry=own)
        by_route = ["route"]
        self._requests = Counter("makd_requests", "Requests answered", [*by_route, "status"], registry=own)
        self._seconds = Histogram(
            "makd_request_seconds",
            "From the request's first byte to the answer's last",
            by_route,
            buckets=SECONDS,
            registry=own,
        )
        by_model = ["model"]
        self._waits = Histogram(
            "makd_wait_seconds", "A text's wait in the queue", by_model, buckets=SECONDS, registry=own
        )
        self._runs = Histogram("makd_batch_seconds", "A batch's run", by_model, buckets=SECONDS, registry=own)
        self._texts = Histogram("makd_batch_texts", "Texts of a batch", by_model, buckets=SIZES, registry=own)
        self._tokens = Counter("makd_tokens", "Tokens run, real ones and padding", [*by_model, "kind"], registry=own)
        self.pending = Gauge("makd_pending_texts", "Texts accepted and not yet answered", by_model, registry=own)
        self.model_info = Gauge(
            "makd_model_info", "1 for the version that answers", [*by_model, "version", "variant"], registry=own
        )
        self.swaps = Counter("makd_model_swaps", "Attempts to load a changed model", ["result"], registry=own)
        self.recent = RecentLatencies()

    def record_batch(
        self, model: str, *, texts: int, tokens: int, padded: int, waited: list[float], seconds: float
    ) -> None:
        """One batch was run; times in seconds."""
        self._texts.labels(model).observe(texts)
        self._runs.labels(model).observe(seconds)
        self._tokens.labels(model, "real").inc(tokens)
        self._tokens.labels(model, "padding").inc(padded - tokens)
        for wait in waited:
            self._waits.labels(model).observe(wait)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """One request was answered; a route's name has the form of `/v2/models/{name}`."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)


@dataclass
class LatencySlot:
    """A few seconds' requests."""

    number: int
    requests: int = 0
    errors: int = 0
    milliseconds: array = field(default_factory=lambda: array("f"))

    def add(self, status: int, seconds: float) -> None:
        self.requests += 1
        self.errors += status >= 400
        if len(self.milliseconds) < KEPT:
            self.milliseconds.append(1000 * seconds)
        elif (place := random.randrange(self.requests)) < KEPT:
            self.milliseconds[place] = 1000 * seconds

    def summarize(self) -> dict[str, float]:
        p50, p99 = np.percentile(self.milliseconds, [50, 99])
        return {
            "time": self.number * SLOT,
            "requests": self.requests,
            "errors": self.errors,
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
        }


class RecentLatencies:
    """Latencies of the last minutes."""

    def __init__(self) -> None:
        self._slots: deque[LatencySlot] = deque(maxlen=SLOTS)

    def add(self, status: int, seconds: float) -> None:
        """An answered request for an inference."""
        number = int(time.time() // SLOT)
        if not self._slots or self._slots[-1].number != number:
            self._slots.append(LatencySlot(number))
        self._slots[-1].add(status, seconds)

    def summarize(self) -> list[dict[str, float]]:
        """Requests, errors and latency percentiles per slot, oldest first; slots without requests are left out."""
        first = time.time() // SLOT - SLOTS
        return [slot.summarize() for slot in self._slots if slot.number > first]


class JsonFormatter(logging.Formatter):
    """A log record as a line of JSON; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03}",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
