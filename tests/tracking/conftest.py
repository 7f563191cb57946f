"""What the tests of tracking share."""

import pytest


@pytest.fixture(autouse=True)
def _own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each checkout has its own database; MLflow notes in the environment where it last wrote to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
