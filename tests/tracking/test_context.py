"""The context of a stage: the pipeline that it is part of."""

import subprocess
import sys

import psutil
import pytest

from stages.tracking import context


def test_the_nearest_dvc_process_names_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAKD_PIPELINE", raising=False)
    assert context.find_pipeline() is None
    command = "import time, sys; sys.argv = ['dvc']; print('ready', flush=True); time.sleep(600)"
    process = subprocess.Popen(["dvc", "-c", command], executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"  # it has become that command
        monkeypatch.setattr(psutil.Process, "parents", lambda self: [psutil.Process(process.pid)])
        assert context.find_pipeline().endswith(f":{process.pid}")
    finally:
        process.kill()
        process.wait()


def test_the_starter_may_name_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKD_PIPELINE", "wise-owl 1a2b")
    assert context.find_pipeline() == "wise-owl 1a2b"
