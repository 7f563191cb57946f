"""Recipes: what each changes in the main chain's `factorize` and `distill`, and what it leaves as it is."""

from pathlib import Path

import pytest
import yaml

from stages.settings import Factorize, Params, Recipe, read_params
from tests.makers.settings import EXTENDED

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())
BUILT_IN = yaml.safe_load((ROOT / "stages" / "settings" / "recipes.yaml").read_text())


def test_a_recipe_changes_what_it_names_and_nothing_else() -> None:
    params = read_params(ROOT / "params.yaml")
    student, training = params.resolve_recipe("svd")
    assert student == params.factorize.model_copy(update={"decomposition": "svd"}) and training is None
    student, training = params.resolve_recipe("lowrank_kd")
    assert student == params.factorize and training is not None
    assert list(training.objectives.active_terms()) == ["kl"]
    assert training.objectives.kl.temperature == 2.0, "a partial override keeps the block's other values"
    assert training == params.distill.model_copy(update={"objectives": training.objectives})
    _, training = params.resolve_recipe("lowrank_finetune")
    assert list(training.objectives.active_terms()) == ["hard"] and training.dropout == 0.1


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(EXTENDED)
    params = read_params(tmp_path / "params.yaml")
    student, training = params.resolve_recipe("child")
    assert student == Factorize(budget=0.5, rank_rule="ratio")
    assert (training.epochs, training.learning_rate) == (1, 0.1)
    assert list(training.objectives.active_terms()) == ["kl", "hidden_cosine"], "those it names, no others"
    assert (training.objectives.kl.weight, training.objectives.kl.temperature) == (2, 3)
    _, training = params.resolve_recipe("other_terms")
    assert list(training.objectives.active_terms()) == ["hard", "kl"] and training.objectives.kl.weight == 2
    student, training = params.resolve_recipe("untrained")
    assert training is None and student.budget == 0.5
    _, training = params.resolve_recipe("trained_again")
    assert training == params.distill.model_copy(update={"epochs": 2}), "nothing is left of training that was null"


def test_a_recipe_follows_the_main_chain(tmp_path: Path) -> None:
    changes = {"factorize": {"budget": 0.25}, "distill": {"epochs": 7}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHIPPED | changes))
    student, training = read_params(tmp_path / "params.yaml").resolve_recipe("lowrank_kd")
    assert student == Factorize(budget=0.25) and training.epochs == 7


def test_ones_own_recipes_are_added_to_the_built_in_ones() -> None:
    params = Params(recipes={"mine": {"factorize": {"budget": 0.3}}, "svd": {"factorize": {"budget": 0.2}}})
    assert list(Params().recipes) == list(BUILT_IN)
    assert list(params.recipes) == [*BUILT_IN, "mine"]
    assert params.resolve_recipe("mine")[0].budget == 0.3
    student, training = params.resolve_recipe("svd")
    assert (student.budget, student.decomposition) == (0.2, "whitened"), "one of the same name takes its place, whole"
    assert training == params.distill
    assert params.recipes["kd"] == Recipe.model_validate(BUILT_IN["kd"])


@pytest.mark.parametrize(
    "factorize",
    [
        {},
        {"layers": "every"},
        {"layers": "first", "depth": 3},
        {"layers": [2, 4, 6]},
        {"hidden_size": 192, "intermediate_size": 512},
        {"pretrained_student": "owner/model"},
    ],
)
def test_the_built_in_recipes_work_with_any_student_of_the_main_chain(factorize: dict) -> None:
    params = Params(factorize=factorize)
    for name in BUILT_IN:
        params.resolve_recipe(name)
    assert params.resolve_recipe("kd")[0].layers == "every"
    assert params.resolve_recipe("homodistil")[0].pretrained_student == "outputs/prune/bundled/models/6x192"


def test_a_recipe_drops_what_its_objectives_cannot_use() -> None:
    """No cache of logits where inner states are compared, no on-policy batches without a teacher."""
    offline = Params(distill={"objectives": {"kl": {}}, "offline": {"k": 8}})
    assert offline.resolve_recipe("lowrank_kd")[1].offline.k == 8
    assert offline.resolve_recipe("tinybert")[1].offline is None
    on_policy = Params(distill={"on_policy": {"share": 0.3}})
    assert on_policy.resolve_recipe("lowrank_kd")[1].on_policy.share == 0.3
    assert on_policy.resolve_recipe("lowrank_finetune")[1].on_policy is None
    odd = {"distill": {"offline": {}, "objectives": {"hidden": {}}}}
    with pytest.raises(ValueError, match=r"recipes\.odd cannot work: offline caches .* which hidden compare"):
        Params(recipes={"odd": odd})
