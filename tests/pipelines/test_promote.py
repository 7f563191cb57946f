"""The flow `promote`: the gates between challenger and champion, in a real MLflow registry."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import yaml

from pipelines.promote import _decide, check_gates
from stages.settings import Promote
from tests.makers.dvc_projects import run_python

RULES = {"score_drop": 0.5, "size_growth": 1.0, "latency_growth": 1.05}
FIGURES = {"score": 90.0, "bytes": 1000, "latency_ms": 10.0}
CHANGES = [
    ({"score": 89.5, "latency_ms": 10.5}, True),
    ({"score": 89.4}, False),
    ({"bytes": 1001}, False),
    ({"latency_ms": 10.6}, False),
]


@dataclass(frozen=True)
class Registry:
    """Registers versions of makd-sentiment with figures."""

    client: mlflow.MlflowClient
    folder: Path

    def register(self, **figures: float) -> str:
        """A version that is the challenger; returns its number."""
        tags = {name: str(value) for name, value in figures.items()}
        version = self.client.create_model_version("makd-sentiment", f"file://{self.folder}", tags=tags).version
        self.client.set_registered_model_alias("makd-sentiment", "challenger", version)
        return str(version)

    def find_champion(self) -> str:
        return str(self.client.get_registered_model("makd-sentiment").aliases.get("champion"))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"promote": RULES}))
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("makd-sentiment")
    return Registry(client, tmp_path)


@pytest.fixture
def promote(tmp_path: Path, server: dict[str, str]) -> Callable[[], str]:
    """Runs the flow; returns its output."""

    def run_promote() -> str:
        words = ["-m", "pipelines.promote", "--task", "sentiment"]
        uri = os.environ["MLFLOW_TRACKING_URI"]
        done = run_python(*words, cwd=tmp_path, MLFLOW_TRACKING_URI=uri, **server)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run_promote


@pytest.mark.slow
def test_promotion_by_gates(registry: Registry, promote: Callable[[], str]) -> None:
    first = registry.register(**FIGURES)
    assert "there was no champion" in promote() and registry.find_champion() == first
    registry.register(**FIGURES | {"score": 89.4})
    assert "score: 89.4 against 90, limit 89.5: failed" in promote() and registry.find_champion() == first


@pytest.mark.parametrize(("change", "passed"), CHANGES)
def test_every_gate_counts(change: dict[str, float], passed: bool) -> None:
    gates = check_gates(FIGURES | change, FIGURES, Promote(**RULES))
    assert [gate.figure for gate in gates] == ["score", "bytes", "latency_ms"]
    assert all(gate.passed for gate in gates) is passed
    assert {gate.figure for gate in gates if not gate.passed} == (set() if passed else set(change))


def test_a_champion_is_replaced_when_all_gates_pass_and_figures_are_complete(registry: Registry) -> None:
    rules, fetch = Promote(**RULES), registry.client.get_model_version
    champion = fetch("makd-sentiment", registry.register(**FIGURES))
    for change, passed in CHANGES:
        challenger = fetch("makd-sentiment", registry.register(**FIGURES | change))
        assert _decide(challenger, champion, rules)[0] is passed, change
    bare = fetch("makd-sentiment", registry.register(score=99.0, bytes=1))
    assert _decide(bare, champion, rules) == (
        False,
        [f"version {bare.version} lacks latency_ms; run its export and benchmark"],
    )
    assert _decide(bare, None, rules)[0] is False
    assert _decide(champion, champion, rules)[0] is True
