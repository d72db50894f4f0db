"""LongCat Flash: two latent attentions and two feed-forwards a layer, experts beside them, some of them empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.attention import Latent
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Part, Parts
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
    k.skip("routed_scaling_factor", "attention_method", "mla_scale_q_lora", "mla_scale_kv_lora")
    # Every release stores one such layer, which its config does not tell.
    further = k.want("num_nextn_predict_layers", 1)
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
    V = k.need("vocab_size")
    model = causal(
        k,
        V=V,
        D=D,
        layers=(Layer(sublayers=tuple(subs)),) * L,
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        apart=tuple(_ahead(attention, Gated(name="mlp", D=D, F=F, act=act), V, D, further)),
    )
    # transformers builds rows for the empty experts too.
    return model.but(unstored=L * zero * 2 * experts.F * D)


def _ahead(attention: Latent, mlp: Gated, V: int, D: int, layers: int) -> Iterator[Tensor]:
    """What predicts further tokens: layers without experts, with an embedding and a last norm of their own.

    Reference: https://github.com/vllm-project/vllm/blob/0bb55d60cb667d2f4e263b55304a30b38fe2e55c/vllm/model_executor/
    models/longcat_flash_mtp.py.
    """
    if not layers:
        return
    width, path = (("D", D),), "model.mtp."
    yield Tensor(f"{path}embed_tokens.weight", (("V", V), *width), "embedding")
    parts: tuple[Part, ...] = (
        Linear("eh_proj", (("X", 2), *width), width, "feed_forward"),
        *(Norm(name, width) for name in ("enorm.m", "hnorm.m", "input_layernorm", "post_attention_layernorm")),
        attention,
        mlp.but(name="transformer_layer.mlp"),
    )
    for index in range(layers):
        for part in parts:
            for t in part.weights():
                yield t.placed(f"{path}layers.{index}.", index)
    yield Tensor(f"{path}norm.weight", width, "norm")


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
