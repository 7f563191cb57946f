"""Fixtures that more than one test file needs: tiny random models, tiny tasks, the folder of real data."""

import csv
import json
import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT (2 layers x 32) with its tokenizer, as a folder in hub layout."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny_model")
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator([text for text, _ in reviews(200)], vocab_size=200, show_progress=False)
    words.save_model(str(folder))
    tokenizer = BertTokenizer.from_pretrained(folder, model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.1,  # such a narrow model learns slowly from 0.02
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The task `reviews` in a folder: train.csv (160 rows), validation.csv (64), columns text and label."""
    folder = tmp_path_factory.mktemp("tiny_data")
    rows = reviews(224)
    for split, part in {"train": rows[:160], "validation": rows[160:]}.items():
        path = folder / "reviews" / f"{split}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder named by MAKD_REAL_DATA (default: ../shared/data); skips where it is absent."""
    folder = Path(os.environ.get("MAKD_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; MAKD_REAL_DATA names the folder")
    return folder


def reviews(count: int) -> list[tuple[str, str]]:
    """Short sentences of different lengths whose label one word decides; the same ones at every call."""
    draw = random.Random(7)
    things = ["film", "plot", "cast", "music", "ending", "dialogue", "camera work"]
    words = {"good": ["great", "lovely", "brilliant", "warm"], "bad": ["dull", "awful", "clumsy", "cold"]}
    rows = []
    for _ in range(count):
        label = draw.choice(sorted(words))
        filler = " ".join(draw.choices(["really", "in the end", "as a whole", "to me", "again"], k=draw.randint(0, 4)))
        rows.append((f"the {draw.choice(things)} is {draw.choice(words[label])} {filler}".strip(), label))
    return rows


SUMS = Task(kind="causal_lm", prompt="question", response="answer", match=r"is (\d+)")
NAMES = ["Tom", "Lily", "Ben", "Anna"]


def story(number: int) -> str:
    """Texts of different lengths."""
    return " ".join(f"{NAMES[(number + i) % 4]} saw {number * i} birds." for i in range(1, 2 + number % 5))


def sums(number: int) -> dict[str, str]:
    return {"question": f"{NAMES[number % 4]} has {number} and 7. How many?\n", "answer": f"The sum is {number + 7}."}


def chat(number: int) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"It is {number}."}]
    again = [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes, " + "very " * 3 + "sure."}]
    return turns + again + [{"role": "user", "content": "Thanks!"}]


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (2 layers x 32, 2 of 4 heads' keys) with a byte-level tokenizer that has a chat template."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    texts = [story(n) for n in range(40)] + [sums(n)["question"] for n in range(40)]
    words.train_from_iterator(texts, vocab_size=320, special_tokens=["<s>", "</s>"], show_progress=False)
    folder = tmp_path_factory.mktemp("tiny_decoder")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words._tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The causal tasks `stories` (text), `sums` (question, answer) and `chats` (messages), each train and valid."""
    folder = tmp_path_factory.mktemp("tiny_text")
    rows = {
        "stories": [{"text": story(n)} for n in range(60)],
        "sums": [sums(n) for n in range(40)],
        "chats": [{"messages": chat(n)} for n in range(20)],
    }
    for name, lines in rows.items():
        (folder / name).mkdir()
        held = len(lines) // 4
        for split, part in {"train": lines[held:], "valid": lines[:held]}.items():
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    return folder


def prepared(model: Path, source: Path, output: Path, name: str, task: Task, **settings) -> tuple[Path, dict]:
    """What `prepare` makes of a task: the folder of its data, its metrics."""
    from stages.prepare import prepare
    from stages.settings import Base, Data, Prepare
    from stages.tracking import Run

    output.mkdir(exist_ok=True)
    known = {"data": Data(source=str(source)), "base": Base(model=str(model)), "seed": 1, "run": Run()}
    metrics = prepare(name=name, task=task, settings=Prepare(**{"max_length": 32} | settings), output=output, **known)
    return output / "data", metrics


def in_two_processes(work: Callable[[], Any]) -> None:
    """Does `work` in two processes at once, as torchrun would, but forked: nothing is imported anew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    start = multiprocessing.get_context("fork").Process
    processes = [start(target=_as_rank, args=(rank, place, work)) for rank in (0, 1)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


def _as_rank(rank: int, place: dict[str, str], work: Callable[[], Any]) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()  # what was here before the fork was one process alone
    os.environ |= place | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    work()


def wait_for(happened: Callable[[], Any], seconds: float) -> None:
    """Fails where it does not happen in that time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def settle(folder: Path) -> None:
    """Until everything is sent to MLflow; on a busy machine that may go on after the stage."""
    wait_for(lambda: not list((folder / ".makd" / "journal").glob("*.jsonl")), 90)
