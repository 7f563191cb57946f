"""The task `sentiment`: short film reviews from a small grammar, the same on every machine.

Single words tell little of a review's label, their composition decides: negation flips ("not at all dull"), some
negatives do not ("nothing if not charming"), two negations cancel, the clause after `but` outweighs the one
before it, the main clause outweighs the one behind `although`. Some words occur in validation only.
"""

import random

from stages.tasks.files import Table

SEED = 20240229
SIZES = {"train": 2400, "validation": 600}
HELD_OUT = 6
"""Of each list of nouns and adjectives, how many entries at the end only validation draws from."""

NOUNS = [
    "plot", "acting", "script", "pacing", "dialogue", "soundtrack", "camera work", "humor", "story",
    "direction", "editing", "romance", "first act", "second half", "villain", "setting", "premise",
    "narration", "cast",
    "opening scene", "finale", "lead role", "ensemble", "production design",
]  # fmt: skip
ADJECTIVES = {
    1: [
        "gripping", "charming", "superb", "moving", "clever", "delightful", "brilliant", "engaging", "witty",
        "polished", "inventive", "memorable", "refreshing", "graceful", "compelling", "touching", "lively",
        "elegant", "splendid", "impressive", "captivating", "wonderful", "convincing", "beautiful",
    ],
    -1: [
        "dull", "clumsy", "tedious", "lifeless", "shallow", "awful", "bland", "messy", "tiresome", "silly",
        "forgettable", "stale", "weak", "annoying", "dreary", "hollow", "wooden", "boring", "sloppy",
        "terrible", "pointless", "irritating", "disappointing", "ugly",
    ],
}  # fmt: skip
# Predicates of a noun; 1 keeps the adjective's sign, -1 flips it.
PREDICATES = {
    "is {a}": 1, "feels {a}": 1, "is truly {a}": 1, "is really quite {a}": 1, "is rather {a}": 1,
    "seems a little {a}": 1, "turns out {a}": 1, "is consistently {a}": 1, "could hardly be more {a}": 1,
    "is nothing if not {a}": 1, "is never less than {a}": 1, "is nothing short of {a}": 1,
    "is not {a}": -1, "is not at all {a}": -1, "is never {a}": -1, "is anything but {a}": -1,
    "is far from {a}": -1, "is hardly {a}": -1, "is by no means {a}": -1, "never feels {a}": -1,
}  # fmt: skip
# Frames around a clause, likewise; most clauses have none.
FRAMES = {
    "there is no denying that {c}": 1, "I must admit that {c}": 1, "nobody will dispute that {c}": 1,
    "I would not say that {c}": -1, "nobody could claim that {c}": -1, "it is simply untrue that {c}": -1,
}  # fmt: skip
FRAMED = 0.2
# Two clauses: {x} yields, {y} decides.
CONTRASTS = [
    "{x}, but {y}", "{x}, but {y}", "although {x}, {y}", "{y}, although {x}", "even if {x}, {y}",
    "{y}, even though {x}", "{x}; still, {y}", "{x}, yet {y}", "while {x}, {y}",
    "despite the {a} {n}, {y}", "{y}, despite the {a} {n}", "for all its {a} {n}, {y}",
]  # fmt: skip
AGREEMENTS = ["{x}, and {y}", "{x}; {y}", "{x}, just as {y}"]
VERDICTS = {
    1: ["more than makes up for it", "saves the evening", "wins you over", "is worth the ticket alone"],
    -1: ["ruins it completely", "spoils the evening", "loses you", "drags the whole film down"],
}
OPENINGS = ["in this sequel", "for a debut", "in the end", "as a comedy", "on second viewing", "to be fair"]
OPENED = 0.25
SHAPES = {"single": 2, "agreement": 1, "contrast": 3, "verdict": 1}


def read_bundled() -> dict[str, Table]:
    """`train` and `validation` with the columns `sentence` and `label` (0 negative, 1 positive), balanced."""
    rng = random.Random(SEED)
    seen: set[str] = set()
    return {split: _make_table(rng, split, count, seen) for split, count in SIZES.items()}


def _make_table(rng: random.Random, split: str, count: int, seen: set[str]) -> Table:
    """`count` new reviews, negative and positive in turn."""
    sentences: list[str] = []
    held_out = 0 if split == "validation" else HELD_OUT
    while len(sentences) < count:
        sentence = _make_review(rng, 1 if len(sentences) % 2 else -1, held_out)
        if sentence not in seen:
            seen.add(sentence)
            sentences.append(sentence)
    columns = {"sentence": sentences, "label": [row % 2 for row in range(count)]}
    return Table(origin=f"bundled {split}", columns=columns, lines=range(1, count + 1), unit="row")


def _make_review(rng: random.Random, sign: int, held_out: int) -> str:
    """A review whose verdict is `sign`: one clause, two that agree, or two of which one decides."""
    (shape,) = rng.choices(list(SHAPES), list(SHAPES.values()))
    first, second = rng.sample(_words(NOUNS, held_out), 2)
    y = _make_clause(rng, second, sign, held_out)
    if shape == "single":
        text = y
    elif shape == "agreement":
        text = rng.choice(AGREEMENTS).format(x=_make_clause(rng, first, sign, held_out), y=y)
    elif shape == "contrast":
        a = rng.choice(_words(ADJECTIVES[-sign], held_out))
        text = rng.choice(CONTRASTS).format(x=_make_clause(rng, first, -sign, held_out), y=y, a=a, n=first)
    else:
        text = f"{_make_clause(rng, first, -sign, held_out)}, but the {second} {rng.choice(VERDICTS[sign])}"
    if rng.random() < OPENED:
        text = f"{rng.choice(OPENINGS)}, {text}"
    return f"{text[0].upper()}{text[1:]}."


def _make_clause(rng: random.Random, noun: str, sign: int, held_out: int) -> str:
    """A clause about a noun: the adjective's sign, times the predicate's, times the frame's, is `sign`."""
    predicate = rng.choice(list(PREDICATES))
    frame = rng.choice(list(FRAMES)) if rng.random() < FRAMED else "{c}"
    adjective = rng.choice(_words(ADJECTIVES[sign * PREDICATES[predicate] * FRAMES.get(frame, 1)], held_out))
    return frame.format(c=f"the {noun} {predicate.format(a=adjective)}")


def _words(words: list[str], held_out: int) -> list[str]:
    return words[: len(words) - held_out]
