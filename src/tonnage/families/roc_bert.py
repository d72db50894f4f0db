"""RoCBert: BERT that also embeds a character's pronunciation and shape (https://aclanthology.org/2022.acl-long.65)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, feed_forward, only_encoder, pooler, predictions, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``RoCBertForMaskedLM`` builds. ``RoCBertForCausalLM`` holds the same tensors."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.refuse("position_embedding_type", "absolute")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    layer = Layer(
        sublayers=(
            Sublayer(
                block=counted("RoCBert's embedding", attention(k, D, N)),
                of_sum=layer_norm("attention.output.LayerNorm", D),
            ),
            Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D)),
        )
    )
    return encoder(
        k,
        "roc_bert",
        stem(k, "roc_bert", D, P=P),
        (layer,) * k.need("num_hidden_layers"),
        predictions("roc_bert", D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        pooler=pooler("roc_bert", D),
        extra=_tables(k, D),
    )


def _tables(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Tables of pronunciations and shapes, which are built whether or not they are used, and the matrix behind them."""
    path, wide = "roc_bert.embeddings", D
    tables: tuple[Tensor, ...] = ()
    for name, key, rows, width in (
        ("pronunciation_embed", "pronunciation", 910, 768),
        ("shape_embed", "shape", 24858, 512),
    ):
        width = k.size(f"{key}_embed_dim", width)
        axes = (("V", k.size(f"{key}_vocab_size", rows)), ("D", width))
        tables += (Tensor(f"{path}.{name}.weight", axes, "embedding"),)
        wide += width if k.want(f"enable_{key}", True) else 0
    if not k.want("concat_input", True):
        return tables
    return (*tables, *matrix(f"{path}.map_inputs_layer", ("X", wide), ("D", D), "embedding").weights())


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/roc_bert/"
    "modeling_roc_bert.py",
)
