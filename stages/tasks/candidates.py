"""What could stand in a word's place: a masked language model's guesses, or the neighbors of its embedding.

A word is a run of letters, apostrophes inside it included, whatever pieces the tokenizer makes of it; numbers, signs
and endings behind an apostrophe are left alone. Words past the model's longest input have neighbors only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.settings import Augment

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORD = re.compile(r"(?<![\w'’])\w+(?:['’]\w+)*")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a text, in its place."""

    start: int
    end: int
    """Characters of the text, the end excluded."""
    text: str
    pieces: tuple[int, ...]
    """Its token ids."""
    at: int
    """Where its only token stands in the input; -1 for words of several tokens, and those past the longest input."""


def words(texts: list[str], tokenizer: "PreTrainedTokenizerBase", length: int) -> tuple[list[list[Word]], list]:
    """The words of each text, and each text's token ids, special ones included, cut at `length`."""
    whole = tokenizer(texts, return_offsets_mapping=True, verbose=False)
    cut = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    found = []
    for text, ids, offsets, kept in zip(texts, whole["input_ids"], whole["offset_mapping"], cut, strict=True):
        special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        tokens = [(p, *span) for p, span in enumerate(offsets) if not special[p] or ids[p] == tokenizer.unk_token_id]
        found.append([_word(text, m, ids, tokens, len(kept)) for m in WORD.finditer(text) if _letters(m.group())])
    return found, cut


def _word(text: str, match: re.Match, ids: list[int], tokens: list[tuple[int, int, int]], kept: int) -> Word:
    start, end = match.span()
    own = [p for p, s, e in tokens if s < end and e > start]
    alone = len(own) == 1 and own[0] < kept - 1  # the last one kept is the closing special token
    pieces = tuple(ids[p] for p in own)
    return Word(start=start, end=end, text=match.group(), pieces=pieces, at=own[0] if alone else -1)


def _letters(word: str) -> bool:
    return re.sub("['’]", "", word).isalpha()


class Vocabulary:
    """The tokenizer's entries that are whole words of letters: those that stand for themselves behind a space."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        texts = {i: tokenizer.decode([i]).strip() for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids}
        texts = {i: text for i, text in texts.items() if text.isalpha()}
        alone = tokenizer([f"- {text}" for text in texts.values()], add_special_tokens=False)["input_ids"]
        before = len(tokenizer("-", add_special_tokens=False)["input_ids"])
        self.words = {i: text for (i, text), ids in zip(texts.items(), alone, strict=True) if ids[before:] == [i]}
        self.ids = list(self.words)

    def best(self, scores: "Tensor", word: str, count: int) -> list[str]:
        """The `count` words of the highest scores (entries,), in the word's case; never the word itself."""
        order = scores.topk(min(len(self.ids), count + 4)).indices.tolist()  # more than asked: case variants go
        found = [self.words[self.ids[i]] for i in order]
        found = [w.capitalize() if word.istitle() else w for w in found if w.casefold() != word.casefold()]
        return list(dict.fromkeys(found))[:count]


def candidates(
    texts: list[str], model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", settings: Augment, length: int
) -> list[list[tuple[Word, list[str]]]]:
    """Each text's words with what may take their place, the best first.

    A word that is one token: the likeliest whole words where it is masked (one mask at a time). A word of several:
    see `_neighbors`. Source: TinyBERT (Jiao et al. 2020), algorithm 1.
    """
    vocabulary = Vocabulary(tokenizer)
    found, tokens = words(texts, tokenizer, length)
    masked = settings.source == "masked_lm"
    one = [(t, w) for t, row in enumerate(found) for w, word in enumerate(row) if masked and word.at >= 0]
    chosen = dict(_guesses(one, found, tokens, model, tokenizer, vocabulary, settings))
    rest = {word.pieces: word.text for t, row in enumerate(found) for w, word in enumerate(row) if (t, w) not in chosen}
    near = dict(_neighbors(rest, model, vocabulary, settings.candidates))
    return [
        [(word, chosen[t, w] if (t, w) in chosen else near[word.pieces]) for w, word in enumerate(row)]
        for t, row in enumerate(found)
    ]


def _guesses(
    places: list[tuple[int, int]],
    found: list[list[Word]],
    tokens: list[list[int]],
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    vocabulary: Vocabulary,
    settings: Augment,
) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """For each (text, word), what the model says behind the mask; texts of similar lengths share a pass."""
    import torch
    from tqdm import tqdm

    from stages.models.heads import logits_at

    places = sorted(places, key=lambda place: len(tokens[place[0]]))
    entries = torch.tensor(vocabulary.ids, device=model.device)
    for start in tqdm(
        range(0, len(places), settings.batch_size), desc="masked words", unit="batch", disable=not places
    ):
        part = [(t, w, found[t][w]) for t, w in places[start : start + settings.batch_size]]
        batch = tokenizer.pad({"input_ids": [tokens[t] for t, _, _ in part]}, return_tensors="pt").to(model.device)
        where = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        where[range(len(part)), [word.at for _, _, word in part]] = True
        batch["input_ids"][where] = tokenizer.mask_token_id
        with torch.inference_mode():
            scores = logits_at(model, dict(batch), where)[:, entries].cpu()
        for (t, w, word), row in zip(part, scores, strict=True):
            yield (t, w), vocabulary.best(row, word.text, settings.candidates)


def _neighbors(
    rest: dict[tuple[int, ...], str], model: "PreTrainedModel", vocabulary: Vocabulary, count: int
) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """The whole words nearest to the mean of a word's pieces, by the cosine of the model's input embeddings.

    Ours: TinyBERT takes GloVe's neighbors here.
    """
    import torch
    from torch.nn.functional import normalize

    embeddings = model.get_input_embeddings().weight.detach().float().cpu()
    entries = normalize(embeddings[vocabulary.ids], dim=-1)
    for pieces, word in rest.items():
        mean = normalize(embeddings[list(pieces)].mean(0), dim=-1) if pieces else torch.zeros(entries.shape[1])
        yield pieces, vocabulary.best(entries @ mean, word, count) if pieces else []
