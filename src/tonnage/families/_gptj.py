"""GPT-J's structure: attention and feed-forward beside each other behind one norm, angles in a table of their own."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ATTRIBUTES: Final = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
"""``attribute_map`` of the configs."""


def paired(k: Keys, *, fused: str | None = None, groups: int = 1, wide_angles: bool = False) -> Model:
    """Model of this structure.

    Args:
        k: the config.
        fused: name of one matrix for queries, keys and values; None when they are three.
        groups: groups in which the heads lie in that matrix.
        wide_angles: queries and keys are turned in the table's fp32, and stay so.
    """
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_position_embeddings", 2048)
    H, turned = k.divides("n_embd", "n_head", D, N), k.size("rotary_dim", 64)
    if turned > H:
        raise ConfigError(f"rotary_dim = {turned} is more than a head of {H}", key="rotary_dim", value=turned)
    if N % groups:
        raise ConfigError(f"n_head = {N}: heads lie in {groups} groups of one size", key="n_head", value=N)
    dropout = k.want("resid_pdrop", 0.0)
    norm = (("D", D),)
    k.skip("n_ctx", "rotary", "scale_attn_weights")
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=N,
        H=H,
        fused=fused,
        fused_order="blocks" if fused else "split",
        o="out_proj",
        rotary=None,
        rotary_width=turned,
        angles=P,
        wide_angles=wide_angles,
        dropout=k.want("attn_pdrop", 0.0),
        o_dropout=dropout,
        eager="fp32-scores",
        buffers=(Tensor("attn.embed_positions", (("P", P), ("X", turned)), "buffer", dtype="fp32"),),
    )
    mlp = Plain(
        name="mlp",
        D=D,
        F=k.optional("n_inner") or 4 * D,
        act=k.want("activation_function", "gelu_new"),
        up="fc_in",
        down="fc_out",
        dropout=dropout,
    )
    layer = Layer(
        sublayers=(Sublayer(block=attention), Sublayer(block=mlp)),
        norm=Norm("ln_1", norm, "layer", bias=True),
        parallel=True,
        carries=True,
    )
    tied = k.want("tie_word_embeddings", False)
    return Model(
        model_type=str(k.config.get("model_type", "")),
        stacks=(
            Stack(
                name="decoder",
                path="transformer.h",
                stem=Stem(name="transformer.wte", position_ids="row", V=V, D=D, dropout=k.want("embd_pdrop", 0.0)),
                layers=(layer,) * L,
                norm=Norm("transformer.ln_f", norm, "layer", bias=True),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, bias=True, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        table=True,
        eager_only=True,
    )
