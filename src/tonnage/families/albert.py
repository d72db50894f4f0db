"""ALBERT: BERT with a narrow embedding, and groups of layers that are run several times (arXiv:1909.11942)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, stem
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``AlbertForMaskedLM`` builds: a stack of groups, each of which stands for many layers."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    E, V, F = k.size("embedding_size", 128), k.need("vocab_size"), k.need("intermediate_size")
    k.need("num_hidden_layers")
    k.skip("classifier_dropout_prob", "down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks")
    k.refuse("position_embedding_type", "absolute")
    act, tied = k.want("hidden_act", "gelu_new"), k.want("tie_word_embeddings", True)
    subs: list[Sublayer] = []
    for index in range(k.size("inner_group_num", 1)):
        path = f"albert_layers.{index}"
        attends = attention(k, D, N, name=f"{path}.attention", q="query", k="key", v="value", o="dense")
        mlp = (
            matrix(f"{path}.ffn", ("D", D), ("F", F), "feed_forward"),
            matrix(f"{path}.ffn_output", ("F", F), ("D", D), "feed_forward"),
        )
        block = counted("ALBERT's shared layers", attends)
        subs.append(Sublayer(block=block, of_sum=layer_norm(f"{path}.attention.LayerNorm", D)))
        norm = layer_norm(f"{path}.full_layer_layer_norm", D)
        subs.append(Sublayer(block=counted("ALBERT's shared layers", *mlp), of_sum=norm))
    layer = Layer(sublayers=tuple(subs), kind="group of layers")
    head = Head(
        name="predictions.decoder",
        D=E,
        V=V,
        bias=True,
        alias_of="albert.embeddings.word_embeddings.weight" if tied else None,
        bias_alias_of="predictions.bias" if tied else None,
        dense=matrix("predictions.dense", ("D", D), ("D", E), "head"),
        act=act,
        norm=layer_norm("predictions.LayerNorm", E),
        extra=(Tensor("predictions.bias", (("V", V),), "head"),),
    )
    return encoder(
        k,
        "albert",
        stem(k, "albert", D, P=P, width=E, widen="albert.encoder.embedding_hidden_mapping_in"),
        (layer,) * k.size("num_hidden_groups", 1),
        head,
        positions=P,
        path="encoder.albert_layer_groups",
        pooler=tuple(matrix("albert.pooler", ("D", D), ("D", D), "pooler").weights()),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/albert/modeling_albert.py",
)
