"""LongCat Flash: two latent attentions and two feed-forwards a layer, experts beside them, some of them empty."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Parts
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, latent
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``LongcatFlashForCausalLM`` builds."""
    D, L, act, norm = k.need("hidden_size"), _layers(k), k.want("hidden_act", "silu"), (("D", k.need("hidden_size")),)
    attention = latent(k, D, style="neighbours")
    if attention.q_rank is None:
        raise ConfigError("q_lora_rank is missing", key="q_lora_rank", file=k.file)
    E, zero, bias = k.size("n_routed_experts", 512), k.want("zero_expert_num", 256), k.want("router_bias", False)
    used = k.size("moe_topk", 12)
    if used > E + zero:
        raise ConfigError(f"moe_topk = {used} of {E + zero} experts", key="moe_topk", value=used, file=k.file)
    k.refuse("zero_expert_type", "identity")
    k.skip(
        "routed_scaling_factor", "attention_method", "mla_scale_q_lora", "mla_scale_kv_lora", "num_nextn_predict_layers"
    )
    correction = Tensor("mlp.router.e_score_correction_bias", (("Er", E + zero),), "buffer")
    shift = Tensor("mlp.router.classifier.bias", (("Er", E + zero),), "router")
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=min(used, E),
        F=k.size("expert_ffn_hidden_size", 2048),
        act=act,
        routing="own",
        router="router.classifier",
        corrected=correction,
        zero=zero,
    )
    shifts = Loose(tensors=(shift,) if bias else ())
    F = k.size("ffn_hidden_size", 12288)
    subs = []
    for i in (0, 1):
        dense = Gated(name=f"mlps.{i}", D=D, F=F, act=act)
        both: Block = dense if i else Parts(what="experts beside a layer", parts=(dense, experts, shifts))
        subs += [
            Sublayer(
                block=Untraced(block=attention.but(name=f"self_attn.{i}"), what="latent attention that is scaled"),
                before=Norm(f"input_layernorm.{i}", norm),
            ),
            Sublayer(block=both, before=Norm(f"post_attention_layernorm.{i}", norm)),
        ]
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(Layer(sublayers=tuple(subs)),) * L,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )


def _layers(k: Keys) -> int:
    """Layers with two attentions each; ``num_hidden_layers`` counts attentions."""
    double = k.optional("num_hidden_layers")
    return k.size("num_layers", 28 if double is None else double // 2)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/longcat_flash/modeling_longcat_flash.py",
    attributes={
        "n_routed_experts": "num_local_experts",
        "moe_topk": "num_experts_per_tok",
        "ffn_hidden_size": "intermediate_size",
        "expert_ffn_hidden_size": "moe_intermediate_size",
    },
)
