"""Words that could replace a word: a masked language model's predictions, or the neighbors of its embedding.

A word is a run of letters, apostrophes inside it included, whatever pieces the tokenizer makes of it; numbers, signs
and endings behind an apostrophe are left alone. Words past the model's longest input have neighbors only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.models.selective_head import logits_at_positions
from stages.progress import track
from stages.settings import Augment

WORD = re.compile(r"(?<![\w'’])\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a text, and its position."""

    start: int
    end: int
    """Characters of the text, the end excluded."""
    text: str
    pieces: tuple[int, ...]
    """Its token ids."""
    position: int
    """Of its only token in the input; -1 for words of several tokens, and those past the longest input."""


def find_words(texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> tuple[list[list[Word]], list]:
    """The words of each text, and each text's token ids, special ones included, cut at `length`."""
    whole = tokenizer(texts, return_offsets_mapping=True, verbose=False)
    cut = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    found = []
    for text, ids, offsets, kept in zip(texts, whole["input_ids"], whole["offset_mapping"], cut, strict=True):
        special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        tokens = [(p, *span) for p, span in enumerate(offsets) if not special[p] or ids[p] == tokenizer.unk_token_id]
        found.append(
            [_locate_word(text, m, ids, tokens, len(kept)) for m in WORD.finditer(text) if _is_alphabetic(m.group())]
        )
    return found, cut


def _locate_word(text: str, match: re.Match, ids: list[int], tokens: list[tuple[int, int, int]], kept: int) -> Word:
    start, end = match.span()
    own = [p for p, s, e in tokens if s < end and e > start]
    alone = len(own) == 1 and own[0] < kept - 1  # the last one kept is the closing special token
    pieces = tuple(ids[p] for p in own)
    return Word(start=start, end=end, text=match.group(), pieces=pieces, position=own[0] if alone else -1)


def _is_alphabetic(word: str) -> bool:
    return re.sub("['’]", "", word).isalpha()


class Vocabulary:
    """The tokenizer's entries that are whole words of letters: what a space and the word alone are tokenized to."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        texts = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids}
        texts = {i: text for i, text in texts.items() if text.isalpha()}
        alone = tokenizer([f"- {text}" for text in texts.values()], add_special_tokens=False)["input_ids"]
        before = len(tokenizer("-", add_special_tokens=False)["input_ids"])
        self.words = {i: text for (i, text), ids in zip(texts.items(), alone, strict=True) if ids[before:] == [i]}
        self.ids = list(self.words)

    def best_words(self, scores: Tensor, word: str, count: int) -> list[str]:
        """The `count` words of the highest scores (entries,), in the word's case; never the word itself."""
        order = scores.topk(min(len(self.ids), count + 4)).indices.tolist()  # a few more: case variants are dropped
        best = [self.words[self.ids[i]] for i in order]
        best = [w.capitalize() if word.istitle() else w for w in best if w.casefold() != word.casefold()]
        return list(dict.fromkeys(best))[:count]


def propose_words(
    texts: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Augment, length: int
) -> list[list[tuple[Word, list[str]]]]:
    """Each text's words with those that may replace them, the best first.

    A word that is one token: the most probable whole words where it is masked (one mask at a time). A word of several:
    see `_nearest_words`. Source: TinyBERT (Jiao et al. 2020), algorithm 1.
    """
    vocabulary = Vocabulary(tokenizer)
    words, tokens = find_words(texts, tokenizer, length)
    masked = settings.source == "masked_lm"
    single = [(t, w) for t, row in enumerate(words) for w, word in enumerate(row) if masked and word.position >= 0]
    predicted = dict(_predict_words(single, words, tokens, model, tokenizer, vocabulary, settings))
    rest = {
        word.pieces: word.text for t, row in enumerate(words) for w, word in enumerate(row) if (t, w) not in predicted
    }
    nearest = dict(_nearest_words(rest, model, vocabulary, settings.candidates))
    return [
        [(word, predicted[t, w] if (t, w) in predicted else nearest[word.pieces]) for w, word in enumerate(row)]
        for t, row in enumerate(words)
    ]


def _predict_words(
    places: list[tuple[int, int]],
    words: list[list[Word]],
    tokens: list[list[int]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    settings: Augment,
) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """For each (text, word), the model's predictions for the mask; texts of similar lengths share a pass."""
    places = sorted(places, key=lambda place: len(tokens[place[0]]))
    entries = torch.tensor(vocabulary.ids, device=model.device)
    for start in track(range(0, len(places), settings.batch_size), "prepare: masked words"):
        part = [(t, w, words[t][w]) for t, w in places[start : start + settings.batch_size]]
        batch = tokenizer.pad({"input_ids": [tokens[t] for t, _, _ in part]}, return_tensors="pt").to(model.device)
        masked = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        masked[range(len(part)), [word.position for _, _, word in part]] = True
        batch["input_ids"][masked] = tokenizer.mask_token_id
        with torch.inference_mode():
            scores = logits_at_positions(model, dict(batch), masked)[:, entries].cpu()
        for (t, w, word), row in zip(part, scores, strict=True):
            yield (t, w), vocabulary.best_words(row, word.text, settings.candidates)


def _nearest_words(
    rest: dict[tuple[int, ...], str], model: PreTrainedModel, vocabulary: Vocabulary, count: int
) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """The whole words nearest to the mean of a word's pieces, by the cosine of the model's input embeddings.

    Ours: TinyBERT takes GloVe's neighbors here.
    """
    embeddings = model.get_input_embeddings().weight.detach().float().cpu()
    entries = normalize(embeddings[vocabulary.ids], dim=-1)
    for pieces, word in rest.items():
        mean = normalize(embeddings[list(pieces)].mean(0), dim=-1) if pieces else torch.zeros(entries.shape[1])
        yield pieces, vocabulary.best_words(entries @ mean, word, count) if pieces else []
