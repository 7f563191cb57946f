"""Decoders exported: the graph with its cache is the model, token by token; sampling, streaming, int8, speed."""

import json
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from test_decoders import halved, tiny

from serving.benchmark import benchmark
from serving.decoder import pad_left
from serving.generator import Generator, _Text
from serving.predictor import ModelError, Predictor
from serving.sampling import Sampling
from stages.graph.card import write_manifest
from stages.graph.folder import Folder
from stages.graph.language_model import LanguageModel
from stages.graph.subject import subject
from stages.graph.usage import usage
from stages.models.base import load
from stages.settings import BadInput, Benchmark, Export
from stages.tasks import Task
from stages.tracking import Run

TEXT = ["the dog saw naïve birds 😀 and ran", "once upon a time 日本 there was a dog", "she ran to the garden again"]
PROMPTS = [[7, 40, 9, 33, 12, 80, 11, 5, 6], [50, 8, 61], [21]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of tokens, of which some are asked for, and a byte-level tokenizer that puts <s> first."""
    from datasets import Dataset
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    folder, words = tmp_path_factory.mktemp("text"), ByteLevelBPETokenizer()
    special = ["<s>", "</s>"]
    words.train_from_iterator(TEXT, vocab_size=300, min_frequency=1, special_tokens=special, show_progress=False)
    assert words.get_vocab_size() == 300
    tokenizer = words._tokenizer
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder / "tokenizer")
    draw = np.random.default_rng(0)
    for split in ("train", "validation"):
        ids = [draw.integers(2, len(fast), draw.integers(6, 30)).tolist() for _ in range(12)]
        labels = [[-100, -100, *row[2:]] for row in ids]
        rows = {"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]}
        Dataset.from_dict(rows).save_to_disk(str(folder / split))
    return folder


def made(place: Path, model, data: Path, variants: tuple[str, ...] = ("fp32",)) -> LanguageModel:
    """The model and its exported folder under `place`."""
    model.save_pretrained(place / "model")
    (place / "onnx").mkdir()
    it = LanguageModel(load(place / "model"), data)
    folder = Folder(place / "onnx", Export(), {"name": "tiny", "role": "student"}, it)
    for variant in variants:
        folder.add(variant, seed=1)
    write_manifest(place / "onnx", folder.facts)
    return it


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A low-rank Llama with grouped keys as `model`, and in fp32, portable and int8 as `onnx`."""
    place = tmp_path_factory.mktemp("llama")
    model = halved(tiny("llama", layers=2, vocab_size=300, eos_token_id=1)).model
    made(place, model, data, ("fp32", "portable", "int8"))
    return place


def written(model, prompts: list[list[int]], count: int, **options) -> list[list[int]]:
    """What PyTorch writes behind prompts of different lengths, always its likeliest token."""
    ids, mask = map(torch.from_numpy, pad_left(prompts))
    out = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0, **options)
    return out[:, ids.shape[1] :].tolist()


def tokens(generator: Generator, prompts: list[list[int]], **sampling) -> list[list[int]]:
    return [answer.ids for answer in generator.generate(prompts, Sampling(**sampling))]


@pytest.mark.parametrize("low_rank", [False, True], ids=["dense", "low-rank"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_greedy_tokens_are_pytorchs(family: str, low_rank: bool, data: Path, tmp_path: Path) -> None:
    """Prompts of 1, 3 and 9 tokens together, and alone; the proof's figures, and that it sees another model."""
    model = tiny(family, layers=1, vocab_size=300)
    it = made(tmp_path, halved(model, budget=0.6).model if low_rank else model, data)
    expected = written(it.model, PROMPTS, 20)
    assert len({tuple(row) for row in expected}) == 3
    generator = Generator(tmp_path / "onnx")
    assert tokens(generator, PROMPTS, max_tokens=20) == expected
    assert tokens(generator, PROMPTS[2:], max_tokens=20) == written(it.model, PROMPTS[2:], 20) == expected[2:]

    row = generator.manifest["variants"]["fp32"]
    assert row["difference"] < 2e-5 and row["same_tokens"] == 100 and generator.manifest["low_rank"] == low_rank
    with torch.no_grad():
        next(it.model.parameters()).mul_(1.1)
    assert it.compare(generator.path)["difference"] > 1e-3


def test_the_graph_has_the_names_that_others_expect(exported: Path) -> None:
    graph = onnx.load(exported / "onnx/onnx/model.onnx").graph
    sizes = lambda one: [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]  # noqa: E731
    shapes = {one.name: sizes(one) for one in (*graph.input, *graph.output)}
    parts = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert [one.name for one in graph.input[3:]] == [f"past_key_values.{part}" for part in parts]
    assert [one.name for one in graph.output] == ["logits", *(f"present.{part}" for part in parts)]
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "length"]
    assert shapes["attention_mask"] == ["batch", "total"]
    assert all(shapes[f"past_key_values.{part}"] == ["batch", 2, "past", 4] for part in parts)
    assert [node.op_type for node in graph.node].count("Attention") == 2
    config = json.loads((exported / "onnx/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["num_key_value_heads"] == 2


@pytest.mark.parametrize("variant", ["portable", "int8"])
def test_other_variants_write_too(exported: Path, variant: str) -> None:
    generator = Generator(exported / "onnx", variant)
    found, expected = tokens(generator, PROMPTS, max_tokens=20), written(load(exported / "model"), PROMPTS, 20)
    rows = generator.manifest["variants"]
    if variant == "portable":
        assert found == expected and rows[variant]["opset"] == 18
    else:
        assert [len(row) for row in found] == [20] * 3
        assert rows[variant]["difference"] > 1e-4 and rows[variant]["bytes"] < rows["fp32"]["bytes"]
        assert rows[variant]["same_tokens"] > 60, "by chance, 0.3"


def test_scores_are_pytorchs(exported: Path, data: Path) -> None:
    """Only labels that are asked for count, each once, however long its row."""
    model = load(exported / "model")
    it = LanguageModel(model, data)
    metrics, said = it.score(exported / "onnx", "fp32")
    losses, hits = [], []
    for row in it.validation:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, 1:-1].double()  # the first two labels are not asked for
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 2:], reduction="none").tolist()
        hits += (logits.argmax(-1) == ids[0, 2:]).tolist()
    assert len(said) == len(losses)
    assert metrics["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert metrics["likelihood"] == pytest.approx(100 / metrics["perplexity"])
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(hits))
    it.check_score(50.0, 50.01)
    with pytest.raises(BadInput, match=r"scores accuracy 50\.00, but evaluate found 51\.00"):
        it.check_score(50.0, 51.0)


def test_a_variant_that_loses_too_much_is_left_out(exported: Path, data: Path, tmp_path: Path) -> None:
    it = LanguageModel(load(exported / "model"), data)
    it.trace = lambda path, opset: shutil.copy(exported / "onnx/onnx/model.onnx", path)
    it.score = lambda folder, variant: ({"accuracy": {"fp32": 60.0, "int8": 59.4}[variant]}, np.arange(4))
    folder = Folder(tmp_path, Export(), {"name": "tiny", "role": "student"}, it)
    folder.build(["int8"], evaluated=60.0, seed=1)
    assert "accuracy 59.40 against 60.00 of fp32, more than" in folder.facts["variants"]["int8"]["refused"]
    assert not (tmp_path / "onnx/model_int8.onnx").exists() and (tmp_path / "onnx/model.onnx").exists()


def test_the_model_says_its_kind(exported: Path, data: Path) -> None:
    assert isinstance(subject(exported / "model", Task(labels=["a", "b"]), data, 32), LanguageModel)


def test_stop_tokens_end_rows_one_by_one(exported: Path) -> None:
    """The rows beside it go on undisturbed, as in PyTorch; the token that ends a text is no part of it."""
    model, generator = load(exported / "model"), Generator(exported / "onnx")
    free = {tuple(prompt): written(model, [prompt], 20)[0] for prompt in PROMPTS}
    first, second, end = next(
        (list(one), list(other), token)
        for (one, row), (other, beside) in permutations(free.items(), 2)
        for i, token in enumerate(row)
        if i and token not in row[:i] + beside
    )
    prompts = [first, second]
    expected = [
        row[: row.index(end) + 1] if end in row else row for row in written(model, prompts, 20, eos_token_id=end)
    ]
    stop = (generator.tokenizer.id_to_token(end),)
    answers = generator.generate(prompts, Sampling(max_tokens=20, stop=stop))
    assert [answer.ids for answer in answers] == expected
    assert [answer.finish for answer in answers] == ["stop" if end in row else "length" for row in expected]
    assert (answers[0].finish, answers[1].finish) == ("stop", "length")
    shorter = generator.generate(prompts[:1], Sampling(max_tokens=len(expected[0]) - 1))[0]
    assert shorter.finish == "length" and shorter.text == answers[0].text


def test_writes_no_further_than_the_model_reads(exported: Path) -> None:
    prompt = [5] * 60
    answers = Generator(exported / "onnx").generate([prompt, [7]], Sampling(max_tokens=100))
    assert [len(answer.ids) for answer in answers] == [4, 63] and answers[0].finish == "length"


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.3, "top_p": 0.6},
        {"temperature": 0.9, "top_k": 12, "top_p": 0.8},
        {"temperature": 1.0, "top_p": 1e-6},
    ],
)
def test_sampling_has_the_librarys_distribution(settings: dict) -> None:
    """One step against Transformers' own warpers; draws against the distribution."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(0)
    logits = 2 * torch.randn(3, 40)
    warped = TemperatureLogitsWarper(settings["temperature"])(None, logits)
    if "top_k" in settings:
        warped = TopKLogitsWarper(settings["top_k"])(None, warped)
    if "top_p" in settings:
        warped = TopPLogitsWarper(settings["top_p"])(None, warped)
    sampling, expected = Sampling(seed=3, **settings), warped.softmax(-1).numpy()
    np.testing.assert_allclose(sampling.shares(logits.numpy()), expected, atol=1e-6)
    generators = sampling.generators(3)
    drawn = np.array([sampling.choose(logits.numpy(), generators) for _ in range(3000)])
    shares = np.stack([np.bincount(row, minlength=40) for row in drawn.T]) / 3000
    assert np.abs(shares - expected).max() < 0.04 and not shares[expected == 0].any()


def test_a_seed_draws_the_same_again_whoever_is_beside(exported: Path) -> None:
    generator = Generator(exported / "onnx")
    draw = {"temperature": 1.0, "max_tokens": 15}
    both = tokens(generator, PROMPTS[:2], seed=5, **draw)
    assert tokens(generator, PROMPTS[:1], seed=5, **draw) == both[:1]
    assert tokens(generator, [PROMPTS[0]] * 2, seed=6, **draw)[0] != both[0]
    same = tokens(generator, [PROMPTS[0]] * 2, seed=5, **draw)
    assert same[0] == both[0] != same[1], "each row draws for itself"


def test_pieces_never_split_a_character(data: Path, exported: Path) -> None:
    generator = Generator(exported / "onnx")
    for text in TEXT:
        ids = generator.tokenizer.encode(text).ids
        stream = _Text(generator.tokenizer, ids[:3], set())
        pieces = [stream.add(token) for token in ids[3:]]
        assert generator.tokenizer.decode(ids[:3]) + "".join(pieces) == text
        assert not any("\ufffd" in piece for piece in pieces)
    unfinished = generator.tokenizer.encode("😀").ids[:-1]
    assert len(unfinished) > 1 and "".join(_Text(generator.tokenizer, [5], set()).add(i) for i in unfinished) == ""


def test_a_stream_is_the_answer_in_pieces(exported: Path) -> None:
    generator, sampling = Generator(exported / "onnx"), Sampling(max_tokens=30, temperature=0.8, seed=2)
    pieces = list(generator.stream(TEXT[2], sampling))
    assert len(pieces) > 3 and "".join(pieces) == generator.generate([TEXT[2]], sampling)[0].text


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
def test_what_cannot_work_is_told_before(exported: Path, prompts, sampling: dict, message: str) -> None:
    generator = Generator(exported / "onnx")
    with pytest.raises(ModelError, match=message):
        generator.generate(prompts, Sampling(**sampling))
    if prompts and not isinstance(prompts, str):
        with pytest.raises(ModelError, match=message):
            generator.stream(prompts[0], Sampling(**sampling))


def test_a_wrong_folder_is_told(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds a model of another kind; open it with serving\.generator\.Generator"):
        Predictor(exported / "onnx")
    with pytest.raises(ModelError, match="variant fp16 is not in"):
        Generator(exported / "onnx", "fp16")
    copy = Path(shutil.copytree(exported / "onnx", tmp_path / "copy"))
    (copy / "generation_config.json").write_text("{}")
    with pytest.raises(ModelError, match="differs from its checksum"):
        Generator(copy)


def test_needs_neither_torch_nor_transformers(exported: Path) -> None:
    code = (
        "import sys; from serving.generator import Generator; from serving.sampling import Sampling\n"
        f"made = Generator({str(exported / 'onnx')!r}).generate([[7, 40, 9]], Sampling(max_tokens=5))\n"
        "print(made[0].ids)\n"
        "heavy = {'torch', 'transformers', 'stages', 'pydantic', 'onnx', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == written(load(exported / "model"), [[7, 40, 9]], 5)[0]


def test_a_stranger_runs_the_lines_of_the_card(exported: Path) -> None:
    """As they stand there, in the folder; the text of PyTorch's forty tokens."""
    generator = Generator(exported / "onnx")
    code = usage(generator.manifest).replace("print(tokenizer.decode(ids))", "print(ids)")
    done = subprocess.run([sys.executable, "-c", code], cwd=exported / "onnx", capture_output=True, text=True)
    prompt = generator.tokenizer.encode("Once upon a time").ids
    assert json.loads(done.stdout) == prompt + written(load(exported / "model"), [prompt], 40, eos_token_id=-1)[0]


def test_the_registered_model_writes(exported: Path) -> None:
    import pandas

    from serving.mlflow_model import TextModel

    model = TextModel()
    model.load_context(SimpleNamespace(artifacts={"model": str(exported / "onnx")}))
    answers = model.predict(None, pandas.DataFrame({"0": TEXT[:2]}))
    expected = [Generator(exported / "onnx").generate([text])[0].text for text in TEXT[:2]]
    assert [row["text"] for row in answers] == expected and any(expected)


def test_prefill_and_decode_are_timed(exported: Path, data: Path, tmp_path: Path) -> None:
    settings = Benchmark(batch_sizes=[1, 2], lengths=["real", 16], variants=["fp32", "int8"], seconds=0.05)
    places = {"data": data, "teacher": exported / "onnx", "student": exported / "onnx"}
    found = benchmark(settings, name="tiny", **places, output=tmp_path, seed=1, run=Run())
    assert len(found["cells"]) == 3 * 2 * 2 * 2 and (tmp_path / "latency.png").stat().st_size > 0
    assert set(found["ratio"]) == {
        f"{variant}/{phase}/{length}/{size}"
        for variant in ("fp32", "int8") for phase in ("prefill", "decode") for length in ("real", 16) for size in (1, 2)
    }  # fmt: skip
    assert 0.5 < found["ratio"]["fp32/decode/16/1"] < 2, "the same graph against itself"
    cells = {(c["phase"], c["variant"], c["batch_size"]): c for c in found["cells"] if c["length"] == 16}
    assert cells["prefill", "fp32", 1]["p50_ms"] < cells["decode", "fp32", 1]["p50_ms"], "a token of many costs less"
    with pytest.raises(BadInput, match=r"benchmark.lengths has 64, but this model reads 2 to 48 tokens when timed"):
        benchmark(Benchmark(lengths=[64]), name="tiny", **places, output=tmp_path, seed=1, run=Run())


@pytest.mark.real
def test_a_real_decoder_tells_the_same_stories(real_data: Path, tmp_path: Path) -> None:
    """stories260k (Llama, 5 layers, grouped keys, tied): 100 tokens of four stories, ended where PyTorch ends them."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(real_data / "models/stories260k", pad_token="</s>")
    lines = (real_data / "text/tinystories/valid.jsonl").read_text(encoding="utf8").splitlines()[:8]
    ids = [tokenizer(json.loads(line)["text"])["input_ids"][:200] for line in lines]
    for split in ("train", "validation"):
        Dataset.from_dict({"input_ids": ids, "labels": ids}).save_to_disk(str(tmp_path / "data" / split))
    tokenizer.save_pretrained(tmp_path / "data/tokenizer")
    it = made(tmp_path, load(real_data / "models/stories260k"), tmp_path / "data", ("fp32", "int8"))
    generator = Generator(tmp_path / "onnx")
    prompts = [row[: 3 + 9 * i] for i, row in enumerate(ids[:4])]
    answers = generator.generate(prompts, Sampling(max_tokens=100))
    for answer, row in zip(answers, written(it.model, prompts, 100), strict=True):
        assert answer.ids == row[: len(answer.ids)]
    assert generator.generate(["Once upon a time"], Sampling(max_tokens=12))[0].text.startswith(", there was a")
    whole, int8 = (it.score(tmp_path / "onnx", variant)[0] for variant in ("fp32", "int8"))
    assert 3 < whole["perplexity"] < 5 and abs(int8["accuracy"] - whole["accuracy"]) < 1
