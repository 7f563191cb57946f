"""`python -m benchmarks.service`: the service compared with its model's bare session."""

from pathlib import Path

import pytest

from benchmarks.service import main
from tests.makers.services import write_counting_model


def test_the_service_is_compared_with_its_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_counting_model(tmp_path / "film", pair=False)
    (tmp_path / "texts").write_text("fine\na dull film\n")
    main([str(folder), "--texts", str(tmp_path / "texts"), "--rounds", "1", "--seconds", "0.2"])
    row = capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]
    service, *sessions, ratio, _ = (float(cell) for cell in row[1:])
    assert ratio == pytest.approx(service / sessions[0], abs=0.006) and min(service, *sessions) > 1


def test_absent_texts_are_named(tmp_path: Path) -> None:
    folder = write_counting_model(tmp_path / "film", pair=False)
    with pytest.raises(SystemExit, match=r"service: .*absent cannot be read"):
        main([str(folder), "--texts", str(tmp_path / "absent")])
