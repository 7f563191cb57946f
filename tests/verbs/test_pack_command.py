"""pack as a command, as DVC runs it: a folder with params.yaml, and a tracked run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.makers.dvc_projects import ROOT
from tests.makers.packs import LENGTH, TEXTS, read_columns, run_pack, write_lines
from tests.makers.processes import wait_for_delivery
from tests.makers.runs import hash_files


def test_the_command_gives_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    """And its tracked run names the corpus and the model."""
    run_pack(tmp_path / "here", write_lines(tmp_path, TEXTS), tiny_model)
    params = {
        "seed": 5,
        "corpora": ["mine"],
        "data": {"corpora": {"mine": {"source": str(tmp_path / "text.txt")}}},
        "pretrain": {"base": {"model": str(tiny_model)}},
        "pack": {"block_length": LENGTH},
        "tracking": {"system_metrics": False},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    removed = ("MLFLOW_", "MAKD_", "DVC_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs.db"}
    command = [sys.executable, "-m", "stages.pack", "--corpus"]
    subprocess.run([*command, "mine"], cwd=tmp_path, env=env, check=True)
    assert hash_files(tmp_path / "outputs/pack/mine") == hash_files(tmp_path / "here")
    (tracked,) = list_stage_runs(tmp_path)
    assert tracked.info.run_name == "pack@mine" and tracked.info.status == "FINISHED"
    assert tracked.data.params["corpus"] == "mine" and tracked.data.params["base.model"] == str(tiny_model)
    assert tracked.data.metrics["train/blocks"] == len(read_columns(tmp_path / "here", "train")["input_ids"])
    refused = subprocess.run([*command, "yours"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "pack: corpora names `yours`; known are bundled, mine; describe your own" in refused.stderr


def list_stage_runs(folder: Path) -> list[Any]:
    """The tracked runs of stages, once all is delivered."""
    import mlflow

    wait_for_delivery(folder)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/runs.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "makd")
    return [r for r in client.search_runs([experiment.experiment_id]) if "@" in (r.info.run_name or "")]
