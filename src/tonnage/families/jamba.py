"""Jamba: Mamba mixers with an attention layer now and then, and experts in every other layer; no positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.recurrent import Mamba1
from tonnage.arch.model import Block, Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys


def _periodic(k: Keys, what: str, period: int, offset: int) -> tuple[int, int]:
    """How often a kind of layer comes, and where first."""
    period = k.size(f"{what}_layer_period", period)
    offset = k.want(f"{what}_layer_offset", offset)
    if not 0 <= offset < period:
        key = f"{what}_layer_offset"
        raise ConfigError(f"{key} = {offset} is not below {what}_layer_period = {period}", key=key, value=offset)
    return period, offset


def read(k: Keys) -> Model:
    """Build the model that ``JambaForCausalLM`` builds."""
    D, V, F = k.need("hidden_size"), k.need("vocab_size"), k.need("intermediate_size")
    N, E, act = k.need("num_attention_heads"), k.size("num_experts", 16), k.want("hidden_act", "silu")
    rank = k.config.get("mamba_dt_rank", "auto")
    mixer = Mamba1(
        name="mamba",
        D=D,
        I=k.size("mamba_expand", 2) * D,
        Z=k.size("mamba_d_state", 16),
        C=k.size("mamba_d_conv", 4),
        R=-(-D // 16) if rank == "auto" and k.want("mamba_dt_rank", "auto") else k.need("mamba_dt_rank"),
        act=act,
        bias=k.want("mamba_proj_bias", False),
        conv_bias=k.want("mamba_conv_bias", True),
        inner_norms=True,
    )
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=k.optional("num_key_value_heads", int, 8) or N,
        H=k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N),
        dropout=k.want("attention_dropout", 0.0),
        rotary=None,
    )
    k.divides("num_attention_heads", "num_key_value_heads", N, attention.K)
    used = k.size("num_experts_per_tok", 2)
    if used > E:
        raise ConfigError(
            f"num_experts_per_tok = {used} exceeds num_experts = {E}", key="num_experts_per_tok", value=used
        )
    dense = Gated(name="feed_forward", D=D, F=F, act=act)
    sparse = Experts(
        name="feed_forward",
        D=D,
        E=E,
        used=used,
        F=F,
        act=act,
        routing="softmax-input",
        normalised=False,
        router="router",
    )
    before, between = Norm("input_layernorm", (("D", D),)), Norm("pre_ff_layernorm", (("D", D),))

    def layer(attends: bool, routes: bool) -> Layer:
        token: Block = attention if attends else mixer
        channel: Block = sparse if routes else dense
        return Layer(
            sublayers=(Sublayer(block=token, before=before), Sublayer(block=channel, before=between)),
            kind=("attention" if attends else "mamba") + (" with experts" if routes else ""),
        )

    kinds = {(attends, routes): layer(attends, routes) for attends in (False, True) for routes in (False, True)}
    every, first = _periodic(k, "attn", 8, 4)
    sparse_every, sparse_first = _periodic(k, "expert", 2, 1)
    tied = k.want("tie_word_embeddings", False)
    k.refuse("sliding_window")
    # Choices of a kernel, and keys of the first releases that transformers does not read.
    k.skip("use_mamba_kernels", "use_mambapy", "use_associative_scan")
    k.skip("mamba_inner_layernorms", "n_ctx", "calc_logits_for_entire_prompt", "num_logits_to_keep")
    return Model(
        model_type="jamba",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                stem=Stem(name="model.embed_tokens", V=V, D=D, position_ids="row"),
                layers=tuple(
                    kinds[i % every == first, E > 1 and i % sparse_every == sparse_first]
                    for i in range(k.need("num_hidden_layers"))
                ),
                norm=Norm("model.final_layernorm", (("D", D),)),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="model.embed_tokens.weight" if tied else None),
        positions=k.want("max_position_embeddings", 262144),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/jamba/modeling_jamba.py",
    attributes={"num_experts": "num_local_experts"},
)
