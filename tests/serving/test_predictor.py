"""The predictor answers as the model does, in the order given, whatever shares a batch; so does the service."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.predictor import ModelError, Predictor
from stages.graph.parity import list_texts
from stages.tasks.splits import read_split
from tests.makers.services import run_service
from tests.makers.texts import REVIEWS


def read_texts(folder: Path) -> list[str]:
    return list_texts(read_split(folder / "data", "validation"))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_come_in_the_order_given(exported_reviews: Path, batch_size: int) -> None:
    """Texts of all lengths, mixed: logits are PyTorch's, row by row, however they are batched."""
    logits = Predictor(exported_reviews / "exported").compute_logits(read_texts(exported_reviews), batch_size)
    np.testing.assert_allclose(logits, np.load(exported_reviews / "expected.npy"), atol=1e-5)


def test_labels_and_probabilities(exported_reviews: Path) -> None:
    expected = torch.from_numpy(np.load(exported_reviews / "expected.npy")).softmax(-1)
    answers = Predictor(exported_reviews / "exported").predict(read_texts(exported_reviews))
    for row, shares in zip(answers, expected, strict=True):
        assert row["label"] == REVIEWS.labels[int(shares.argmax())]
        assert row["score"] == pytest.approx(float(shares.max()), abs=1e-5)


def test_no_texts_no_answers(exported_reviews: Path) -> None:
    assert Predictor(exported_reviews / "exported").predict([]) == []


def test_truncates_at_the_manifests_length(exported_reviews: Path) -> None:
    predictor = Predictor(exported_reviews / "exported")
    long = predictor.encode(["film " * 100])[0]
    assert len(long.ids) == 24
    np.testing.assert_array_equal(predictor.compute_logits(["film " * 100]), predictor.compute_logits(["film " * 50]))


def test_other_libraries_truncate_at_the_same_length(exported_reviews: Path) -> None:
    """transformers and transformers.js read tokenizer_config.json, and not the truncation of tokenizer.json."""
    from transformers import AutoTokenizer

    text = "film " * 100
    ids = AutoTokenizer.from_pretrained(exported_reviews / "exported")(text, truncation=True)["input_ids"]
    assert ids == Predictor(exported_reviews / "exported").encode([text])[0].ids


def test_the_service_answers_as_the_predictor(exported_reviews: Path) -> None:
    """32 clients, mixed lengths: what a text shares its batch with does not show."""
    folder, texts = exported_reviews / "exported", read_texts(exported_reviews)
    expected = Predictor(folder).predict(texts)
    with run_service(folder, max_tokens=128) as (_, client), ThreadPoolExecutor(32) as pool:
        answers = pool.map(lambda text: client.post("/predict", json={"inputs": text}).json()[0], texts)
        for answer, row in zip(answers, expected, strict=True):
            assert answer["label"] == row["label"] and answer["score"] == pytest.approx(row["score"], abs=1e-6)


@pytest.mark.parametrize("wrong", [3, None, ("one", "two"), ["x"] * 3])
def test_what_is_no_text_is_refused(exported_reviews: Path, wrong: object) -> None:
    with pytest.raises(ModelError, match="is not a text"):
        Predictor(exported_reviews / "exported").predict(["fine", wrong])


def test_bound_inputs_and_outputs_give_the_same(exported_reviews: Path) -> None:
    """What runs on CUDA, here with a session on the CPU."""
    predictor = Predictor(exported_reviews / "exported")
    batch = predictor.pad(predictor.encode(read_texts(exported_reviews)[:5]))
    expected, predictor._provider = predictor.run(batch), "cuda"
    np.testing.assert_array_equal(predictor.run(batch), expected)
