"""Tiny texts, labeled, in prompts and in chats; the same at every call."""

import random

from stages.schema.task import CausalLMTask, ClassificationTask

REVIEWS = ClassificationTask(text=["text"], labels=["bad", "good"])
SUMS = CausalLMTask(kind="causal_lm", prompt="question", response="answer", match=r"is (\d+)")
NAMES = ["Tom", "Lily", "Ben", "Anna"]


def make_reviews(count: int) -> list[tuple[str, str]]:
    """Short sentences of different lengths whose label, bad or good, one word decides."""
    draw = random.Random(7)
    things = ["film", "plot", "cast", "music", "ending", "dialogue", "camera work"]
    words = {"good": ["great", "lovely", "brilliant", "warm"], "bad": ["dull", "awful", "clumsy", "cold"]}
    rows = []
    for _ in range(count):
        label = draw.choice(sorted(words))
        filler = " ".join(draw.choices(["really", "in the end", "as a whole", "to me", "again"], k=draw.randint(0, 4)))
        rows.append((f"the {draw.choice(things)} is {draw.choice(words[label])} {filler}".strip(), label))
    return rows


def make_story(number: int) -> str:
    """Texts of different lengths."""
    return " ".join(f"{NAMES[(number + i) % 4]} saw {number * i} birds." for i in range(1, 2 + number % 5))


def make_sum(number: int) -> dict[str, str]:
    """A question and its answer, as SUMS has them."""
    return {"question": f"{NAMES[number % 4]} has {number} and 7. How many?\n", "answer": f"The sum is {number + 7}."}


def make_chat(number: int) -> list[dict[str, str]]:
    """Two answered turns and one without an answer."""
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    again = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes, " + "very " * 3 + "sure."}]
    return turns + again + [{"role": "user", "content": "Thanks!"}]
