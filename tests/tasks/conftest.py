"""A masked language model that proposes words."""

from pathlib import Path

import pytest

from tests.makers.checkpoints import save_masked_lm


@pytest.fixture(scope="session")
def masked_lm(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a masked-LM head, both trained on short reviews, as a folder in hub layout."""
    return save_masked_lm(tmp_path_factory.mktemp("masked_lm"), tiny_model)
