"""The code that a model card shows: whole, and free of this project."""

from typing import Any

Facts = dict[str, Any]


def usage(facts: Facts) -> str:
    """Python that runs in the folder, with numpy, onnxruntime and tokenizers."""
    return _GENERATE if facts.get("kind") == "causal_lm" else _classify(facts)


def _classify(facts: Facts) -> str:
    fields = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    feed = ", ".join(f'"{name}": np.array([e.{fields[name]} for e in encoded])' for name in facts["inputs"])
    text = '[("a text", "another text")]' if facts["pair"] else '["a text", "another text"]'
    return f"""import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

encoded = Tokenizer.from_file("tokenizer.json").encode_batch({text})
inputs = {{{feed}}}
logits = InferenceSession("onnx/model.onnx").run(["logits"], inputs)[0]
print(logits)  # {", ".join(facts["task"]["labels"]) or "the value"}"""


_GENERATE = """import numpy as np
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

session, tokenizer = InferenceSession("onnx/model.onnx"), Tokenizer.from_file("tokenizer.json")
caches = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past_key_values")}
past = {name: np.zeros((1, heads, 0, width), np.float32) for name, (_, heads, _, width) in caches.items()}
ids = new = tokenizer.encode("Once upon a time").ids
for _ in range(40):  # the likeliest next token each time; generation_config.json names those that end a text
    inputs = {
        "input_ids": np.array([new]),
        "attention_mask": np.ones((1, len(ids)), np.int64),
        "position_ids": np.arange(len(ids) - len(new), len(ids))[None],
    }
    logits, *present = session.run(None, inputs | past)
    past, new = dict(zip(caches, present)), [int(logits[0, -1].argmax())]
    ids = ids + new
print(tokenizer.decode(ids))"""
