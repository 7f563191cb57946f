"""Recipes in; for each the full settings of its student out.

A recipe is a few lines that change what the main chain does, perhaps on top of another recipe. Written out in full
here, one file each, so that a change re-runs the baselines that it affects and no others.

    python -m stages.recipes
"""

from pathlib import Path

import yaml

from stages.command import command
from stages.settings import Distill, Factorize, Params, Recipe


def write_recipes(params: Params, *, output: Path) -> None:
    """Writes `settings/<name>.yaml` for every recipe: the blocks `factorize` and `distill` (null: no training)."""
    folder = output / "settings"
    folder.mkdir()
    for name in params.recipes:
        student, training = params.resolve_recipe(name)
        blocks = {
            "factorize": student.model_dump(mode="json"),
            "distill": training and training.model_dump(mode="json"),
        } | _fingerprint_student(student)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False), encoding="utf8")


def _fingerprint_student(student: Factorize) -> dict[str, str]:
    """The content of a pretrained student's folder: another model there is another recipe to DVC."""
    folder = Path(student.pretrained_student or "")
    if not student.pretrained_student or not folder.is_dir():
        return {}
    from stages.training.fingerprint import fingerprint_inputs

    return {"pretrained_student": fingerprint_inputs(folder)}


def read_recipe(file: Path) -> tuple[Factorize, Distill | None]:
    """The blocks that `recipes` wrote."""
    blocks = yaml.safe_load(file.read_text(encoding="utf8"))
    training = blocks["distill"]
    return Factorize.model_validate(blocks["factorize"]), training and Distill.model_validate(training)


if __name__ == "__main__":
    with command("recipes", Recipe, __doc__) as job:
        write_recipes(job.params, output=job.output)
        print(f"{len(job.params.recipes)} recipes")
