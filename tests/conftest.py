"""Fixtures that many tests need: tiny random models, tiny tasks, the folder of real data."""

import csv
import json
import os
from pathlib import Path

import pytest

from tests.makers.texts import REVIEWS, SUMS, make_chat, make_reviews, make_story, make_sum

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
    words.train_from_iterator([text for text, _ in make_reviews(200)], vocab_size=200, show_progress=False)
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
    rows = make_reviews(224)
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


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (2 layers x 32, 2 of 4 heads' keys) with a byte-level tokenizer that has a chat template."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    texts = [make_story(n) for n in range(40)] + [make_sum(n)["question"] for n in range(40)]
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
        "stories": [{"text": make_story(n)} for n in range(60)],
        "sums": [make_sum(n) for n in range(40)],
        "chats": [{"messages": make_chat(n)} for n in range(20)],
    }
    for name, lines in rows.items():
        (folder / name).mkdir()
        held = len(lines) // 4
        for split, part in {"train": lines[held:], "valid": lines[:held]}.items():
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
    return folder


@pytest.fixture(scope="session")
def exported_reviews(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """`data`, a random `model`, and `exported` from it in fp32 and int8; its logits in `expected.npy`."""
    from tests.makers.exports import export_reviews

    return export_reviews(tmp_path_factory.mktemp("exported_reviews"), tiny_model, tiny_data)


@pytest.fixture(scope="session")
def token_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Splits of random tokens, as prepare writes them of plain text, and a byte-level tokenizer."""
    from tests.makers.exports import write_token_data

    return write_token_data(tmp_path_factory.mktemp("token_data"))


@pytest.fixture(scope="session")
def exported_llama(tmp_path_factory: pytest.TempPathFactory, token_data: Path) -> Path:
    """A low-rank Llama with grouped keys as `model`, and in fp32, portable and int8 as `onnx`."""
    from tests.makers.decoders import factorize_decoder, make_decoder
    from tests.makers.exports import export_decoder

    folder = tmp_path_factory.mktemp("exported_llama")
    model = factorize_decoder(make_decoder("llama", vocab_size=300, eos_token_id=1))
    export_decoder(folder, model, token_data, ("fp32", "portable", "int8"))
    return folder


@pytest.fixture(scope="session")
def review_chain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Of the task `reviews`: `prepare`, `finetune`, `factorize`, `evaluate`, and `teacher`, `student`, `triton`."""
    from tests.makers.exports import make_review_chain

    return make_review_chain(tmp_path_factory.mktemp("review_chain"), tiny_model, tiny_data)


@pytest.fixture(scope="session")
def classifier_chain(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """The task `reviews` prepared, its teacher, and a student of half the teacher's layers; see make_chain."""
    from stages.settings import Calibration, Factorize, Finetune
    from tests.makers.chains import SHORT, make_chain

    student = Factorize(budget=0.5, multiple_of=1, calibration=Calibration(examples=64))
    folder = tmp_path_factory.mktemp("classifier_chain")
    return make_chain(folder, tiny_model, tiny_data, "reviews", REVIEWS, Finetune(**SHORT), student=student)


@pytest.fixture(scope="session", params=["stories", "sums"])
def causal_chain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path, tiny_text: Path
) -> Path:
    """A causal task prepared, its teacher and its student; the folder begins with the task's name."""
    from stages.schema.task import CausalLMTask
    from stages.settings import Calibration, Factorize, Finetune
    from tests.makers.chains import SHORT_CAUSAL, make_chain

    task = {"stories": CausalLMTask(kind="causal_lm"), "sums": SUMS}[request.param]
    teacher = Finetune(**SHORT_CAUSAL | {"epochs": 6, "learning_rate": 1e-2})
    student = Factorize(budget=0.6, multiple_of=1, calibration=Calibration(examples=8))
    folder = tmp_path_factory.mktemp(request.param)
    return make_chain(folder, tiny_decoder, tiny_text, request.param, task, teacher, student=student)
