"""Exported models, as `export` writes them, beside the PyTorch models that they are compared with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedModel

from serving.decoder import pad_left
from stages.evaluate import evaluate
from stages.export import ExportInputs, SideOutputs, export
from stages.factorize import factorize
from stages.finetune import finetune
from stages.graph.card import write_manifest
from stages.graph.decoder import DecoderExporter
from stages.graph.onnx_folder import OnnxFolder
from stages.kinds import get_kind
from stages.models.loading import load_checkpoint, load_classifier
from stages.schema.task import TASK, CausalLMTask, Row
from stages.settings import Base, Evaluate, Export, Factorize, Finetune
from stages.tasks.batches import predict_logits
from stages.tasks.predictions import Predictions
from stages.tasks.splits import read_split
from tests.makers.runs import make_work, prepare_task
from tests.makers.texts import REVIEWS

STORIES = CausalLMTask(kind="causal_lm")
LINES = [
    "the dog saw naïve birds 😀 and ran",
    "once upon a time 日本 there was a dog",
    "she ran to the garden again",
]
PROMPTS = [[7, 40, 9, 33, 12, 80, 11, 5, 6], [50, 8, 61], [21]]


def save_random_model(folder: Path, base_model: Path, task: Row, data: Path) -> Predictions:
    """A classifier (or regression) with a random head as `folder`; returns its logits and the labels of validation."""
    torch.manual_seed(0)
    model = load_classifier(Base(model=str(base_model)), getattr(task, "labels", []))
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    return predict_logits(
        model, read_split(data, "validation"), AutoTokenizer.from_pretrained(base_model), 8, "expected"
    )


def open_folder(
    output: Path, model: Path, task: Row, data: Path, *, max_length: int = 0, role: str = "student", **settings: Any
) -> OnnxFolder:
    """A folder that the model is to be exported to."""
    output.mkdir()
    facts = {"name": "tiny", "role": role, "task": task.model_dump()}
    exporter = get_kind(task).make_exporter(load_checkpoint(model), task, data, max_length)
    return OnnxFolder(output, Export(**settings), facts, exporter)


def export_reviews(folder: Path, base_model: Path, source: Path) -> Path:
    """`data`, a random `model`, and `exported` from it in fp32 and int8; its logits in `expected.npy`."""
    data, _ = prepare_task(base_model, source, folder, "reviews", REVIEWS, max_length=24)
    expected = save_random_model(folder / "model", base_model, REVIEWS, data)
    np.save(folder / "expected.npy", expected.values)
    exported = open_folder(folder / "exported", folder / "model", REVIEWS, data, max_length=24, int8_score_drop=100)
    scores = get_kind(REVIEWS).make_scorer(REVIEWS).compute_scores(expected)
    exported.build_variants(["int8"], evaluated=scores["accuracy"], seed=1)
    write_manifest(folder / "exported", exported.facts)
    return folder


def write_token_data(folder: Path) -> Path:
    """Rows of tokens, most of which are predicted, and a byte-level tokenizer that puts <s> first."""
    from datasets import Dataset
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    special = ["<s>", "</s>"]
    words.train_from_iterator(LINES, vocab_size=300, min_frequency=1, special_tokens=special, show_progress=False)
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
    (folder / "task.json").write_bytes(TASK.dump_json(STORIES))
    return folder


def export_decoder(
    folder: Path, model: PreTrainedModel, data: Path, variants: tuple[str, ...] = ("fp32",)
) -> DecoderExporter:
    """The model as `model`, its exported folder as `onnx`."""
    model.save_pretrained(folder / "model")
    exported = open_folder(folder / "onnx", folder / "model", STORIES, data)
    for variant in variants:
        exported.add_variant(variant, seed=1)
    write_manifest(folder / "onnx", exported.facts)
    return exported.exporter


def generate_greedily(model: PreTrainedModel, prompts: list[list[int]], count: int, **options: Any) -> list[list[int]]:
    """PyTorch's continuations of prompts of different lengths, always its most probable token."""
    ids, mask = map(torch.from_numpy, pad_left(prompts))
    out = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0, **options)
    return out[:, ids.shape[1] :].tolist()


def make_review_chain(folder: Path, base_model: Path, source: Path) -> Path:
    """Data, a trained teacher, a low-rank student, their scores, and both exported."""
    base = Base(model=str(base_model))
    data, _ = prepare_task(base_model, source, folder / "prepare", "reviews", REVIEWS)
    settings = Finetune(epochs=12, batch_size=16, learning_rate=1e-3)
    finetune(settings, make_work(folder / "finetune"), base=base, data=data)
    teacher, student = folder / "finetune/model", folder / "factorize/model"
    factorize(Factorize(budget=0.95, multiple_of=1), make_work(folder / "factorize"), data=data, teacher=teacher)
    models = {"teacher": teacher, "student": student}
    evaluate(Evaluate(bootstrap=100), make_work(folder / "evaluate"), data=data, models=models)
    export_chain(folder, folder, Export(variants=["portable", "fp16", "int8"]))
    return folder


def export_chain(chain: Path, output: Path, settings: Export) -> dict[str, Any]:
    """The chain's `student`, `teacher` and `triton` under `output`; returns the student's manifest."""
    for name in ("student", "teacher", "triton"):
        (output / name).mkdir()
    inputs = ExportInputs(
        name="reviews",
        base="tiny",
        max_length=32,
        data=chain / "prepare/data",
        teacher=chain / "finetune/model",
        student=chain / "factorize/model",
        evaluation=chain / "evaluate/metrics.json",
    )
    side = SideOutputs(teacher=output / "teacher", triton=output / "triton")
    return export(settings, make_work(output / "student"), inputs, side)


def read_student_score(chain: Path) -> float:
    """What `evaluate` measured of the chain's student."""
    return json.loads((chain / "evaluate/metrics.json").read_text())["student"]["score"]
