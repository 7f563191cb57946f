"""Where each family keeps its parts: the one place that knows module names.

To add a family: a row in `FAMILIES` under its `config.model_type`, paths as `print(model)` shows them.
"""

from dataclasses import dataclass, field
from typing import Literal

Group = Literal["residual", "embedding", "head", "qk", "vo", "ffn"]
"""Dimensions that can only be cut together: the residual stream's; the embedding's, where that has a width of its own
as in ELECTRA (elsewhere it is the residual stream); the inner ones of the task's head; and in a layer those that
queries and keys share, those that values and the output matrix share, and the neurons of the feed-forward."""
Groups = tuple[Group | None, ...]
"""The group of each dimension of a weight; None: one that is never cut (words, labels). A bias has the first only."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Paths of one family's parts; those in a layer start at the layer."""

    layers: str
    """The list of Transformer layers, from the backbone (`model.base_model`) on."""
    word_embedding: str
    """From the backbone on."""
    q: str
    k: str
    v: str
    out: str
    """Attention's output matrix."""
    up: str
    down: str
    gate: str | None = None
    """Of gated feed-forwards, down(act(gate x) · up x): the matrix before the activation."""
    attention: str | None = None
    """Of decoders: the module with the scale and sliding window of a layer's attention, and the norms of queries and
    keys where there are some. None: an encoder, whose tokens attend both ways."""
    rotary: str | None = None
    """The module that computes the rotary position embedding, from the backbone on."""
    scores: Literal["dot", "maps"] = "dot"
    """`dot`: attention scores are QKᵀ/√d, so they can be rebuilt beside fused attention. `maps`: they hold more than
    that (relative positions), so the model's own attention maps are used."""
    norms: tuple[str, ...] = ()
    """The layer norms of a layer, all over the residual stream. Only a family that can be narrowed needs this and the
    next two."""
    outer_weights: dict[str, Groups] = field(default_factory=dict)
    """Weights outside the layers, in all of the family's model classes: path from the backbone on, or from the whole
    model on -> the groups of its dimensions."""
    neurons: str = "intermediate_size"
    """The config's name for the number of neurons in a feed-forward."""

    @property
    def causal(self) -> bool:
        """Tokens attend to earlier ones only."""
        return self.attention is not None

    @property
    def matrices(self) -> dict[str, str]:
        """Name -> path of the matrices of a layer: six, or seven where the feed-forward is gated."""
        names = ("q", "k", "v", "out", "gate", "up", "down")
        return {name: path for name in names if (path := getattr(self, name)) is not None}

    @property
    def layer_weights(self) -> dict[str, Groups]:
        """Path in a layer -> the groups of its weight's dimensions, for all weights of a layer."""
        groups: dict[str, Groups] = {
            "q": ("qk", "residual"),
            "k": ("qk", "residual"),
            "v": ("vo", "residual"),
            "out": ("residual", "vo"),
            "up": ("ffn", "residual"),
            "down": ("residual", "ffn"),
        }
        norms: dict[str, Groups] = dict.fromkeys(self.norms, ("residual",))
        return {path: groups[name] for name, path in self.matrices.items()} | norms


_EMBEDDINGS: dict[str, Groups] = {
    "embeddings.word_embeddings": (None, "embedding"),
    "embeddings.position_embeddings": (None, "embedding"),
    "embeddings.token_type_embeddings": (None, "embedding"),
    "embeddings.LayerNorm": ("embedding",),
    "embeddings_project": ("residual", "embedding"),  # ELECTRA
}
_CLASSIFIERS: dict[str, Groups] = {
    "pooler.dense": ("head", "residual"),  # BERT
    "pre_classifier": ("head", "residual"),  # DistilBERT
    "classifier": (None, "head"),  # both
    "classifier.dense": ("head", "residual"),  # RoBERTa, ELECTRA
    "classifier.out_proj": (None, "head"),
}
_MASKED_LM: dict[str, Groups] = {
    "cls.predictions": (None,),  # BERT; the decoders are the word embedding, so what feeds them is the residual stream
    "cls.predictions.transform.dense": ("residual", "residual"),
    "cls.predictions.transform.LayerNorm": ("residual",),
    "cls.predictions.decoder": (None, "residual"),
    "lm_head": (None,),  # RoBERTa
    "lm_head.dense": ("residual", "residual"),
    "lm_head.layer_norm": ("residual",),
    "lm_head.decoder": (None, "residual"),
    "generator_predictions.dense": ("embedding", "residual"),  # ELECTRA
    "generator_predictions.LayerNorm": ("embedding",),
    "generator_lm_head": (None, "embedding"),
    "vocab_transform": ("residual", "residual"),  # DistilBERT
    "vocab_layer_norm": ("residual",),
    "vocab_projector": (None, "residual"),
}
_BERT = Anatomy(
    layers="encoder.layer",
    word_embedding="embeddings.word_embeddings",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    outer_weights=_EMBEDDINGS | _CLASSIFIERS | _MASKED_LM,
)
_DEBERTA = Anatomy(
    layers="encoder.layer",
    word_embedding="embeddings.word_embeddings",
    q="attention.self.query_proj",
    k="attention.self.key_proj",
    v="attention.self.value_proj",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    scores="maps",
)
_DISTILBERT = Anatomy(
    layers="transformer.layer",
    word_embedding="embeddings.word_embeddings",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    out="attention.out_lin",
    up="ffn.lin1",
    down="ffn.lin2",
    norms=("sa_layer_norm", "output_layer_norm"),
    outer_weights=_EMBEDDINGS | _CLASSIFIERS | _MASKED_LM,
    neurons="hidden_dim",
)
_GPT2 = Anatomy(
    layers="h",
    word_embedding="wte",
    q="attn.c_attn.q",  # in a dense model thirds of c_attn, see conv1d_views.py
    k="attn.c_attn.k",
    v="attn.c_attn.v",
    out="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    attention="attn",
)
_LLAMA = Anatomy(
    layers="layers",
    word_embedding="embed_tokens",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    out="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    attention="self_attn",
    rotary="rotary_emb",
)

FAMILIES: dict[str, Anatomy] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
    "deberta-v2": _DEBERTA,
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
