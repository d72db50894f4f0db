"""SqueezeBERT: BERT with grouped convolutions in the place of most matrices (arXiv:2006.11316)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import encoder, pooler, predictions, stem
from tonnage.families._pieces import counted, layer_norm
from tonnage.keys import Keys
from tonnage.tensors import Axis, Role, Tensor


def read(k: Keys) -> Model:
    """Build the model that ``SqueezeBertForMaskedLM`` builds, its pooler included."""
    base = "transformer"
    D, F, P = k.need("hidden_size"), k.need("intermediate_size"), k.size("max_position_embeddings", 512)
    E = k.size("embedding_size", 768)
    if E != D:
        raise ConfigError(f"embedding_size = {E} is not hidden_size = {D}", key="embedding_size", value=E, file=k.file)
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("attention_probs_dropout_prob")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    d, f = ("D", D), ("F", F)
    attends = [
        *_grouped(k, "attention.query", "q_groups", 4, d, d, "attention"),
        *_grouped(k, "attention.key", "k_groups", 4, d, d, "attention"),
        *_grouped(k, "attention.value", "v_groups", 4, d, d, "attention"),
        *_grouped(k, "post_attention.conv1d", "post_attention_groups", 1, d, d, "attention"),
    ]
    mlp = [
        *_grouped(k, "intermediate.conv1d", "intermediate_groups", 4, d, f, "feed_forward"),
        *_grouped(k, "output.conv1d", "output_groups", 4, f, d, "feed_forward"),
    ]
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("SqueezeBERT", *attends), of_sum=layer_norm("post_attention.layernorm", D)),
            Sublayer(block=counted("SqueezeBERT", *mlp), of_sum=layer_norm("output.layernorm", D)),
        )
    )
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, type_ids=False),
        (layer,) * k.need("num_hidden_layers"),
        predictions(base, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        path="encoder.layers",
        extra=pooler(base, D),
    )


def _grouped(k: Keys, name: str, key: str, default: int, ins: Axis, outs: Axis, role: Role) -> tuple[Tensor, ...]:
    """A convolution over one token, of which a group of channels sees its own inputs only."""
    groups = k.size(key, default)
    k.divides("the channels of a convolution", key, outs[1], groups)
    within = k.divides("the channels of a convolution", key, ins[1], groups)
    return (
        Tensor(f"{name}.weight", (outs, ("X", within), ("C", 1)), role),
        Tensor(f"{name}.bias", (outs,), role),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/squeezebert/"
    "modeling_squeezebert.py",
)
