"""Flow `promote`: the challenger becomes the champion if it passes every gate of `promote` in params.yaml.

    python -m pipelines.promote --task sst2

Versions of the registered model `makd-<task>` carry their figures as tags: `score` (points), `bytes`,
`latency_ms`.
What serves loads `models:/makd-sst2@champion`; moving that alias is all this flow does.
"""

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from stages.errors import BadInput
from stages.settings import Promote, read_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FIGURES = ("score", "bytes", "latency_ms")


@dataclass(frozen=True)
class Gate:
    """One figure of both models and whether the challenger's is good enough."""

    figure: str
    challenger: float
    champion: float
    limit: float
    passed: bool

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "failed"
        return f"{self.figure}: {self.challenger:g} against {self.champion:g}, limit {self.limit:g}: {verdict}"


def check_gates(challenger: dict[str, float], champion: dict[str, float], rules: Promote) -> list[Gate]:
    """Score: at least the champion's less `score_drop`; bytes and latency: at most their share of its."""
    score = champion["score"] - rules.score_drop
    most = {
        "bytes": champion["bytes"] * rules.size_growth,
        "latency_ms": champion["latency_ms"] * rules.latency_growth,
    }
    return [
        Gate("score", challenger["score"], champion["score"], score, challenger["score"] >= score),
        *(Gate(name, challenger[name], champion[name], most[name], challenger[name] <= most[name]) for name in most),
    ]


@flow
def promote(task: str) -> bool:
    """Compares the challenger with the champion; True when the alias `champion` moved (or was there already).

    Raises:
        BadInput: there is no challenger to decide about.
    """
    import mlflow

    from stages.tracking.context import find_checkout, get_tracking_uri

    rules, name = read_params().promote, f"makd-{task}"
    client = mlflow.MlflowClient(get_tracking_uri(find_checkout()))
    challenger = _find_version(client, name, "challenger")
    if challenger is None:
        raise BadInput(f"--task {task}: no version of {name} is the challenger; run `dvc repro export@{task}` first")
    promoted, reasons = _decide(challenger, _find_version(client, name, "champion"), rules)
    if promoted:
        client.set_registered_model_alias(name, "champion", challenger.version)
    _report_decision(name, challenger.version, promoted, reasons)
    return promoted


def _find_version(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _decide(challenger: "ModelVersion", champion: "ModelVersion | None", rules: Promote) -> tuple[bool, list[str]]:
    for version in filter(None, (challenger, champion)):
        if missing := [figure for figure in FIGURES if figure not in version.tags]:
            return False, [f"version {version.version} lacks {', '.join(missing)}; run its export and benchmark"]
    if champion is None:
        return True, ["there was no champion"]
    if champion.version == challenger.version:
        return True, [f"version {champion.version} is the champion already"]
    gates = check_gates(_read_figures(challenger), _read_figures(champion), rules)
    return all(gate.passed for gate in gates), [str(gate) for gate in gates]


def _read_figures(version: "ModelVersion") -> dict[str, float]:
    return {figure: float(version.tags[figure]) for figure in FIGURES}


def _report_decision(name: str, version: str, promoted: bool, reasons: list[str]) -> None:
    verdict = f"{name} version {version} is {'the champion' if promoted else 'not promoted'}"
    lines = [f"## {verdict}", *(f"- {reason}" for reason in reasons)]
    create_markdown_artifact("\n".join(lines), key=f"promote-{name.lower().replace('_', '-')}", description=verdict)
    get_run_logger().info("%s: %s", verdict, "; ".join(reasons))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.promote",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--task", required=True, help="which task's model")
    try:
        promote(parser.parse_args().task)
    except BadInput as error:
        sys.exit(f"promote: {error}")


if __name__ == "__main__":
    main()
