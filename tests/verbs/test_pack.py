"""pack: blocks equal a plain loop over the tokenizer's own answers, in any format, in the same bytes each time."""

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from transformers import AutoTokenizer

from stages.corpora import tokens
from stages.corpora.blocks import read_blocks
from stages.corpora.masking import Masking, mask_tokens
from stages.kinds.masked_lm import FROZEN_MASKS
from stages.schema.corpus import Corpus
from stages.settings import Pack
from stages.tasks.bundled import read_bundled
from tests.makers.checkpoints import save_roberta
from tests.makers.packs import LENGTH, TEXTS, cut_into_blocks, read_columns, run_pack, write_lines
from tests.makers.runs import hash_files


def write_jsonl(folder: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    (folder / "text.jsonl").write_text("\n".join(lines), encoding="utf8")
    return folder / "text.jsonl"


def write_parquet(folder: Path, texts: list[str]) -> Path:
    half = len(texts) // 2
    for shard, part in enumerate((texts[:half], texts[half:])):
        pd.DataFrame({"id": 1, "text": part}).to_parquet(folder / f"train-{shard:05}-of-00002.parquet")
    return folder


@pytest.mark.parametrize("write", [write_lines, write_jsonl, write_parquet])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_blocks_equal_the_tokenizers_own(
    tmp_path: Path, tiny_model: Path, family: str, write: Callable[[Path, list[str]], Path]
) -> None:
    source, validation = tmp_path / "source", tmp_path / "validation.txt"
    source.mkdir()
    validation.write_text("\n".join(TEXTS[200:]))
    model = tiny_model if family == "bert" else save_roberta(tmp_path)
    metrics = run_pack(tmp_path / "out", write(source, TEXTS[:200]), model, corpus={"validation": str(validation)})
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids, starts = cut_into_blocks(TEXTS[:200], tokenizer)
    train = read_columns(tmp_path / "out", "train")
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
    validation = tmp_path / "validation.txt"
    validation.write_text("\n".join(TEXTS[200:]))
    source = write_lines(tmp_path, TEXTS[:200])
    corpus = {"validation": str(validation)}
    metrics = run_pack(tmp_path / "out", source, tiny_model, corpus=corpus, whole_word_masking=True)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, starts = cut_into_blocks(TEXTS[200:], tokenizer)
    columns = read_columns(tmp_path / "out", "validation")
    np.testing.assert_array_equal(np.where(columns["labels"] >= 0, columns["labels"], ids), ids)
    np.testing.assert_array_equal(columns["starts"], starts)
    blocks = torch.tensor(ids), torch.tensor(starts), torch.arange(len(ids))
    frozen = Masking.from_settings(tokenizer, Pack(whole_word_masking=True), 5, FROZEN_MASKS)
    inputs, labels = mask_tokens(*blocks, 0, frozen)
    np.testing.assert_array_equal(columns["input_ids"], inputs)
    np.testing.assert_array_equal(columns["labels"], labels)
    assert metrics["validation"]["masked"] == (columns["labels"] >= 0).sum() > 0
    training = Masking.from_settings(tokenizer, Pack(whole_word_masking=True), 5)
    assert not torch.equal(mask_tokens(*blocks, 0, training)[1], labels), "not what training draws"


def test_without_validation_text_documents_are_held_out(tmp_path: Path, tiny_model: Path) -> None:
    texts = list(dict.fromkeys(f"{first} {second}" for first, second in pairwise(TEXTS)))
    metrics = run_pack(tmp_path / "out", write_lines(tmp_path, texts), tiny_model, validation_share=0.2)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    masked = read_columns(tmp_path / "out", "validation")
    whole = np.where(masked["labels"] >= 0, masked["labels"], masked["input_ids"])
    read = {"train": read_columns(tmp_path / "out", "train")["input_ids"], "validation": whole}
    parts = {split: tokenizer.decode(ids[:, 1:-1].ravel()).split(" [SEP]") for split, ids in read.items()}
    parts = {split: {text.strip() for text in texts[:-1]} for split, texts in parts.items()}
    assert not parts["train"] & parts["validation"], "no document is in both"
    assert binomtest(metrics["validation"]["documents"], len(texts), 0.2).pvalue > 1e-3
    assert len(parts["train"] | parts["validation"]) >= len(texts) - 4, "and none is lost but the last of each"
    other = run_pack(tmp_path / "other", tmp_path / "text.txt", tiny_model, validation_share=0.2, seed=6)
    assert other["fingerprint"] != metrics["fingerprint"], "the seed draws them"


def test_a_part_of_the_corpus_is_its_beginning(tmp_path: Path, tiny_model: Path) -> None:
    source = write_lines(tmp_path, TEXTS)
    run_pack(tmp_path / "all", source, tiny_model)
    metrics = run_pack(tmp_path / "some", source, tiny_model, max_tokens=10 * LENGTH + 5)
    assert metrics["train"]["blocks"] == 10 and metrics["train"]["tokens"] == 10 * LENGTH
    train = read_columns(tmp_path / "some", "train")["input_ids"]
    np.testing.assert_array_equal(train, read_columns(tmp_path / "all", "train")["input_ids"][:10])
    assert metrics["train"]["documents"] == (train[:, 1:-1] == 3).sum() + (train[-1, -2] != 3)


def test_the_same_bytes_whatever_is_tokenized_together(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path, TEXTS)
    first = run_pack(tmp_path / "one", source, tiny_model)
    assert run_pack(tmp_path / "again", source, tiny_model) == first
    monkeypatch.setattr(tokens, "DOCUMENTS", 7)
    assert run_pack(tmp_path / "seven", source, tiny_model) == first
    for split in ("train", "validation"):
        for column, values in read_columns(tmp_path / "one", split).items():
            np.testing.assert_array_equal(values, read_columns(tmp_path / "seven", split)[column])
    assert hash_files(tmp_path / "one") == hash_files(tmp_path / "again")
    assert {path.name for path in (tmp_path / "one/data").iterdir()} == {
        "train", "validation", "tokenizer", "corpus.json"
    }  # fmt: skip


def test_documents_are_read_as_they_are_needed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once train has its tokens, the corpus is not read on."""
    read = 0

    def read_long_corpus(corpus: Corpus, row: str) -> dict[str, Iterator[str]]:
        def iterate_texts() -> Iterator[str]:
            nonlocal read
            while read < 100_000:  # far more than is needed
                read += 1
                yield TEXTS[read % 300]

        return {"train": iterate_texts()}

    monkeypatch.setattr("stages.corpora.documents.read_documents", read_long_corpus)
    metrics = run_pack(tmp_path / "out", "long.txt", tiny_model, max_tokens=20_000)
    assert metrics["train"]["blocks"] == 20_000 // LENGTH
    assert read <= metrics["train"]["documents"] * 1.1 + tokens.DOCUMENTS


def test_the_bundled_sentences(tmp_path: Path, tiny_model: Path) -> None:
    metrics = run_pack(tmp_path / "out", "bundled", tiny_model)
    tables = read_bundled()
    for split in ("train", "validation"):
        assert abs(metrics[split]["documents"] - len(tables[split].lines)) <= 2


@pytest.mark.real
def test_wikitext(tmp_path: Path, real_data: Path) -> None:
    """600 and 60 articles, as its authors count; a block is what the tokenizer makes of an article."""
    source = real_data / "text" / "wikitext-2"
    output = tmp_path / "out"
    metrics = run_pack(output, source, Path("minilm"), corpus={"documents": "articles"}, block_length=128)
    assert (metrics["train"]["documents"], metrics["validation"]["documents"]) == (600, 60)
    assert metrics["train"]["tokens"] > 2_000_000
    tokenizer = AutoTokenizer.from_pretrained(output / "data/tokenizer")
    lines = (source / "wiki.train.tokens").read_text().splitlines()[1:20]
    ids = tokenizer(" ".join(lines).replace("<unk>", "[UNK]"), verbose=False)["input_ids"]
    assert read_blocks(output / "data", "train")[0]["input_ids"] == [*ids[:127], tokenizer.sep_token_id]
    share = metrics["validation"]["masked"] / (metrics["validation"]["tokens"] * (1 - metrics["validation"]["unknown"]))
    assert 0.145 < share < 0.15, "15 %, less at the edges"
