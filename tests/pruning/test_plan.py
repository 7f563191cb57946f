"""Plans of students: sizes counted, budgets met by layers and widths alone, what cannot be cut."""

import pytest

from stages.errors import BadInput
from stages.lowrank.budget import matrix_budget
from stages.models.anatomy import ModelParts
from stages.pruning.cut import cut_to_plan
from stages.pruning.plan import SizeCounter, StudentPlan, plan_from_budget
from stages.settings import Factorize
from tests.makers.decoders import make_decoder
from tests.makers.encoders import FAMILIES, make_teacher


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", ["layers", "all"])
def test_sizes_are_those_of_the_models(family: str, count: str):
    teacher = make_teacher(family)
    student = cut_to_plan(teacher, StudentPlan(layers=[1, 4, 5], width=20, neurons=30))
    size = ModelParts(student).count_layer_parameters() if count == "layers" else student.num_parameters()
    assert SizeCounter(teacher, count, None)(3, 20, 30) == size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"layers": "every"}, {"layers": "first", "depth": 4}])
def test_a_narrower_student_meets_the_budget_without_factors(family: str, settings: dict):
    teacher = make_teacher(family, width=64, neurons=256)
    factorize = Factorize(budget=0.2, hidden_size=32, multiple_of=1, **settings)
    plan = plan_from_budget(factorize, teacher)
    student = cut_to_plan(teacher, plan)
    assert matrix_budget(factorize, teacher, student) is None
    share = ModelParts(student).count_layer_parameters() / ModelParts(teacher).count_layer_parameters()
    assert 0.198 <= share <= 0.2
    assert len(plan.layers) == {"all": 6, "every": 3, "first": 4}[str(factorize.layers)]
    assert ModelParts(student).width == 32


def test_a_budget_just_above_a_depth_leaves_it_dense():
    teacher = make_teacher("bert")
    assert plan_from_budget(Factorize(budget=0.334, layers="every"), teacher).layers == [3, 6]
    assert plan_from_budget(Factorize(budget=0.5, layers="every"), teacher).layers == [2, 4, 6]
    assert plan_from_budget(Factorize(budget=0.51, layers="every"), teacher).layers == [2, 3, 4, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [2, 7]}, r"factorize.layers \[7\] does not exist: the teacher has layers 1 to 6"),
        ({"layers": "first", "depth": 7}, r"factorize.depth 7 is more than the teacher's 6 layers"),
        (
            {"layers": "every", "depth": 2},
            r"factorize.depth 2 makes 33.3% of the teacher's layer parameters, too little for factorize.budget 0.5; "
            r"the smallest depth that works is 3",
        ),
        ({"layers": [1, 6]}, r"factorize.layers \[1, 6\] makes 33.3% .* smallest depth that works is 3"),
        ({"hidden_size": 30}, r"factorize.hidden_size 30 must be a multiple of the teacher's 4 heads .* like 28"),
        ({"hidden_size": 32}, r"factorize.hidden_size 32 must be .* less than its 32, like 28"),
        ({"hidden_size": 3}, r"factorize.hidden_size 3 must be a multiple of the teacher's 4 heads .* like 4"),
        ({"intermediate_size": 65}, r"factorize.intermediate_size 65 is more than the teacher's 64"),
        (
            {"intermediate_size": 1},
            r"factorize.intermediate_size 1 with 6 layers makes 52.1% of .* factorize.budget 0.9; "
            r"factorize.budget 0.52 would do",
        ),
        (
            {"hidden_size": 16},
            r"factorize.hidden_size 16 with 6 layers makes 38.4% .*; factorize.budget 0.383 would do, "
            r"or factorize.hidden_size 20",
        ),
        ({"hidden_size": 28, "budget": 0.3}, r"factorize.hidden_size 28 leaves nothing for the feed-forward"),
        (
            {"hidden_size": 16, "budget": 0.3, "multiple_of": 32},
            r"factorize.multiple_of 32 is too coarse .* or give factorize.intermediate_size 43",
        ),
    ],
)
def test_a_message_names_what_cannot_be_cut(settings: dict, message: str):
    budget = 0.9 if "intermediate_size" in settings else 0.5
    with pytest.raises(BadInput, match=message) as error:
        plan_from_budget(Factorize(**{"budget": budget} | settings), make_teacher("bert"))
    assert "\n" not in str(error.value)


def test_families_that_cannot_be_narrowed_say_so():
    with pytest.raises(BadInput, match=r"`deberta-v2` cannot be narrowed .*; those that can are bert, roberta"):
        plan_from_budget(Factorize(hidden_size=16), make_teacher("deberta-v2"))
    with pytest.raises(BadInput, match="cannot be narrowed"):
        plan_from_budget(Factorize(hidden_size=8), make_decoder("llama"))
    with pytest.raises(
        BadInput, match="hidden_size 8 is the embedding's own width, at which electra has no projection"
    ):
        plan_from_budget(Factorize(hidden_size=8, budget=0.1), make_teacher("electra", embedding_size=8))
