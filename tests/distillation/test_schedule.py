"""Which objectives and which layers are compared in each step of the three hierarchies."""

from stages.distillation.schedule import plan_step
from stages.settings import Distill
from tests.makers.captured import make_shape

LAYER_TERMS = {"attention_kl", "hidden"}


def list_terms(settings: Distill, step: int, steps: int, depth: int) -> set[str]:
    """Names of the objectives of a step."""
    terms = settings.objectives.active_terms()
    pairs = {name: term.layer_pairs(make_shape(depth), make_shape(depth)) for name, term in terms.items()}
    return set(plan_step(settings, step / steps, step, depth).select_terms(terms, pairs))


def test_progressive_phases_take_their_shares():
    settings = Distill(hierarchy="progressive", phase_shares=(0.5, 0.25, 0.25))
    phases = [LAYER_TERMS] * 4 + [LAYER_TERMS | {"matrices"}] * 2 + [{"kl"}] * 2
    assert [list_terms(settings, s, 8, 4) for s in range(8)] == phases
    tinybert = Distill(hierarchy="progressive", phase_shares=(0.5, 0, 0.5))
    assert [list_terms(tinybert, s, 4, 4) for s in range(4)] == [LAYER_TERMS] * 2 + [{"kl"}] * 2


def test_a_phase_without_an_objective_is_passed_over():
    objectives = {"kl": {}, "attention_kl": None, "hidden": None, "matrices": None}
    logits = Distill(hierarchy="progressive", objectives=objectives)
    assert [plan_step(logits, s / 4, s, 4).levels for s in range(4)] == [("prediction",)] * 4


def test_rotating_layers_take_turns():
    settings = Distill(hierarchy="rotating")
    layers = [list(plan_step(settings, s / 9, s, 6).layers) for s in range(3)]
    assert layers == [[1, 4], [2, 5], [3, 6]]
    # matrices compares layers 2, 4, 6 of 6: it has a layer in every step
    assert all("matrices" in list_terms(settings, s, 9, 6) for s in range(3))
    # … and of 3 layers it compares 2 and 3 only: nothing in a step of layer 1
    assert "matrices" not in list_terms(settings, 0, 9, 3)
