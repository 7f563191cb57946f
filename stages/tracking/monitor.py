"""MLflow's system metrics (CPU, memory, disk, network, GPU), written to the journal instead of the server."""

import threading

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from stages.tracking.journal import Journal

SECONDS = 10
"""Time between two samples."""


class Monitor(SystemMetricsMonitor):
    """Samples on a thread of its own; needs no server, and so misses nothing while one is away."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(run_id="", tracking_uri="")
        self._journal = journal
        self._done = threading.Event()

    def monitor(self) -> None:
        """Runs on the thread."""
        while not self._done.wait(SECONDS):
            self.sample()

    def sample(self) -> None:
        """Writes one sample of everything."""
        self.collect_metrics()
        values = {f"system/{name}": value for name, value in self.aggregate_metrics().items()}
        self._journal.append("metrics", values=values, step=self._logging_step)
        self._logging_step += 1
        for monitor in self.monitors:
            monitor.clear_metrics()

    def finish(self) -> None:
        """Ends with a last sample, so that a short stage has one too."""
        if self._process:
            self._done.set()
            self._process.join()
            self.sample()
