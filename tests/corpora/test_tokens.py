"""The token ids of documents, beside the tokenizer's own."""

from pathlib import Path

from transformers import AutoTokenizer

from stages.corpora.tokens import tokenize_texts
from tests.makers.checkpoints import save_roberta


def test_an_unknown_word_is_the_tokenizers(tmp_path: Path, tiny_model: Path) -> None:
    for model in (tiny_model, save_roberta(tmp_path)):
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids, starts = tokenize_texts(["the <unk> film"], tokenizer, tokenizer.sep_token_id)
        assert (ids == tokenizer.unk_token_id).sum() == 1 and starts[ids == tokenizer.unk_token_id].all()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids, _ = tokenize_texts(["the <unk> film"], tokenizer, tokenizer.sep_token_id)
    assert ids.tolist() == tokenizer("the [UNK] film")["input_ids"][1:]
