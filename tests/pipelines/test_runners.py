"""What runs the stages of a flow."""

import sys

import pytest

from pipelines.runners import start_task_runner


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("threads", 0, None), "--workers 0: must be 1 or more"),
        (("threads", 1, "tcp://host:8786"), "only `--runner dask` has one, not threads"),
        (("dask", 1, None), "makd\\[dask\\]"),
    ],
)
def test_a_runner_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, settings: tuple, message: str) -> None:
    monkeypatch.setitem(sys.modules, "prefect_dask", None)  # as if it were not installed
    with pytest.raises((ValueError, RuntimeError), match=message), start_task_runner(*settings):
        pass


def test_threads_have_as_many_places_as_workers() -> None:
    with start_task_runner("threads", 3, None) as (_, places):
        assert places == 3
