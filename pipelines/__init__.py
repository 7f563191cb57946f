"""Prefect flows: when the graph of dvc.yaml runs, how often it is tried, who is told. The graph is DVC's.

Prefect reads its settings when it is imported, so the project's own are set here; what you set yourself wins.
"""

import os
from pathlib import Path

_SETTINGS = {
    "PREFECT_HOME": str(Path.cwd() / ".makd" / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
# Prefect makes the folder, but not the one above it
Path(os.environ["PREFECT_HOME"]).parent.mkdir(parents=True, exist_ok=True)
