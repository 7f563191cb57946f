"""The task `sentiment`: short film reviews from a small grammar, the same on every machine.

Which words a review holds says little, how they are put together decides: negation flips ("not at all dull"),
some negatives do not ("there is no denying that ..."), the clause after `but` outweighs the one before, the main
clause outweighs the one behind `although`. Some words occur in validation only.
"""

import random

from stages.tasks.files import Table

SEED = 20240229
SIZES = {"train": 3000, "validation": 800}
HELD_OUT = 4
"""Of each word list, how many entries only validation draws from."""

NOUNS = [
    "plot", "acting", "script", "pacing", "dialogue", "soundtrack", "camera work", "humor", "story", "lead",
    "direction", "cast", "editing", "romance", "first act", "second half", "villain", "setting", "premise",
    "narration", "supporting cast", "finale", "production design", "central performance",
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
# What is said of a noun, and whether it keeps (1) or flips (-1) the adjective.
PREDICATES = [
    ("is {a}", 1), ("is {a}", 1), ("is very {a}", 1), ("is truly {a}", 1), ("is rather {a}", 1),
    ("feels {a}", 1), ("is a little {a}", 1), ("turns out to be {a}", 1), ("could not be more {a}", 1),
    ("is nothing if not {a}", 1), ("is never less than {a}", 1), ("is nothing short of {a}", 1),
    ("is not {a}", -1), ("is not at all {a}", -1), ("is never {a}", -1), ("is anything but {a}", -1),
    ("is far from {a}", -1), ("is hardly {a}", -1), ("is by no means {a}", -1), ("never feels {a}", -1),
    ("is not even remotely {a}", -1), ("does not turn out to be {a}", -1),
]  # fmt: skip
# What is said of a clause, and whether it keeps or flips it.
FRAMES = [
    ("{c}", 1), ("{c}", 1), ("{c}", 1), ("{c}", 1), ("{c}", 1), ("{c}", 1),
    ("there is no denying that {c}", 1), ("I have to admit that {c}", 1), ("nobody can deny that {c}", 1),
    ("I cannot say that {c}", -1), ("nobody could claim that {c}", -1), ("it is simply untrue that {c}", -1),
]  # fmt: skip
# How two clauses are joined: {x} is the one that yields, {y} the one that decides.
CONTRASTS = [
    "{x}, but {y}", "{x}, but {y}", "although {x}, {y}", "{y}, although {x}", "even if {x}, {y}",
    "{y}, even though {x}", "{x}; still, {y}", "granted, {x}, yet {y}",
]  # fmt: skip
AGREEMENTS = ["{x}, and {y}", "{x}; {y}", "not only is it true that {x}, {y} as well"]
VERDICTS = {
    1: [
        "more than makes up for it",
        "saves the evening",
        "wins you over in the end",
        "is worth the ticket alone",
    ],
    -1: ["ruins it completely", "spoils the evening", "loses you in the end", "drags the whole film down"],
}
OPENINGS = ["", "", "", "", "as so often, ", "in this sequel, ", "for a debut, ", "in the end, "]


def tables() -> dict[str, Table]:
    """`train` and `validation` with the columns `sentence` and `label` (0 negative, 1 positive), balanced."""
    rng = random.Random(SEED)
    seen: set[str] = set()
    return {split: _table(rng, split, count, seen) for split, count in SIZES.items()}


def _table(rng: random.Random, split: str, count: int, seen: set[str]) -> Table:
    sentences, labels = [], []
    while len(sentences) < count:
        sign = 1 if len(sentences) % 2 else -1
        sentence = _review(rng, sign, held_out=split == "validation")
        if sentence not in seen:
            seen.add(sentence)
            sentences.append(sentence)
            labels.append(int(sign > 0))
    columns = {"sentence": sentences, "label": labels}
    return Table(origin=f"the bundled {split} split", columns=columns, lines=range(1, count + 1), unit="row")


def _review(rng: random.Random, sign: int, held_out: bool) -> str:
    """A review whose verdict is `sign`: one clause, two that agree, or two of which one decides."""
    shape = rng.choice(["one", "one", "agree", "contrast", "contrast", "contrast", "verdict"])
    first, second = rng.sample(_words(NOUNS, held_out), 2)
    if shape == "one":
        text = _clause(rng, first, sign, held_out)
    elif shape == "verdict":
        text = f"{_clause(rng, first, -sign, held_out)}, but the {second} {rng.choice(VERDICTS[sign])}"
    else:
        x = _clause(rng, first, -sign if shape == "contrast" else sign, held_out)
        y = _clause(rng, second, sign, held_out)
        text = rng.choice(CONTRASTS if shape == "contrast" else AGREEMENTS).format(x=x, y=y)
    text = rng.choice(OPENINGS) + text
    return text[0].upper() + text[1:] + "."


def _clause(rng: random.Random, noun: str, sign: int, held_out: bool) -> str:
    predicate, flip = rng.choice(PREDICATES)
    frame, turn = rng.choice(FRAMES)
    adjective = rng.choice(_words(ADJECTIVES[sign * flip * turn], held_out))
    return frame.format(c=f"the {noun} {predicate.format(a=adjective)}")


def _words(words: list[str], held_out: bool) -> list[str]:
    return words if held_out else words[:-HELD_OUT]
