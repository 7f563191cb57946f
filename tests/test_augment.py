"""Augmentation: the words against references, nothing of the validation split, the teacher's labels in distillation."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import reviews
from safetensors.torch import load_file
from test_prepare import hashes
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from stages.distill import distill
from stages.factorize import factorize
from stages.models.base import load_classifier, load_tokenizer
from stages.models.heads import logits_at
from stages.models.masked_lm import load_masked_lm, warm_up
from stages.prepare import prepare
from stages.settings import Augment, BadInput, Base, Calibration, Data, Distill, Factorize, Prepare, Warmup
from stages.tasks import GLUE, Task
from stages.tasks.augment import unseen, varied
from stages.tasks.candidates import Vocabulary, candidates, words
from stages.tasks.splits import read_split
from stages.tasks.unlabeled import training_split
from stages.tracking import Run

REVIEWS = Task(text=["text"], labels=["bad", "good"])
VALUES = Task(kind="regression", text=["text"], metrics=["pearson"])
TEXTS = [text for text, _ in reviews(60)]


@pytest.fixture(scope="module")
def masked_lm(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The tiny model with a masked-LM head, both trained on short reviews, as a folder in hub layout."""
    folder = tmp_path_factory.mktemp("masked_lm")
    torch.manual_seed(0)
    model, fresh = load_masked_lm(Base(model=str(tiny_model)))
    tokenizer = load_tokenizer(Base(model=str(tiny_model)))
    tokens = tokenizer([text for text, _ in reviews(200)])["input_ids"]
    warm_up(model, fresh, tokenizer, tokens, Warmup(steps=200, learning_rate=3e-3), seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(output: Path, folder: Path, base: Path, task: Task = REVIEWS, name: str = "reviews", **augment) -> dict:
    output.mkdir()
    settings = Augment(**{"copies": 3, "candidates": 5} | augment)
    return prepare(
        name=name,
        task=task,
        data=Data(source=str(folder)),
        base=Base(model=str(base)),
        settings=Prepare(max_length=32, augment=settings),
        seed=5,
        output=output,
        run=Run(),
    )


def vary(base: Path, texts: list[str], **settings):
    """Each text's words with their candidates."""
    model, _ = load_masked_lm(Base(model=str(base)))
    return candidates(texts, model, load_tokenizer(Base(model=str(base))), Augment(**settings), 64), model


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2"])
def test_logits_at_a_place_are_the_models_own(family: str) -> None:
    from transformers import AutoConfig

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "distilbert":
        sizes = {"vocab_size": 50, "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 4}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(family, **sizes)).eval()
    inputs = {"input_ids": torch.randint(5, 50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    where = torch.rand(3, 7) < 0.4
    whole = model(**inputs).logits
    torch.testing.assert_close(logits_at(model, inputs, where), whole[where])
    torch.testing.assert_close(model(**inputs).logits, whole, msg="the model is left as it was")


def test_a_head_is_made_only_where_the_checkpoint_has_none(tiny_model: Path, masked_lm: Path) -> None:
    assert load_masked_lm(Base(model=str(masked_lm)))[1] == frozenset()
    model, fresh = load_masked_lm(Base(model=str(tiny_model)))
    assert "cls.predictions.transform.dense.weight" in fresh
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "the decoder is tied"


@pytest.mark.parametrize("trains", ["head", "all"])
def test_the_body_is_trained_only_where_asked_for(trains: str, tiny_model: Path) -> None:
    model, fresh = load_masked_lm(Base(model=str(tiny_model)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokenizer = load_tokenizer(Base(model=str(tiny_model)))
    warm_up(model, fresh, tokenizer, tokenizer(TEXTS)["input_ids"], Warmup(steps=3, trains=trains), seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name in fresh for name in changed)
    assert any(name.startswith("bert.") for name in changed) == (trains == "all")


def test_what_was_trained_reads_the_context(masked_lm: Path) -> None:
    """A head that only knew how frequent each token is would have the tokens' entropy as its loss."""
    model, _ = load_masked_lm(Base(model=str(masked_lm)))
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    losses, counts = [], Counter()
    for text in TEXTS:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        places = torch.arange(1, len(ids) - 1)
        rows = ids.repeat(len(places), 1)
        rows[range(len(places)), places] = tokenizer.mask_token_id
        logits = model.cpu()(input_ids=rows).logits[range(len(places)), places]
        losses += torch.nn.functional.cross_entropy(logits, ids[1:-1], reduction="none").tolist()
        counts.update(ids[1:-1].tolist())
    shares = np.array(list(counts.values())) / counts.total()
    assert np.mean(losses) < 0.7 * -(shares * np.log(shares)).sum()


def test_candidates_are_the_likeliest_whole_words_behind_the_mask(masked_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    found, model = vary(masked_lm, TEXTS[:3], candidates=6, batch_size=4)
    model.cpu()
    checked = 0
    for text, row in zip(TEXTS, found, strict=False):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        for word, choices in row:
            if len(word.pieces) > 1:
                continue
            masked = ids.clone()
            masked[0, word.at] = tokenizer.mask_token_id
            order = model(input_ids=masked).logits[0, word.at].argsort(descending=True).tolist()
            ranked = [tokenizer.convert_ids_to_tokens(i) for i in order]
            assert choices == [w for w in ranked if w.isalpha() and w != word.text][:6]
            checked += 1
    assert checked > 10


def test_a_word_of_several_tokens_gets_the_neighbors_of_its_mean(masked_lm: Path) -> None:
    [found], model = vary(masked_lm, ["the coldest film"], candidates=5)
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    word, choices = found[1]
    assert word.text == "coldest" and len(word.pieces) > 1 and word.at == -1
    table = model.get_input_embeddings().weight.detach().cpu().numpy()
    mean = np.mean([table[i] for i in word.pieces], axis=0)
    whole = [w for w in tokenizer.vocab if w.isalpha()]
    close = {w: table[i] @ mean / np.linalg.norm(table[i]) for w in whole for i in [tokenizer.vocab[w]]}
    assert choices == sorted(close, key=close.__getitem__, reverse=True)[:5]


def test_words_are_found_whatever_the_tokenizer_makes_of_them(masked_lm: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(masked_lm)
    text = "It's the BRILLIANT, the-coldest 3d film 's (1999) plot"
    [found], [ids] = words([text], tokenizer, 64)
    assert [word.text for word in found] == ["It's", "the", "BRILLIANT", "the", "coldest", "film", "plot"]
    for word in found:
        assert text[word.start : word.end] == word.text
        assert tokenizer.decode(list(word.pieces)).replace("[UNK]", "'").replace(" ", "") == word.text.lower()
        assert word.at == -1 or ids[word.at] == word.pieces[0]
    [cut], _ = words([text], tokenizer, 8)
    assert [word.pieces for word in cut] == [word.pieces for word in found], "what is cut off keeps its pieces"
    assert {word.at for word in cut if len(word.pieces) == 1} > {-1}, "but cannot be masked"


def test_a_byte_level_vocabulary_has_words_behind_a_space(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS * 5, vocab_size=400, special_tokens=["<mask>"], show_progress=False)
    bpe.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), mask_token="<mask>")
    vocabulary = Vocabulary(tokenizer)
    expected = {i for token, i in tokenizer.vocab.items() if token[0] == "Ġ" and token[1:].isalpha()}
    assert set(vocabulary.ids) == expected and "great" in vocabulary.words.values()


def test_only_words_change_and_none_is_lost(masked_lm: Path) -> None:
    text = "The  film is great, the plot 's (1999) coldest  "
    [found], _ = vary(masked_lm, [text], candidates=5)
    pattern = re.compile(r"[A-Za-z]+")
    for seed in range(20):
        copy = varied(text, found, 1.0, np.random.default_rng(seed))
        assert pattern.sub("w", copy) == pattern.sub("w", text)
        assert copy[0].isupper() and " 's (1999) " in copy
        for new, old in zip(pattern.findall(copy), pattern.findall(text), strict=True):
            assert (new == old) == (old == "s")


def test_the_share_of_replaced_words_is_the_probability(masked_lm: Path) -> None:
    text = " ".join(["great"] * 50)
    [found], _ = vary(masked_lm, [text], source="neighbors")
    draw = np.random.default_rng(0)
    kept = np.mean([varied(text, found, 0.4, draw).split().count("great") for _ in range(100)]) / 50
    assert kept == pytest.approx(0.6, abs=0.03)  # three standard deviations of 5,000 draws are 0.021


@pytest.mark.parametrize("source", ["masked_lm", "neighbors"])
def test_the_split_is_new_the_same_each_time_and_leaves_the_others_alone(
    source: str, tmp_path: Path, tiny_data: Path, tiny_model: Path, masked_lm: Path
) -> None:
    options = {"source": source, "model": str(masked_lm)}
    metrics = run(tmp_path / "one", tiny_data, tiny_model, **options)
    assert run(tmp_path / "two", tiny_data, tiny_model, **options) == metrics
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    splits = {s: read_split(tmp_path / "one/data", s) for s in ("train", "validation", "augmented")}
    texts = {split: rows["text"][:] for split, rows in splits.items()}
    made = texts["augmented"]
    assert len(set(made)) == len(made) and not set(made) & set(texts["train"] + texts["validation"])
    assert metrics["augmented"]["dropped"] > 0, "such a small grammar says a sentence of another split now and then"
    assert metrics["augmented"]["examples"] + metrics["augmented"]["dropped"] == 3 * len(texts["train"])
    assert metrics["augmented"]["words"] == {"model": str(masked_lm), "source": source}
    assert "labels" not in splits["augmented"].column_names
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert splits["augmented"]["input_ids"][:] == tokenizer(made, truncation=True, max_length=32)["input_ids"]
    (tmp_path / "plain").mkdir()
    plain = prepare(
        name="reviews", task=REVIEWS, data=Data(source=str(tiny_data)), base=Base(model=str(tiny_model)),
        settings=Prepare(max_length=32), seed=5, output=tmp_path / "plain", run=Run(),
    )  # fmt: skip
    assert plain["fingerprint"] == metrics["fingerprint"] and "augmented" not in plain
    for split in ("train", "validation"):
        assert hashes(tmp_path / "plain/data" / split) == hashes(tmp_path / "one/data" / split)


def test_a_sentence_read_as_one_of_the_validation_split_is_dropped() -> None:
    from datasets import Dataset

    made = Dataset.from_dict({"input_ids": [[1, 2], [1, 3], [1, 2, 3], [1, 3], [4]]})
    known = [Dataset.from_dict({"input_ids": [[9], [1, 2]]}), Dataset.from_dict({"input_ids": [[4]]})]
    assert unseen(made, known) == [1, 2]


def test_without_a_head_one_is_made_and_said(tmp_path: Path, tiny_data: Path, tiny_model: Path, capsys) -> None:
    metrics = run(tmp_path / "out", tiny_data, tiny_model, warmup={"steps": 4}, examples=20)
    head = metrics["augmented"]["words"]["head"]
    assert head["steps"] == 4 and head["trained"] == "all" and head["loss_first"] > 0
    assert "has no masked-LM head; one was trained for 4 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert metrics["augmented"]["examples"] + metrics["augmented"]["dropped"] == 60


def test_both_texts_of_a_pair_vary(tmp_path: Path, masked_lm: Path) -> None:
    pairs = list(zip(TEXTS[:10], TEXTS[10:20], strict=True))
    for split in ("train", "dev"):
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *(f"1\t0\t0\t{a}\t{b}" for a, b in pairs)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines))
    run(tmp_path / "out", tmp_path, masked_lm, GLUE["mrpc"], "mrpc", copies=4, probability=0.5)
    rows = read_split(tmp_path / "out/data", "augmented")
    assert set(rows["text"]) - set(TEXTS) and set(rows["text_pair"]) - set(TEXTS)
    lengths = {(len(a.split()), len(b.split())) for a, b in pairs}
    assert {(len(a.split()), len(b.split())) for a, b in zip(rows["text"], rows["text_pair"], strict=True)} <= lengths


def teach(place: Path, model: Path, task: Task, data: Path) -> Path:
    """A prepared task with new sentences, and a teacher of random weights."""
    run(place, data, model, task, source="neighbors", examples=40)
    torch.manual_seed(3)
    load_classifier(Base(model=str(model)), task).save_pretrained(place / "teacher")
    return place


def said(place: Path) -> np.ndarray:
    """What the teacher says of the new sentences, one at a time."""
    tokenizer = AutoTokenizer.from_pretrained(place / "data/tokenizer")
    teacher = AutoModelForSequenceClassification.from_pretrained(place / "teacher").eval()
    texts = read_split(place / "data", "augmented")["text"][:]
    with torch.inference_mode():
        return np.array([teacher(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts])


def test_the_teacher_names_the_classes(tmp_path: Path, tiny_data: Path, masked_lm: Path) -> None:
    place = teach(tmp_path / "out", masked_lm, REVIEWS, tiny_data)
    tokenizer = AutoTokenizer.from_pretrained(place / "data/tokenizer")
    train = read_split(place / "data", "train")
    both = training_split(place / "data", True, place / "teacher", tokenizer, 8)
    assert both["labels"][: len(train)] == train["labels"][:] and both["text"][: len(train)] == train["text"][:]
    assert both["labels"][len(train) :] == said(place).argmax(-1).tolist()
    assert both.features == train.features
    alone = training_split(place / "data", False, place / "teacher", tokenizer, 8)
    assert alone["text"][:] == train["text"][:], "unless asked for, new sentences are left out"


def test_the_teacher_gives_the_values(tmp_path: Path, masked_lm: Path) -> None:
    folder = tmp_path / "data/reviews"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{"text": text, "label": len(text) / 10} for text in TEXTS[:30]]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    place = teach(tmp_path / "out", masked_lm, VALUES, tmp_path / "data")
    tokenizer = AutoTokenizer.from_pretrained(place / "data/tokenizer")
    both = training_split(place / "data", True, place / "teacher", tokenizer, 8)
    assert both.features["labels"].dtype == "float32"
    np.testing.assert_allclose(both["labels"][30:], said(place)[:, 0], atol=1e-5)


def test_distilling_passes_over_both_splits(tmp_path: Path, tiny_data: Path, masked_lm: Path) -> None:
    place = teach(tmp_path / "out", masked_lm, REVIEWS, tiny_data)
    common = {"data": place / "data", "teacher": place / "teacher", "seed": 1, "run": Run()}
    student = tmp_path / "student"
    student.mkdir()
    factorize(
        Factorize(multiple_of=1, calibration=Calibration(examples=32)),
        output=student,
        **common,
    )
    weights = []
    for augmented in (True, False):
        output = tmp_path / str(augmented)
        output.mkdir()
        settings = Distill(epochs=1, batch_size=16, log_every=1, learning_rate=1e-3, augmented=augmented)
        distill(settings, student=student / "model", output=output, state=tmp_path / "state", **common)
        examples = 160 + augmented * len(read_split(place / "data", "augmented"))
        assert pd.read_csv(output / "history.csv")["step"].max() == -(-examples // 16)
        weights.append(load_file(output / "model/model.safetensors"))
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_what_was_never_made_cannot_be_trained_on(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    (tmp_path / "out").mkdir()
    prepare(
        name="reviews", task=REVIEWS, data=Data(source=str(tiny_data)), base=Base(model=str(tiny_model)),
        settings=Prepare(max_length=32), seed=5, output=tmp_path / "out", run=Run(),
    )  # fmt: skip
    with pytest.raises(BadInput, match=r"distill\.augmented is true.*set prepare\.augment"):
        training_split(tmp_path / "out/data", True, tmp_path, AutoTokenizer.from_pretrained(tiny_model), 8)


def test_a_model_that_cannot_be_asked_is_refused(tmp_path: Path, tiny_data: Path, tiny_model: Path) -> None:
    from transformers import GPT2Config, GPT2Model

    with pytest.raises(BadInput, match=r"prepare\.augment\.model \./nowhere is not a folder"):
        run(tmp_path / "one", tiny_data, tiny_model, model="./nowhere")
    GPT2Model(GPT2Config(vocab_size=300, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path / "gpt")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "gpt")
    with pytest.raises(BadInput, match=r"prepare\.augment\.model .*gpt has no masked-LM form"):
        run(tmp_path / "two", tiny_data, tiny_model, model=str(tmp_path / "gpt"))
    assert not list((tmp_path / "two").iterdir()), "before anything is written"
