"""The verb `recipes`: each recipe written out in full, so that DVC runs again what a change concerns."""

from pathlib import Path

import pytest

from stages.recipes import read_recipe, write_recipes
from stages.settings import Params, read_params
from tests.makers.settings import EXTENDED

OWN = {"parent", "child", "other_terms", "untrained", "trained_again"}


def write_settings(folder: Path, text: str) -> dict[str, str]:
    """The files that `recipes` writes of a params file, by the recipes' names."""
    (folder / "params.yaml").write_text(text)
    output = folder / str(len(list(folder.iterdir())))
    output.mkdir()
    write_recipes(read_params(folder / "params.yaml"), output=output)
    return {file.stem: file.read_text() for file in (output / "settings").iterdir()}


def list_changed(folder: Path, before: str, after: str) -> set[str]:
    """The recipes whose files differ when this is replaced in the params file."""
    assert before in EXTENDED
    first, second = write_settings(folder, EXTENDED), write_settings(folder, EXTENDED.replace(before, after))
    return {name for name in second if second[name] != first.get(name)}


def test_recipes_are_written_out_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(EXTENDED)
    params = read_params(tmp_path / "params.yaml")
    write_recipes(params, output=tmp_path)
    assert set(params.recipes) > OWN
    for name in params.recipes:
        assert read_recipe(tmp_path / f"settings/{name}.yaml") == params.resolve_recipe(name)


def test_another_pretrained_student_is_another_recipe(tmp_path: Path) -> None:
    """DVC sees no more of it than the recipe's file, which still reads back as the recipe."""
    student = tmp_path / "pruned"
    texts = []
    for content in (None, "one", "two", "two"):
        if content:
            student.mkdir(exist_ok=True)
            (student / "model.safetensors").write_text(content)
        params = Params(recipes={"pruned": {"factorize": {"pretrained_student": str(student)}}})
        output = tmp_path / str(len(texts))
        output.mkdir()
        write_recipes(params, output=output)
        assert read_recipe(output / "settings/pruned.yaml") == params.resolve_recipe("pruned")
        texts.append((output / "settings/pruned.yaml").read_text())
    assert len(set(texts)) == 3 and texts[2] == texts[3]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("learning_rate: 0.1", "learning_rate: 0.2", {"parent", "child", "other_terms"}),
        ("extends: untrained, distill: {epochs: 2}", "extends: untrained, distill: {epochs: 3}", {"trained_again"}),
    ],
)
def test_a_change_reaches_the_recipes_that_it_concerns_and_no_others(
    tmp_path: Path, before: str, after: str, changed: set[str]
) -> None:
    """DVC runs a baseline again when its file here changes."""
    assert list_changed(tmp_path, before, after) == changed


def test_a_change_of_the_main_chain_reaches_all_that_do_not_set_it(tmp_path: Path) -> None:
    changed = list_changed(tmp_path, "{budget: 0.25}", "{budget: 0.3}")
    assert changed & OWN == {"parent"}, "the others have a budget of their own"
    assert changed - OWN == set(Params().recipes) - {"homodistil", "minilmv2_agnostic"}, "and so have these"
