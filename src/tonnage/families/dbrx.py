"""DBRX: packed projections that are clamped, layer norms without shift, experts in matrices of all of them."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._pieces import counted
from tonnage.keys import Keys
from tonnage.tensors import Tensor

INNER: Final = "norm_attn_norm"


def read(k: Keys) -> Model:
    """Build the model that ``DbrxForCausalLM`` builds."""
    D, N, L = k.need("d_model"), k.need("n_heads"), k.need("n_layers")
    V, H = k.need("vocab_size"), k.divides("d_model", "n_heads", D, N)
    k.refuse("tie_word_embeddings")
    k.skip("num_key_value_heads")
    attention = filled(k, "attn_config", {}, lambda inner: _attention(inner, k, D, N, H))
    experts = filled(k, "ffn_config", {}, lambda inner: _experts(inner, D))
    norm, dropout = (("D", D),), k.want("resid_pdrop", 0.0)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm(f"{INNER}.norm_1", norm, "layer"), dropout=dropout),
            Sublayer(block=experts, before=Norm(f"{INNER}.norm_2", norm, "layer"), dropout=dropout),
        )
    )
    stem = Stem(
        name="transformer.wte",
        V=V,
        D=D,
        rotary=(Rotary("transformer.rotary_emb", H),),
        dropout=k.want("emb_pdrop", 0.0),
    )
    last = Norm("transformer.norm_f", norm, "layer")
    return Model(
        model_type="dbrx",
        stacks=(Stack(name="decoder", path="transformer.blocks", stem=stem, layers=(layer,) * L, norm=last),),
        head=Head(name="lm_head", D=D, V=V),
        positions=k.size("max_seq_len", 2048),
    )


def _attention(k: Keys, outer: Keys, D: int, N: int, H: int) -> GroupedQuery:
    K = k.size("kv_n_heads", 1)
    outer.divides("n_heads", "kv_n_heads", N, K)
    return GroupedQuery(
        name=f"{INNER}.attn",
        D=D,
        N=N,
        K=K,
        H=H,
        fused="Wqkv",
        o="out_proj",
        dropout=k.want("attn_pdrop", 0.0),
        clip=k.optional("clip_qkv", float) is not None,
    )


def _experts(k: Keys, D: int) -> Untraced:
    """A router and three matrices, each of all experts one below the other."""
    E, F, used = k.size("moe_num_experts", 4), k.size("ffn_hidden_size", 3584), k.size("moe_top_k", 1)
    k.skip("hidden_size", "ffn_act_fn", "moe_jitter_eps", "moe_loss_weight", "moe_normalize_expert_weights")
    if used > E:
        raise ConfigError(f"ffn_config.moe_top_k = {used} of {E} experts", key="ffn_config.moe_top_k", value=used)
    axes = (("E", E), ("F", F), ("D", D))
    matrices = tuple(Tensor(f"ffn.experts.mlp.{name}", axes, "expert", (2, 1)) for name in ("w1", "v1", "w2"))
    router = Linear("ffn.router.layer", (("D", D),), (("Er", E),), "router")
    what = "the experts of DBRX"
    return Untraced(block=counted(what, router, *matrices), what=what, idle=3 * (E - used) * F * D)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/dbrx/modeling_dbrx.py",
    attributes={
        "n_heads": "num_attention_heads",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings",
    },
)
