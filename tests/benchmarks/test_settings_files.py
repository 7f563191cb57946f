"""The settings of the published tables: they load, and recipes differ in what is compared alone."""

from pathlib import Path

import pytest

from stages.settings import read_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["agnostic", "glue", "language"])
def test_settings_load(name: str) -> None:
    read_params(ROOT / "params.yaml", ROOT / f"benchmarks/{name}.yaml")


def test_the_settings_of_the_glue_table() -> None:
    params = read_params(ROOT / "params.yaml", ROOT / "benchmarks/glue.yaml")
    assert params.tasks == ["sst2", "cola", "mrpc"]
    training = params.resolve_recipe("lowrank_kd")[1]
    assert training is not None and list(training.objectives.active_terms()) == ["kl"]
    assert params.finetune.epochs == 4 and params.finetune.learning_rate == 1e-4


def test_language_recipes_differ_in_ranking_alone() -> None:
    params = read_params(ROOT / "params.yaml", ROOT / "benchmarks/language.yaml")
    for name in ("kl", "reverse_kl", "jsd", "skew_kl", "tvd", "akl"):
        student, training = params.resolve_recipe(name)
        other, ranked = params.resolve_recipe(f"{name}_ranking")
        assert training is not None and ranked is not None
        alone, both = training.objectives.active_terms(), ranked.objectives.active_terms()
        assert student == other and list(alone) == [name] and list(both) == [name, "ranking"]
        assert alone[name] == both[name] and getattr(alone[name], "temperature", 0) == alone[name].weight == 1
        assert training.model_copy(update={"objectives": None}) == ranked.model_copy(update={"objectives": None})


def test_language_recipes_of_the_main_chain_and_the_paper() -> None:
    params = read_params(ROOT / "params.yaml", ROOT / "benchmarks/language.yaml")
    ranked, paper = (params.resolve_recipe(name)[1] for name in ("makd_ranking", "kl_ranking_paper"))
    assert ranked is not None and paper is not None and paper.objectives.ranking is not None
    assert ranked.objectives.active_terms().items() > params.distill.objectives.active_terms().items()
    ranking = paper.objectives.ranking
    assert (ranking.weight, ranking.union, ranking.epsilon) == (2, "concat", "fixed")


def test_the_settings_of_a_model_from_scratch() -> None:
    names = ("language", "wikitext")
    params = read_params(ROOT / "params.yaml", *(ROOT / f"benchmarks/{name}.yaml" for name in names))
    task = params.get_task("wikitext-2")
    assert params.finetune.epochs > 0 and task.kind == "causal_lm" and task.documents == "articles"
