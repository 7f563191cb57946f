"""Plain text of a causal task: packed in blocks as a slow loop packs it, from files of any format."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from stages.errors import BadInput
from stages.schema.task import CausalLMTask
from stages.tasks.splits import read_split
from tests.makers.runs import prepare_task
from tests.makers.texts import make_story

STORIES = CausalLMTask(kind="causal_lm")


def test_text_is_packed_as_a_slow_loop_packs_it(tmp_path: Path, tiny_decoder: Path, tiny_text: Path) -> None:
    data, metrics = prepare_task(tiny_decoder, tiny_text, tmp_path / "p", "stories", STORIES)
    tokenizer, stream = AutoTokenizer.from_pretrained(tiny_decoder), []
    for number in range(15, 60):
        stream += [*tokenizer(make_story(number), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    blocks = [stream[start : start + 32] for start in range(0, len(stream) - 31, 32)]
    rows = read_split(data, "train")
    assert rows["input_ids"][:] == blocks and rows["labels"][:] == blocks and set(rows["length"]) == {32}
    assert metrics["train"]["documents"] == 45 and metrics["train"]["examples"] == len(blocks)
    few, _ = prepare_task(tiny_decoder, tiny_text, tmp_path / "few", "stories", STORIES, train_examples=3)
    assert read_split(few, "train")["input_ids"][:] == blocks[:3]
    _, again = prepare_task(tiny_decoder, tiny_text, tmp_path / "again", "stories", STORIES)
    assert again == metrics


def test_another_token_may_end_documents(tmp_path: Path, tiny_decoder: Path, tiny_text: Path) -> None:
    task = STORIES.model_copy(update={"end": "<s>"})
    data, _ = prepare_task(tiny_decoder, tiny_text, tmp_path / "p", "stories", task)
    ids = np.concatenate(read_split(data, "train")["input_ids"])
    assert (ids == 0).sum() > 30 and not (ids == 1).any()
    task = STORIES.model_copy(update={"end": "<x>"})
    with pytest.raises(BadInput, match=r"data\.custom\.stories\.end <x> is no token of base\.model; take </s>"):
        prepare_task(tiny_decoder, tiny_text, tmp_path / "q", "stories", task)


@pytest.mark.parametrize("suffix", ["csv", "txt", "parquet"])
def test_text_comes_in_any_format(tmp_path: Path, tiny_decoder: Path, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    texts, path = [make_story(n) for n in range(60)], tmp_path / f"in/train.{suffix}"
    table = pd.DataFrame({"text": texts})
    if suffix == "csv":
        table.to_csv(path)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        path.write_text("\n".join(texts))
    _, metrics = prepare_task(tiny_decoder, tmp_path / "in", tmp_path / "out", "stories", STORIES, validation_share=0.3)
    assert metrics["train"]["documents"] + metrics["validation"]["documents"] == 60
