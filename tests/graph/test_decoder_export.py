"""Decoders exported: the graph with its cache is the model, token by token; its scores, its int8, its card."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from serving.generator import Generator
from serving.sampling import Sampling
from stages.errors import BadInput
from stages.graph.classifier import ClassifierExporter, RegressionExporter
from stages.graph.decoder import DecoderExporter
from stages.kinds import get_kind
from stages.models.loading import load_checkpoint
from stages.schema.task import TASK
from tests.makers.decoders import factorize_decoder, make_decoder
from tests.makers.exports import PROMPTS, STORIES, export_decoder, generate_greedily, open_folder


def generate_ids(generator: Generator, prompts: list[list[int]], **sampling: int) -> list[list[int]]:
    return [completion.ids for completion in generator.generate(prompts, Sampling(**sampling))]


@pytest.mark.parametrize("low_rank", [False, True], ids=["dense", "low-rank"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_greedy_tokens_are_pytorchs(family: str, low_rank: bool, token_data: Path, tmp_path: Path) -> None:
    """Prompts of 1, 3 and 9 tokens together, and alone; the figures of parity, which another model fails."""
    model = make_decoder(family, layers=1, vocab_size=300)
    exporter = export_decoder(tmp_path, factorize_decoder(model, budget=0.6) if low_rank else model, token_data)
    expected = generate_greedily(exporter.model, PROMPTS, 20)
    assert len({tuple(row) for row in expected}) == 3
    generator = Generator(tmp_path / "onnx")
    assert generate_ids(generator, PROMPTS, max_tokens=20) == expected
    alone = generate_greedily(exporter.model, PROMPTS[2:], 20)
    assert generate_ids(generator, PROMPTS[2:], max_tokens=20) == alone == expected[2:]

    row = generator.manifest["variants"]["fp32"]
    assert row["difference"] < 2e-5 and row["same_tokens"] == 100 and generator.manifest["low_rank"] == low_rank
    with torch.no_grad():
        next(exporter.model.parameters()).mul_(1.1)
    assert exporter.compare_with_torch(generator.path)["difference"] > 1e-3


def test_the_graph_has_the_names_that_runtimes_expect(exported_llama: Path) -> None:
    graph = onnx.load(exported_llama / "onnx/onnx/model.onnx").graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    parts = [f"{i}.{part}" for i in range(2) for part in ("key", "value")]
    assert [value.name for value in graph.input[3:]] == [f"past_key_values.{part}" for part in parts]
    assert [value.name for value in graph.output] == ["logits", *(f"present.{part}" for part in parts)]
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "length"]
    assert shapes["attention_mask"] == ["batch", "total"]
    assert all(shapes[f"past_key_values.{part}"] == ["batch", 2, "past", 4] for part in parts)
    assert [node.op_type for node in graph.node].count("Attention") == 2
    config = json.loads((exported_llama / "onnx/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["num_key_value_heads"] == 2


@pytest.mark.parametrize("variant", ["portable", "int8"])
def test_other_variants_generate_too(exported_llama: Path, variant: str) -> None:
    generator = Generator(exported_llama / "onnx", variant)
    generated = generate_ids(generator, PROMPTS, max_tokens=20)
    rows = generator.manifest["variants"]
    if variant == "portable":
        assert generated == generate_greedily(load_checkpoint(exported_llama / "model"), PROMPTS, 20)
        assert rows[variant]["opset"] == 18
    else:
        assert [len(row) for row in generated] == [20] * 3
        assert rows[variant]["difference"] > 1e-4 and rows[variant]["bytes"] < rows["fp32"]["bytes"]
        assert rows[variant]["same_tokens"] > 60, "by chance, 0.3"


def test_scores_are_pytorchs(exported_llama: Path, token_data: Path) -> None:
    """Only predicted tokens count, each once, however long its row."""
    model = load_checkpoint(exported_llama / "model")
    exporter = DecoderExporter(model, token_data)
    metrics, predicted = exporter.score(exported_llama / "onnx", "fp32")
    losses, hits = [], []
    for row in exporter.validation:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, 1:-1].double()  # the first two tokens are not predicted
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 2:], reduction="none").tolist()
        hits += (logits.argmax(-1) == ids[0, 2:]).tolist()
    assert len(predicted) == len(losses)
    assert metrics["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert metrics["likelihood"] == pytest.approx(100 / metrics["perplexity"])
    assert metrics["accuracy"] == pytest.approx(100 * np.mean(hits))
    exporter.require_score(50.0, 50.01)
    with pytest.raises(BadInput, match=r"scores accuracy 50\.00, but evaluate measured 51\.00"):
        exporter.require_score(50.0, 51.0)


def test_a_variant_that_loses_too_much_is_left_out(exported_llama: Path, token_data: Path, tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "out", exported_llama / "model", STORIES, token_data)
    graph, scores = exported_llama / "onnx/onnx/model.onnx", {"fp32": 60.0, "int8": 59.4}
    folder.exporter.export_graph = lambda path, opset: shutil.copy(graph, path)
    folder.exporter.score = lambda _, variant: ({"accuracy": scores[variant]}, np.arange(4))
    folder.build_variants(["int8"], evaluated=60.0, seed=1)
    assert "accuracy 59.40 against 60.00 of fp32, more than" in folder.facts["variants"]["int8"]["refused"]
    assert not (tmp_path / "out/onnx/model_int8.onnx").exists() and (tmp_path / "out/onnx/model.onnx").exists()


def test_the_kind_of_the_task_names_the_exporter(exported_llama: Path, token_data: Path, review_chain: Path) -> None:
    decoder, classifier = load_checkpoint(exported_llama / "model"), load_checkpoint(review_chain / "finetune/model")
    cases = [
        ({"kind": "causal_lm"}, decoder, token_data, DecoderExporter),
        ({"labels": ["a", "b"]}, classifier, review_chain / "prepare/data", ClassifierExporter),
        ({"kind": "regression"}, classifier, review_chain / "prepare/data", RegressionExporter),
    ]
    for fields, model, data, expected in cases:
        task = TASK.validate_python(fields)
        exporter = get_kind(task).make_exporter(model, task, data, 32)
        assert type(exporter) is expected and exporter.metric == task.metrics[0]


def test_the_code_on_the_card_runs_as_it_stands(exported_llama: Path, token_data: Path) -> None:
    """In the folder; the text of PyTorch's forty tokens."""
    generator, model = Generator(exported_llama / "onnx"), load_checkpoint(exported_llama / "model")
    usage = DecoderExporter(model, token_data).describe(generator.manifest).usage
    code = usage.replace("print(tokenizer.decode(ids))", "print(ids)")
    done = subprocess.run([sys.executable, "-c", code], cwd=exported_llama / "onnx", capture_output=True, text=True)
    prompt = generator.tokenizer.encode("Once upon a time").ids
    assert json.loads(done.stdout) == prompt + generate_greedily(model, [prompt], 40, eos_token_id=-1)[0]


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
    model = load_checkpoint(real_data / "models/stories260k")
    exporter = export_decoder(tmp_path, model, tmp_path / "data", ("fp32", "int8"))
    generator = Generator(tmp_path / "onnx")
    prompts = [row[: 3 + 9 * i] for i, row in enumerate(ids[:4])]
    completions = generator.generate(prompts, Sampling(max_tokens=100))
    for completion, row in zip(completions, generate_greedily(exporter.model, prompts, 100), strict=True):
        assert completion.ids == row[: len(completion.ids)]
    assert generator.generate(["Once upon a time"], Sampling(max_tokens=12))[0].text.startswith(", there was a")
    fp32, int8 = (exporter.score(tmp_path / "onnx", variant)[0] for variant in ("fp32", "int8"))
    assert 3 < fp32["perplexity"] < 5 and abs(int8["accuracy"] - fp32["accuracy"]) < 1
