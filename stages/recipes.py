"""Recipes in; for each the full settings of its student out.

A recipe is a few lines that change what the main chain does, perhaps on top of another recipe. Written out in full
here, one file each, so that a change re-runs the baselines that it reaches and no others.

    python -m stages.recipes
"""

from pathlib import Path

import yaml

from stages.command import command
from stages.settings import Distill, Factorize, Params, Recipe


def recipes(params: Params, *, output: Path) -> None:
    """Writes `settings/<name>.yaml` for every recipe: the blocks `factorize` and `distill` (null: no training)."""
    folder = output / "settings"
    folder.mkdir()
    for name in params.recipes:
        student, training = params.recipe(name)
        blocks = {
            "factorize": student.model_dump(mode="json"),
            "distill": training and training.model_dump(mode="json"),
        } | _started(student)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(blocks, sort_keys=False), encoding="utf8")


def _started(student: Factorize) -> dict[str, str]:
    """The content of a folder that a student starts from: another model there is another recipe to DVC."""
    folder = Path(student.start or "")
    if not student.start or not folder.is_dir():
        return {}
    from stages.training import fingerprint

    return {"start": fingerprint(folder)}


def read_recipe(file: Path) -> tuple[Factorize, Distill | None]:
    """What `recipes` wrote."""
    blocks = yaml.safe_load(file.read_text(encoding="utf8"))
    training = blocks["distill"]
    return Factorize.model_validate(blocks["factorize"]), training and Distill.model_validate(training)


if __name__ == "__main__":
    with command(Recipe, __doc__, verb="recipes") as job:
        recipes(job.params, output=job.output)
