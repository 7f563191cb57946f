"""The generator: where texts end, what a seed draws, pieces that join to the answer, and what is refused before."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from serving.generator import Generator, _Detokenizer
from serving.predictor import ModelError
from serving.sampling import Sampling
from stages.models.loading import load_checkpoint
from tests.makers.exports import LINES, PROMPTS, generate_greedily


@pytest.fixture(scope="module")
def generator(exported_llama: Path) -> Generator:
    return Generator(exported_llama / "onnx")


def generate_ids(generator: Generator, prompts: list[list[int]], **sampling: Any) -> list[list[int]]:
    return [completion.ids for completion in generator.generate(prompts, Sampling(**sampling))]


def test_stop_tokens_end_rows_one_by_one(generator: Generator, exported_llama: Path) -> None:
    """The rows beside it go on undisturbed, as in PyTorch; the token that ends a text is no part of it."""
    model = load_checkpoint(exported_llama / "model")
    free = {tuple(prompt): generate_greedily(model, [prompt], 20)[0] for prompt in PROMPTS}
    first, second, end = next(
        (list(first), list(second), token)
        for (first, row), (second, beside) in permutations(free.items(), 2)
        for i, token in enumerate(row)
        if i and token not in row[:i] + beside
    )
    prompts = [first, second]
    rows = generate_greedily(model, prompts, 20, eos_token_id=end)
    expected = [row[: row.index(end) + 1] if end in row else row for row in rows]
    stop = (generator.tokenizer.id_to_token(end),)
    completions = generator.generate(prompts, Sampling(max_tokens=20, stop=stop))
    assert [completion.ids for completion in completions] == expected
    assert [completion.finish for completion in completions] == ["stop" if end in row else "length" for row in expected]
    assert (completions[0].finish, completions[1].finish) == ("stop", "length")
    shorter = generator.generate(prompts[:1], Sampling(max_tokens=len(expected[0]) - 1))[0]
    assert shorter.finish == "length" and shorter.text == completions[0].text


def test_generates_no_further_than_the_model_reads(generator: Generator) -> None:
    prompt = [5] * 60
    completions = generator.generate([prompt, [7]], Sampling(max_tokens=100))
    assert [len(completion.ids) for completion in completions] == [4, 63] and completions[0].finish == "length"


def test_a_seed_draws_the_same_again_whatever_is_beside(generator: Generator) -> None:
    draw = {"temperature": 1.0, "max_tokens": 15}
    both = generate_ids(generator, PROMPTS[:2], seed=5, **draw)
    assert generate_ids(generator, PROMPTS[:1], seed=5, **draw) == both[:1]
    assert generate_ids(generator, [PROMPTS[0]] * 2, seed=6, **draw)[0] != both[0]
    same = generate_ids(generator, [PROMPTS[0]] * 2, seed=5, **draw)
    assert same[0] == both[0] != same[1], "each row draws for itself"


def test_pieces_never_split_a_character(generator: Generator) -> None:
    for text in LINES:
        ids = generator.tokenizer.encode(text).ids
        stream = _Detokenizer(generator.tokenizer, ids[:3], set())
        pieces = [stream.add(token) for token in ids[3:]]
        assert generator.tokenizer.decode(ids[:3]) + "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    unfinished, stream = generator.tokenizer.encode("😀").ids[:-1], _Detokenizer(generator.tokenizer, [5], set())
    assert len(unfinished) > 1 and "".join(stream.add(token) for token in unfinished) == ""


def test_a_stream_is_the_answer_in_pieces(generator: Generator) -> None:
    sampling = Sampling(max_tokens=30, temperature=0.8, seed=2)
    pieces = list(generator.stream(LINES[2], sampling))
    assert len(pieces) > 3 and "".join(pieces) == generator.generate([LINES[2]], sampling)[0].text


@pytest.mark.parametrize(
    ("prompts", "sampling", "message"),
    [
        (["a"], {"temperature": -1}, r"temperature -1 cannot be; give 0 \(greedy\) or more"),
        (["a"], {"top_p": 0}, r"top_p 0 cannot be; give above 0 and up to 1"),
        (["a"], {"top_k": -1}, r"top_k -1 cannot be"),
        (["a"], {"max_tokens": 0}, r"max_tokens 0 cannot be; give 1 or more"),
        (["a"], {"stop": ("<|im_end|>",)}, r"stop '<\|im_end\|>' is no token of this model"),
        ([], {}, r"prompts \[\] is not a list of prompts"),
        ("a text", {}, r"prompts 'a text' is not a list of prompts"),
        ([[]], {}, r"prompt \[\] has no tokens to go on from"),
        ([[5, 300]], {}, r"prompt \[5, 300\] has no tokens to go on from; give a text, or ids below 300"),
        ([[5] * 64], {}, r"has 64 tokens; this model reads 64, those that it writes included"),
    ],
)
def test_what_cannot_work_is_refused_before(generator: Generator, prompts: Any, sampling: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        generator.generate(prompts, Sampling(**sampling))
    if prompts and not isinstance(prompts, str):
        with pytest.raises(ModelError, match=message):
            generator.stream(prompts[0], Sampling(**sampling))
