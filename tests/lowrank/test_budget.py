"""Budgets and embedding ranks that cannot be met are refused before calibration."""

import pytest

from stages.errors import BadInput
from stages.lowrank.budget import matrix_budget
from stages.settings import Factorize
from tests.makers.decoders import factorize_decoder, make_decoder
from tests.makers.encoders import make_teacher


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0.01}, r"factorize.budget 0.01 of 51,264 parameters is less than the 2,112 that .* above 0.05$"),
        ({"budget": 0.1, "count": "all"}, r"that cannot be factorized; .* or set factorize.embeddings"),
        ({"embeddings": 20}, r"factorize.embeddings 20 saves nothing on a \(50, 32\) embedding; use less than 20"),
    ],
)
def test_an_unreachable_budget_is_refused(settings: dict, message: str):
    teacher = make_teacher("bert")
    with pytest.raises(BadInput, match=message):
        matrix_budget(Factorize(**settings), teacher, teacher)


def test_tied_embeddings_are_not_factorized():
    with pytest.raises(BadInput, match=r"factorize\.embeddings 4 would part the word embedding from the head"):
        factorize_decoder(make_decoder("llama"), embeddings=4, count="all")
