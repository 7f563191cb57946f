"""The words of a text and those that may replace them, against references."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedModel

from stages.models.masked_lm import load_masked_lm
from stages.models.pretrained import load_tokenizer
from stages.settings import Augment, Base
from stages.tasks.augment import replace_words
from stages.tasks.candidates import Vocabulary, Word, find_words, propose_words
from tests.makers.texts import make_reviews

TEXTS = [text for text, _ in make_reviews(60)]


@pytest.fixture(scope="module")
def model(masked_lm: Path) -> PreTrainedModel:
    return load_masked_lm(Base(model=str(masked_lm)))[0]


def propose(
    model: PreTrainedModel, folder: Path, texts: list[str], **settings: Any
) -> list[list[tuple[Word, list[str]]]]:
    """Each text's words with their candidates."""
    tokenizer = load_tokenizer(Base(model=str(folder)))
    return propose_words(texts, model, tokenizer, Augment.model_validate(settings), 64)


def test_candidates_are_the_likeliest_whole_words_at_the_mask(model: PreTrainedModel, masked_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    proposed = propose(model, masked_lm, TEXTS[:3], candidates=6, batch_size=4)
    model.cpu()
    checked = 0
    for text, row in zip(TEXTS, proposed, strict=False):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for word, choices in row:
            if len(word.pieces) > 1:
                continue
            masked = ids.clone()
            masked[0, word.position] = tokenizer.mask_token_id
            order = model(input_ids=masked).logits[0, word.position].argsort(descending=True).tolist()
            ranked = [tokenizer.convert_ids_to_tokens(i) for i in order]
            assert choices == [w for w in ranked if w.isalpha() and w != word.text][:6]
            checked += 1
    assert checked > 10


def test_a_word_of_several_tokens_gets_the_neighbors_of_its_mean(model: PreTrainedModel, masked_lm: Path) -> None:
    [words] = propose(model, masked_lm, ["the coldest film"], candidates=5)
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    word, choices = words[1]
    assert word.text == "coldest" and len(word.pieces) > 1 and word.position == -1
    table = model.get_input_embeddings().weight.detach().cpu().numpy()
    mean = np.mean([table[i] for i in word.pieces], axis=0)
    whole = [w for w in tokenizer.vocab if w.isalpha()]
    close = {w: table[i] @ mean / np.linalg.norm(table[i]) for w in whole for i in [tokenizer.vocab[w]]}
    assert choices == sorted(close, key=close.__getitem__, reverse=True)[:5]


def test_words_are_located_whatever_the_tokenizer_makes_of_them(masked_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    text = "It's the BRILLIANT, the-coldest 3d film 's (1999) plot"
    [words], [ids] = find_words([text], tokenizer, 64)
    assert [word.text for word in words] == ["It's", "the", "BRILLIANT", "the", "coldest", "film", "plot"]
    for word in words:
        assert text[word.start : word.end] == word.text
        assert tokenizer.decode(list(word.pieces)).replace("[UNK]", "'").replace(" ", "") == word.text.lower()
        assert word.position == -1 or ids[word.position] == word.pieces[0]
    [cut], _ = find_words([text], tokenizer, 8)
    assert [word.pieces for word in cut] == [word.pieces for word in words], "what is cut off keeps its pieces"
    assert {word.position for word in cut if len(word.pieces) == 1} > {-1}, "but cannot be masked"


def test_a_byte_level_vocabulary_has_words_behind_a_space(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 5, vocab_size=400, special_tokens=["<mask>"], show_progress=False)
    bpe.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), mask_token="<mask>")
    vocabulary = Vocabulary(tokenizer)
    expected = {i for token, i in tokenizer.vocab.items() if token[0] == "Ġ" and token[1:].isalpha()}
    assert set(vocabulary.ids) == expected and "great" in vocabulary.words.values()


def test_only_words_change_and_none_is_lost(model: PreTrainedModel, masked_lm: Path) -> None:
    text = "The  film is great, the plot 's (1999) coldest  "
    [words] = propose(model, masked_lm, [text], candidates=5)
    pattern = re.compile(r"[A-Za-z]+")
    for seed in range(20):
        copy = replace_words(text, words, 1.0, np.random.default_rng(seed))
        assert pattern.sub("w", copy) == pattern.sub("w", text)
        assert copy[0].isupper() and " 's (1999) " in copy
        for replaced, original in zip(pattern.findall(copy), pattern.findall(text), strict=True):
            assert (replaced == original) == (original == "s")


def test_the_share_of_replaced_words_is_the_probability(model: PreTrainedModel, masked_lm: Path) -> None:
    text = " ".join(["great"] * 50)
    [words] = propose(model, masked_lm, [text], source="neighbors")
    draw = np.random.default_rng(0)
    unchanged = np.mean([replace_words(text, words, 0.4, draw).split().count("great") for _ in range(100)]) / 50
    assert unchanged == pytest.approx(0.6, abs=0.03)  # three standard deviations of 5,000 draws are 0.021
