"""MPT: a bias of distance in place of positions, packed projections, no biases."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Alibi, Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MptForCausalLM`` builds.

    It reads far less than the config says: the feed-forward is four times as wide whatever ``expansion_ratio`` says,
    there are no biases, no learned positions and one key/value head for every query head.
    """
    D, N = k.need("hidden_size"), k.need("num_attention_heads")
    V, L, P = k.need("vocab_size"), k.need("num_hidden_layers"), k.size("max_seq_len", 2048)
    k.skip("expansion_ratio", "resid_pdrop", "emb_pdrop", "learned_pos_emb", "init_device", "logit_scale", "no_bias")
    k.skip("embedding_fraction", "norm_type", "verbose", "init_config", "fc_type", "ffn_config", "tokenizer_name")
    dropout, clip = 0.0, None
    inner = k.inner("attn_config")
    if inner is not None:
        dropout = inner.want("attn_pdrop", 0.0)
        clip = inner.optional("clip_qkv", float)
        inner.refuse("qk_ln")
        inner.refuse("rope")
        inner.skip("attn_type", "attn_impl", "softmax_scale", "prefix_lm", "attn_uses_sequence_id", "alibi")
        inner.skip("alibi_bias_max")
        inner.done()
    norm = (("D", D),)
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=N,
        H=k.divides("d_model", "n_heads", D, N),
        fused="Wqkv",
        o="out_proj",
        rotary=None,
        position_bias="alibi",
        dropout=dropout,
        clip=bool(clip),
        eager="mpt",
    )
    mlp = Plain(name="ffn", D=D, F=4 * D, act="gelu", up="up_proj", down="down_proj", bias=False, holds=True)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("norm_1", norm, "layer"), dropout=dropout, holds=True),
            Sublayer(block=mlp, before=Norm("norm_2", norm, "layer"), dropout=dropout, holds=True, holds_input=True),
        ),
        carries=True,
    )
    tied = k.want("tie_word_embeddings", True)
    return Model(
        model_type="mpt",
        stacks=(
            Stack(
                name="decoder",
                path="transformer.blocks",
                stem=Stem(name="transformer.wte", V=V, D=D, alibi=Alibi(N, "mpt", P)),
                layers=(layer,) * L,
                norm=Norm("transformer.norm_f", norm, "layer"),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.wte.weight" if tied else None),
        positions=P,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mpt/modeling_mpt.py",
    attributes={"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
)
