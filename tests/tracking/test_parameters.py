"""Settings as MLflow shows them."""

from pathlib import Path

import pytest

from stages.settings import Params, read_params
from stages.tracking.parameters import flatten, list_changed_parameters, list_stage_parameters, name_pipeline

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {
    "tasks": '["sentiment"]',
    "base.model": "minilm",
    "data.source": "bundled",
    "factorize.budget": "0.5",
    "seed": "42",
}


def test_unchanged_settings_show_the_few_that_are_always_shown() -> None:
    assert list_changed_parameters(Params()) == SHIPPED
    assert list_changed_parameters(read_params(ROOT / "params.yaml")) == SHIPPED, "3 and 3.0 epochs are the same"


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        ({"seed": 7}, {"seed": "7"}),
        ({"factorize": {"budget": 0.25, "layers": [2, 4]}}, {"factorize.budget": "0.25", "factorize.layers": "[2, 4]"}),
        ({"distill": {"epochs": 5, "hierarchy": "joint"}}, {"distill.epochs": "5.0", "distill.hierarchy": "joint"}),
        ({"distill": {"epochs": 3.0, "hierarchy": "progressive"}}, {}),
        ({"compare": {"limit": {"latency_ms": 4}}}, {"compare.limit.latency_ms": "4.0"}),
        ({"base": {"model": "owner/model", "revision": "abc"}}, {"base.model": "owner/model", "base.revision": "abc"}),
        ({"tracking": {"experiment": "other", "system_metrics": False}}, {}),
        ({"recipes": {"mine": {"distill": {"epochs": 1}}}}, {}),
    ],
)
def test_what_differs_from_the_defaults_is_shown(settings: dict, changed: dict[str, str]) -> None:
    shown = list_changed_parameters(Params(**settings))
    limits = {name: value for name, value in shown.items() if name.startswith("compare.limit.") and value == "null"}
    assert {name: value for name, value in shown.items() if name not in limits} == SHIPPED | changed


def test_a_term_that_is_taken_out_and_one_that_is_added_are_shown() -> None:
    terms = {"kl": {"weight": 0.5}, "hard": {}, "hidden": None, "attention_kl": {}, "matrices": {}}
    shown = list_changed_parameters(Params(distill={"objectives": terms}))
    assert shown["distill.objectives.kl.weight"] == "0.5" and shown["distill.objectives.hard.weight"] == "1.0"
    assert shown["distill.objectives.hidden"] == "null"
    assert not any(name.startswith(("distill.objectives.attention_kl", "distill.objectives.matr")) for name in shown)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "sentiment · budget 0.5 · makd"),
        ({"tasks": ["sst2", "cola"], "factorize": {"budget": 0.25}}, "sst2, cola · budget 0.25 · makd"),
        ({"distill": {"objectives": {"kl": {}, "hard": {"weight": 0.5}}}}, "sentiment · budget 0.5 · hard+kl"),
        ({"distill": {"hierarchy": "joint"}}, "sentiment · budget 0.5 · makd, joint"),
        (
            {"tasks": ["cola", "sst2", "mrpc", "qqp", "rte"], "distill": {"objectives": {"kl": {}}}},
            "cola, sst2, mrpc, qqp, … · budget 0.5 · kl",
        ),
        ({"distill": {"objectives": {"kl": {}, "hidden": {"weight": 0}}}}, "sentiment · budget 0.5 · kl"),
    ],
)
def test_the_name_of_a_pipeline_tells_tasks_budget_and_objectives(settings: dict, name: str) -> None:
    assert name_pipeline(Params(**settings)) == name


def test_a_stage_shows_all_settings_of_its_block() -> None:
    shown = list_stage_parameters("factorize", "sst2", "", Params())
    assert (shown["task"], shown["seed"], shown["base.model"]) == ("sst2", "42", "minilm")
    assert (shown["factorize.budget"], shown["factorize.calibration.examples"]) == ("0.5", "1024")
    assert not any(name.startswith("distill") for name in shown)


def test_a_baseline_shows_the_blocks_as_its_recipe_changes_them() -> None:
    shown = list_stage_parameters("baseline", "sst2", "lowrank_finetune", Params())
    assert (shown["recipe"], shown["distill.dropout"], shown["factorize.decomposition"]) == (
        "lowrank_finetune", "0.1", "whitened"
    )  # fmt: skip
    assert list_stage_parameters("baseline", "sst2", "svd", Params())["distill"] == "null"


def test_a_stage_of_a_corpus_shows_the_model_that_is_pruned() -> None:
    params = Params(corpora=["bundled"], pretrain={"base": {"model": "owner/model"}})
    shown = list_stage_parameters("prune", "", "", params, corpus="bundled")
    assert (shown["corpus"], shown["base.model"], shown["prune.importance"]) == ("bundled", "owner/model", "platon")
    assert "task" not in shown


def test_nested_blocks_become_dotted_names() -> None:
    values = {"a": {"b": {"c": 1.5}, "d": None}, "e": "text", "f": {}, "g": [1, "x"], "h": "long" * 2000}
    assert flatten(values) == {
        "a.b.c": "1.5", "a.d": "null", "e": "text", "f": "{}", "g": '[1, "x"]', "h": "long" * 1500
    }  # fmt: skip
