"""Fixtures of the service's tests: exported folders whose answers are counted by hand, and services of them."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.service import Service
from tests.makers.services import run_service, write_counting_model
from tests.makers.spelling import write_spelling_model


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts, named `film`."""
    return write_counting_model(tmp_path_factory.mktemp("films") / "film", pair=False)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of pairs of texts, named `pair`."""
    return write_counting_model(tmp_path_factory.mktemp("pairs") / "pair", pair=True)


@pytest.fixture(scope="module")
def client(films: Path) -> Iterator[httpx.Client]:
    """Of a service of `film`."""
    with run_service(films, max_bytes=200_000) as (_, client):
        yield client


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, httpx.Client]]:
    """A service of `letters`, a decoder that goes on with the alphabet, and of a second one as its teacher."""
    folder = write_spelling_model(tmp_path_factory.mktemp("letters") / "letters")
    with run_service(folder, teacher=str(folder), max_generations=3) as (service, client):
        yield service, client
