"""`python -m benchmarks.scratch`: an untrained model that is a base model."""

from pathlib import Path

import pytest

from benchmarks.scratch import main
from stages.models.loading import load_causal_lm
from stages.models.pretrained import load_tokenizer
from stages.settings import Base

SIZES = ["--vocabulary", "300", "--layers", "2", "--hidden", "16", "--heads", "2", "--length", "32", "--seed", "1"]


def test_an_untrained_model_is_a_base_model(
    tmp_path: Path, tiny_text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        main(["--source", str(tiny_text / "stories"), "--output", str(tmp_path / name), *SIZES])
    base = Base(model=str(tmp_path / "first"))
    model, tokenizer = load_causal_lm(base), load_tokenizer(base)
    assert model.config.vocab_size == len(tokenizer) == 300
    assert model.config.eos_token_id == tokenizer.eos_token_id
    text = "Once upon a time — naïve 你好"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "second/model.safetensors").read_bytes()
    assert f"{model.num_parameters():,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("stories", ["--output", "."], r"--output \. exists; give a new folder, or remove it"),
        ("stories", ["--heads", "3"], "--hidden 16 is no multiple of --heads 3; change one of them"),
        ("poems", [], "--source .*poems does not exist; give a file, a folder"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, tiny_text: Path, source: str, changes: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["--source", str(tiny_text / source), "--output", str(tmp_path / "model"), *SIZES, *changes])
    assert not (tmp_path / "model").exists()
