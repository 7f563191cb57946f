"""MLflow's system metrics (CPU, memory, disk, network, GPU), written to the journal instead of the server."""

import threading

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from stages.tracking.journal import Journal

SECONDS = 10
"""Time between two samples."""


class Monitor(threading.Thread):
    """Samples every 10 s, and once at the end.

    MLflow's own monitor is not used: it asks the server at each sample, and gives up when there is no answer.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(name="system metrics", daemon=True)
        self._journal = journal
        self._done = threading.Event()
        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor(), *_gpu()]
        self._step = 0

    def run(self) -> None:
        while not self._done.wait(SECONDS):
            self._sample()
        self._sample()

    def finish(self) -> None:
        if self.is_alive():
            self._done.set()
            self.join()

    def _sample(self) -> None:
        values = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        named = {f"system/{name}": value for name, value in values.items()}
        self._journal.append("metrics", values=named, step=self._step)
        self._step += 1


def _gpu() -> list[BaseMetricsMonitor]:
    try:
        return [GPUMonitor()]
    except Exception:  # MLflow's way to say that there is none
        return []
