"""Settings of `distill` that cannot work together are refused; a recipe turns off what its objectives cannot use."""

import pytest

from stages.settings import Distill, Offline, Params

LOGITS = {"kl": {}, "jsd": {}, "hard": {}, "logit_mse": {}}


def test_objectives_that_a_logit_cache_cannot_serve_are_refused_by_name():
    with pytest.raises(ValueError, match=r"inner states, which attention_kl, hidden, matrices compare; set those"):
        Distill(offline=Offline())
    Distill(offline=Offline(k=10), objectives=LOGITS | {"ranking": {"k": 10}, "hidden": {"weight": 0.0}})
    with pytest.raises(ValueError, match=r"offline\.k 4 caches fewer classes than the 10 .* objectives\.ranking comp"):
        Distill(offline=Offline(k=4), objectives=LOGITS | {"ranking": {}})
    with pytest.raises(ValueError, match=r"the 5 whose order objectives\.kl compares; set it to 5 or more"):
        Distill(offline=Offline(k=4), objectives=LOGITS | {"kl": {"overlap": 5}})


def test_recipes_that_compare_inner_states_run_the_teacher():
    recipes = {
        "logits": {"distill": {"objectives": {"kl": {}}}},
        "states": {"extends": "logits", "distill": {"objectives": {"kl": {}, "hidden": {}}}},
        "online": {"distill": {"offline": None}},
    }
    main = {"offline": {"k": 9}, "objectives": LOGITS}
    params = Params.model_validate({"distill": main, "recipes": recipes})
    assert {name: params.resolve_recipe(name)[1].offline for name in recipes} == {
        "logits": Offline(k=9),
        "states": None,
        "online": None,
    }
    recipes["states"]["distill"]["offline"] = {}
    message = r"recipes\.states cannot work: offline caches the teacher's logits and not its inner states, which hidden"
    with pytest.raises(ValueError, match=message):
        Params.model_validate({"distill": main, "recipes": recipes})


def test_on_policy_batches_that_no_teacher_can_judge_are_refused():
    message = r"on_policy needs an objective that compares with the teacher, and these use labels alone; give `kl` a"
    with pytest.raises(ValueError, match=message):
        Distill(on_policy={}, objectives={"hard": {}})
    message = r"offline caches the teacher's logits on the data's text, and on_policy needs them on the student's; set"
    with pytest.raises(ValueError, match=message):
        Distill(on_policy={}, offline={}, objectives={"kl": {"temperature": 1.0}, "hard": {}})


def test_recipes_of_labels_alone_are_not_on_policy():
    recipes = {"labels": {"distill": {"objectives": {"hard": {}}}}, "logits": {"distill": {"objectives": {"kl": {}}}}}
    params = Params.model_validate({"distill": {"on_policy": {}}, "recipes": recipes})
    assert params.resolve_recipe("labels")[1].on_policy is None
    assert params.resolve_recipe("logits")[1].on_policy is not None
