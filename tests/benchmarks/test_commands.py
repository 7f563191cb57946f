"""Every benchmark is a command that explains itself."""

from importlib import import_module

import pytest

COMMANDS = ["agnostic", "budgets", "others", "peers", "prune_step", "ranking", "scratch", "service", "startup", "step"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_the_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    output = capsys.readouterr().out
    assert module.__doc__ and module.__doc__.strip() in output and f"python -m benchmarks.{name}" in output
