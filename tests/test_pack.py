"""pack: blocks equal a plain loop over the tokenizer's own answers, in any format, in the same bytes each time."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import reviews, settle
from scipy.stats import binomtest
from transformers import AutoTokenizer

from stages.corpora import tokens
from stages.corpora.blocks import read_blocks
from stages.corpora.corpus import Corpus
from stages.corpora.documents import documents
from stages.corpora.masking import Masking, mask
from stages.pack import FROZEN_MASKS, pack
from stages.settings import BadInput, Base, Pack
from stages.tasks import bundled
from stages.tracking import Run

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [text for text, _ in reviews(300)]
LENGTH = 16


def run(output: Path, source: Path | str, model: Path, *, seed: int = 5, corpus: dict | None = None, **settings):
    output.mkdir()
    return pack(
        name="mine",
        corpus=Corpus(source=str(source), **(corpus or {})),
        base=Base(model=str(model)),
        settings=Pack(**{"block_length": LENGTH} | settings),
        seed=seed,
        output=output,
        run=Run(),
    )


def rows(output: Path, split: str) -> dict[str, np.ndarray]:
    return {name: np.array(values) for name, values in read_blocks(output / "data", split)[:].items()}


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


def expected(texts: list[str], tokenizer: Any, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """Ids and word starts of the blocks, token by token."""
    ids: list[int] = []
    starts: list[bool] = []
    for text in texts:
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        ids += [*encoded["input_ids"], tokenizer.sep_token_id]
        words = encoded.word_ids()
        starts += [i == 0 or words[i] != words[i - 1] for i in range(len(words))] + [True]
    opening, closing = tokenizer("")["input_ids"]
    step = length - 2
    cuts = [slice(at, at + step) for at in range(0, len(ids) - step + 1, step)]
    return np.array([[opening, *ids[c], closing] for c in cuts]), np.array([[True, *starts[c], True] for c in cuts])


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa in name and tokenizer: byte-level pieces, <s> and </s>, a mask."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaTokenizer

    folder = tmp_path_factory.mktemp("tiny_roberta")
    words = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words.train_from_iterator(TEXTS, vocab_size=300, special_tokens=special, show_progress=False)
    words.save_model(str(folder))
    tokenizer = RobertaTokenizer.from_pretrained(folder, model_max_length=64)
    RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=66).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_lines(folder: Path, texts: list[str]) -> Path:
    (folder / "text.txt").write_text("\n\n".join(texts) + "\n", encoding="utf8")
    return folder / "text.txt"


def in_jsonl(folder: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf8")
    return folder / "text.jsonl"


def in_parquet(folder: Path, texts: list[str]) -> Path:
    half = len(texts) // 2
    for shard, part in enumerate((texts[:half], texts[half:])):
        pd.DataFrame({"id": 1, "text": part}).to_parquet(folder / f"train-{shard:05}-of-00002.parquet")
    return folder


@pytest.mark.parametrize("write", [in_lines, in_jsonl, in_parquet])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_blocks_equal_the_tokenizers_own(
    tmp_path: Path, tiny_model: Path, tiny_roberta: Path, family: str, write: Any
) -> None:
    source, held = tmp_path / "source", tmp_path / "held.txt"
    source.mkdir()
    held.write_text("\n".join(TEXTS[200:]))
    model = {"bert": tiny_model, "roberta": tiny_roberta}[family]
    metrics = run(tmp_path / "out", write(source, TEXTS[:200]), model, corpus={"validation": str(held)})
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids, starts = expected(TEXTS[:200], tokenizer)
    train = rows(tmp_path / "out", "train")
    np.testing.assert_array_equal(train["input_ids"], ids)
    np.testing.assert_array_equal(train["starts"], starts)
    assert list(train) == ["input_ids", "starts"]
    assert metrics["train"] == {
        "documents": int((ids[:, 1:-1] == tokenizer.sep_token_id).sum() + (ids[-1, -2] != tokenizer.sep_token_id)),
        "blocks": len(ids),
        "tokens": ids.size,
        "unknown": 0.0,
    }
    assert metrics["vocabulary"] == {"size": len(tokenizer), "used": len(np.unique(ids[:, 1:-1]))}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    saved = json.loads((tmp_path / "out/data/tokenizer/tokenizer.json").read_text())
    assert saved["padding"] is None and saved["truncation"] is None


def test_validation_is_masked_once(tmp_path: Path, tiny_model: Path) -> None:
    held = tmp_path / "held.txt"
    held.write_text("\n".join(TEXTS[200:]))
    source = in_lines(tmp_path, TEXTS[:200])
    metrics = run(tmp_path / "out", source, tiny_model, corpus={"validation": str(held)}, whole_words=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, starts = expected(TEXTS[200:], tokenizer)
    found = rows(tmp_path / "out", "validation")
    np.testing.assert_array_equal(np.where(found["labels"] >= 0, found["labels"], ids), ids)
    np.testing.assert_array_equal(found["starts"], starts)
    rule = Masking.of(tokenizer, Pack(whole_words=True), 5, FROZEN_MASKS)
    inputs, labels = mask(torch.tensor(ids), torch.tensor(starts), torch.arange(len(ids)), 0, rule)
    np.testing.assert_array_equal(found["input_ids"], inputs)
    np.testing.assert_array_equal(found["labels"], labels)
    assert metrics["validation"]["masked"] == (found["labels"] >= 0).sum() > 0
    training = Masking.of(tokenizer, Pack(whole_words=True), 5)
    _, theirs = mask(torch.tensor(ids), torch.tensor(starts), torch.arange(len(ids)), 0, training)
    assert not torch.equal(theirs, labels), "not what training draws"


def test_without_validation_text_documents_are_held_out(tmp_path: Path, tiny_model: Path) -> None:
    texts = list(dict.fromkeys(f"{one} {other}" for one, other in pairwise(TEXTS)))
    metrics = run(tmp_path / "out", in_lines(tmp_path, texts), tiny_model, validation_share=0.2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found = rows(tmp_path / "out", "validation")
    whole = np.where(found["labels"] >= 0, found["labels"], found["input_ids"])
    read = {"train": rows(tmp_path / "out", "train")["input_ids"], "validation": whole}
    parts = {split: tokenizer.decode(ids[:, 1:-1].ravel()).split(" [SEP]") for split, ids in read.items()}
    parts = {split: {text.strip() for text in texts[:-1]} for split, texts in parts.items()}
    assert not parts["train"] & parts["validation"], "no document is in both"
    assert binomtest(metrics["validation"]["documents"], len(texts), 0.2).pvalue > 1e-3
    assert len(parts["train"] | parts["validation"]) >= len(texts) - 4, "and none is lost but the last of each"
    other = run(tmp_path / "other", tmp_path / "text.txt", tiny_model, validation_share=0.2, seed=6)
    assert other["fingerprint"] != metrics["fingerprint"], "the seed draws them"


def test_a_part_of_the_corpus_is_its_beginning(tmp_path: Path, tiny_model: Path) -> None:
    source = in_lines(tmp_path, TEXTS)
    run(tmp_path / "all", source, tiny_model)
    metrics = run(tmp_path / "some", source, tiny_model, tokens=10 * LENGTH + 5)
    assert metrics["train"]["blocks"] == 10 and metrics["train"]["tokens"] == 10 * LENGTH
    train = rows(tmp_path / "some", "train")["input_ids"]
    np.testing.assert_array_equal(train, rows(tmp_path / "all", "train")["input_ids"][:10])
    assert metrics["train"]["documents"] == (train[:, 1:-1] == 3).sum() + (train[-1, -2] != 3)


def test_the_same_bytes_whatever_is_tokenized_together(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = in_lines(tmp_path, TEXTS)
    first = run(tmp_path / "one", source, tiny_model)
    assert run(tmp_path / "again", source, tiny_model) == first
    monkeypatch.setattr(tokens, "DOCUMENTS", 7)
    assert run(tmp_path / "seven", source, tiny_model) == first
    for split in ("train", "validation"):
        for column, values in rows(tmp_path / "one", split).items():
            np.testing.assert_array_equal(values, rows(tmp_path / "seven", split)[column])
    assert hashes(tmp_path / "one") == hashes(tmp_path / "again")
    assert {path.name for path in (tmp_path / "one/data").iterdir()} == {
        "train", "validation", "tokenizer", "corpus.json"
    }  # fmt: skip


def test_the_command_gives_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    """As DVC runs it, in a folder with params.yaml; and its tracked run names the corpus and the model."""
    run(tmp_path / "here", in_lines(tmp_path, TEXTS), tiny_model)
    params = {
        "seed": 5,
        "corpora": ["mine"],
        "data": {"corpora": {"mine": {"source": str(tmp_path / "text.txt")}}},
        "pretrain": {"base": {"model": str(tiny_model)}},
        "pack": {"block_length": LENGTH},
        "tracking": {"system_metrics": False},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    away = ("MLFLOW_", "MAKD_", "DVC_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(away)}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs.db"}
    command = [sys.executable, "-m", "stages.pack", "--corpus"]
    subprocess.run([*command, "mine"], cwd=tmp_path, env=env, check=True)
    assert hashes(tmp_path / "outputs/pack/mine") == hashes(tmp_path / "here")
    (tracked,) = run_of(tmp_path)
    assert tracked.info.run_name == "pack@mine" and tracked.info.status == "FINISHED"
    assert tracked.data.params["corpus"] == "mine" and tracked.data.params["base.model"] == str(tiny_model)
    assert tracked.data.metrics["train/blocks"] == len(rows(tmp_path / "here", "train")["input_ids"])
    refused = subprocess.run([*command, "yours"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "pack: corpora names `yours`; known are bundled, mine; describe your own" in refused.stderr


def run_of(folder: Path) -> list[Any]:
    import mlflow

    settle(folder)
    client = mlflow.MlflowClient(f"sqlite:///{folder}/runs.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "makd")
    return [r for r in client.search_runs([experiment.experiment_id]) if "@" in (r.info.run_name or "")]


def test_documents_are_read_as_they_are_asked_for(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once train has its tokens, the corpus is not read on."""
    read = 0

    def long(corpus: Corpus, name: str) -> dict[str, Iterator[str]]:
        def texts() -> Iterator[str]:
            nonlocal read
            while read < 100_000:  # far more than is needed
                read += 1
                yield TEXTS[read % 300]

        return {"train": texts()}

    monkeypatch.setattr("stages.pack.documents", long)
    metrics = run(tmp_path / "out", "long.txt", tiny_model, tokens=20_000)
    assert metrics["train"]["blocks"] == 20_000 // LENGTH
    assert read <= metrics["train"]["documents"] * 1.1 + tokens.DOCUMENTS


def test_an_unknown_word_is_the_tokenizers(tmp_path: Path, tiny_model: Path, tiny_roberta: Path) -> None:
    for model in (tiny_model, tiny_roberta):
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids, starts = tokens.tokenize(["the <unk> film"], tokenizer, tokenizer.sep_token_id)
        assert (ids == tokenizer.unk_token_id).sum() == 1 and starts[ids == tokenizer.unk_token_id].all()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, _ = tokens.tokenize(["the <unk> film"], tokenizer, tokenizer.sep_token_id)
    assert ids.tolist() == tokenizer("the [UNK] film")["input_ids"][1:]


def test_the_bundled_sentences(tmp_path: Path, tiny_model: Path) -> None:
    metrics = run(tmp_path / "out", "bundled", tiny_model)
    tables = bundled.tables()
    for split in ("train", "validation"):
        assert abs(metrics[split]["documents"] - len(tables[split].lines)) <= 2


def test_the_hub_is_streamed(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(owner: str, config: str | None, *, split: str, streaming: bool) -> datasets.IterableDataset:
        asked.append((owner, config, split, streaming))
        part = TEXTS[:200] if split == "train" else TEXTS[200:]
        return datasets.IterableDataset.from_generator(lambda: ({"body": text} for text in part))

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["test", "train", "validation"])
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    run(tmp_path / "out", "someone/texts:small", tiny_model, corpus={"text": "body"})
    assert asked == [("someone/texts", "small", split, True) for split in ("train", "validation")]
    ids, _ = expected(TEXTS[:200], AutoTokenizer.from_pretrained(tiny_model))
    np.testing.assert_array_equal(rows(tmp_path / "out", "train")["input_ids"], ids)
    with pytest.raises(BadInput, match=r"validation, row 1: no column `text`, but body; set data\.corpora\.mine\.text"):
        run(tmp_path / "wrong", "someone/texts", tiny_model)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_: ["test"])
    with pytest.raises(BadInput, match=r"cannot be loaded from the hub \(its splits are test, and none is train\)"):
        run(tmp_path / "none", "someone/texts", tiny_model)


def test_a_data_set_of_the_hub_may_stand_in_a_folder(tmp_path: Path) -> None:
    """Its tables are in folders of its own; where it has several configurations, one is named."""
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - {{split: train, path: {name}/train-*}}\n" for name in ("one", "two")
    )
    for name, count in (("one", 3), ("two", 5)):
        (tmp_path / name).mkdir()
        pd.DataFrame({"text": TEXTS[:count]}).to_parquet(tmp_path / name / "train-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for source, count in ((f"{tmp_path}:two", 5), (tmp_path / "one", 3)):
        found = documents(Corpus(source=str(source)), "mine")
        assert {split: list(texts) for split, texts in found.items()} == {"train": TEXTS[:count]}
    with pytest.raises(BadInput, match=r"cannot be loaded as a data set \(.*\['one', 'two'\]\); give a file"):
        documents(Corpus(source=str(tmp_path)), "mine")


def test_a_data_set_that_is_not_there(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def missing(*_: Any) -> None:
        raise ConnectionError("no such data set\nand\nmore")

    monkeypatch.setattr(datasets, "get_dataset_split_names", missing)
    with pytest.raises(
        BadInput, match=r"source someone/texts is no file or folder here .*\(no such data set and\); give a"
    ):
        run(tmp_path / "out", "someone/texts", tiny_model)


@pytest.mark.parametrize(
    ("files", "corpus", "sentence"),
    [
        ({}, {"source": "none.txt"}, "data.corpora.mine.source {}/none.txt does not exist; give a file"),
        ({}, {"source": "a/b/c"}, "data.corpora.mine.source {}/a/b/c does not exist; give a file"),
        (
            {"a.xml": "x"},
            {"source": "a.xml"},
            "source {}/a.xml is no text that can be read; give a file that ends in ",
        ),
        ({"a.xml": "x"}, {"source": "."}, "is no text that can be read; give a file that ends in .txt, .tokens"),
        ({"dev.txt": "x", "test.txt": "x"}, {"source": "."}, "has text for validation and test only"),
        ({"a.txt": "x"}, {"source": "a.txt", "validation": "v.txt"}, "mine.validation {}/v.txt does not exist; give"),
        ({"a.txt": " \n\n"}, {"source": "a.txt"}, "corpus mine: its train text of 0 tokens fills no block of 16"),
        ({"a.txt": "the film"}, {"source": "a.txt"}, "tokens fills no block of 16; give it more text, or set pack."),
        ({"a.txt": b"good\n\xff\n"}, {"source": "a.txt"}, "a.txt, line 2: byte 0xff at place 1 of the line is not UTF"),
        (
            {"a.jsonl": '{"body": "x", "id": 1}'},
            {"source": "a.jsonl"},
            "a.jsonl, line 1: no column `text`, but body, id",
        ),
        ({"a.jsonl": '{"text": "x"}\n{"text": 3}'}, {"source": "a.jsonl"}, "line 2: text is 3 where a text is wanted"),
        ({"a.jsonl": '{"text": "x"}\n{'}, {"source": "a.jsonl"}, "a.jsonl, line 2: not JSON (Expecting"),
        ({"a.jsonl": "[1]"}, {"source": "a.jsonl"}, "a.jsonl, line 1: [1] is not an object of columns and values"),
        ({"a.parquet": "no"}, {"source": "a.parquet"}, "a.parquet cannot be read as Parquet ("),
    ],
)
def test_what_cannot_be_packed_is_refused(
    tmp_path: Path, tiny_model: Path, files: dict[str, str | bytes], corpus: dict[str, str], sentence: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    places = {key: str(tmp_path / value) for key, value in corpus.items()}
    with pytest.raises(BadInput) as refusal:
        run(tmp_path / "out", places.pop("source"), tiny_model, corpus=places)
    assert sentence.format(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_column_that_parquet_lacks(tmp_path: Path, tiny_model: Path) -> None:
    pd.DataFrame({"body": ["x"], "id": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=r"row 1: no column `text`, but body, id; set data\.corpora\.mine\.text"):
        run(tmp_path / "out", tmp_path / "a.parquet", tiny_model)


def test_too_little_is_held_out(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(
        BadInput, match=r"its validation text of 0 tokens fills no block.*pack\.validation_share higher"
    ):
        run(tmp_path / "out", in_lines(tmp_path, [" ".join(TEXTS)]), tiny_model)


def test_a_model_that_cannot_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(BadInput, match=r"pack\.block_length 65 is more than .* can read; set it to 64 or less"):
        run(tmp_path / "long", in_lines(tmp_path, TEXTS), tiny_model, block_length=65)
    decoder = tmp_path / "decoder"
    decoder.mkdir()
    for path in tiny_model.iterdir():
        content = (
            path.read_text().replace('"mask_token": "[MASK]"', '"mask_token": null') if path.suffix == ".json" else ""
        )
        (decoder / path.name).write_text(content)
    with pytest.raises(BadInput, match=r"pretrain\.base\.model .* has no mask token; give an encoder such as BERT"):
        run(tmp_path / "out", tmp_path / "text.txt", decoder)
    with pytest.raises(BadInput, match=r"pretrain\.base\.model .*nowhere is not a folder"):
        run(tmp_path / "none", tmp_path / "text.txt", tmp_path / "nowhere")


def test_nothing_packed_nothing_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"train does not exist; run `python -m stages\.pack` first"):
        read_blocks(tmp_path, "train")


@pytest.mark.real
def test_wikitext(tmp_path: Path, real_data: Path) -> None:
    """600 and 60 articles, as its authors count; a block is what the tokenizer says of an article."""
    source = real_data / "text" / "wikitext-2"
    output = tmp_path / "out"
    metrics = run(output, source, Path("minilm"), corpus={"documents": "articles"}, block_length=128)
    assert (metrics["train"]["documents"], metrics["validation"]["documents"]) == (600, 60)
    assert metrics["train"]["tokens"] > 2_000_000
    tokenizer = AutoTokenizer.from_pretrained(output / "data/tokenizer")
    lines = (source / "wiki.train.tokens").read_text().splitlines()[1:20]
    ids = tokenizer(" ".join(lines).replace("<unk>", "[UNK]"), verbose=False)["input_ids"]
    assert read_blocks(output / "data", "train")[0]["input_ids"] == [*ids[:127], tokenizer.sep_token_id]
    share = metrics["validation"]["masked"] / (metrics["validation"]["tokens"] * (1 - metrics["validation"]["unknown"]))
    assert 0.145 < share < 0.15, "15 %, less at the edges"
