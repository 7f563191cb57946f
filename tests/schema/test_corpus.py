"""The table of corpora."""

import pytest
from pydantic import ValidationError

from stages.errors import BadInput
from stages.schema.corpus import Corpus
from stages.settings import Params


def test_a_corpus_of_ones_own() -> None:
    params = Params(corpora=["wiki", "bundled"], data={"corpora": {"wiki": {"source": "x"}}})
    assert params.get_corpus("wiki") == Corpus(source="x") and params.get_corpus("bundled").source == "bundled"
    with pytest.raises(BadInput, match="corpora names `news`; known are bundled, wiki; describe your own"):
        params.get_corpus("news")


def test_a_corpus_needs_a_source() -> None:
    with pytest.raises(ValidationError, match="source"):
        Corpus()
