"""Inkling, the language model: short convolutions, learned relative positions, experts beside shared ones."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers.convolved import ShortConvolution
from tonnage.arch.model import Model
from tonnage.arch.parts import Loose, Parts
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen
from tonnage.families._experts import routed, stacked, words
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``InklingForCausalLM`` builds."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    norm, act, C = (("D", D),), k.want("hidden_act", "silu"), k.size("conv_kernel_size", 4)
    k.skip("log_scaling_n_floor", "log_scaling_alpha", "unpadded_vocab_size", "logits_mup_width_multiplier")
    k.skip("route_scale", "shared_expert_sink", "rms_norm_eps_moe_gate", "number_of_conv_states", "attention_dropout")
    k.skip("num_mtp_layers", "chain_hidden_post_norm", "mtp_hidden_states_first", "mtp_local_layer_ids", "use_cache")
    tokens, feeds = _attention(k, D, C), _feed_forward(k, D, act, C)
    local, kinds = k.optional("local_layer_ids", list), words(k, "layer_types", L, ("hybrid", "hybrid_sliding"))
    if kinds is not None:
        slides = [kind == "hybrid_sliding" for kind in kinds]
    else:
        slides = [(i + 1) % 6 != 0 if local is None else i in local for i in range(L)]
    model = causal(
        k,
        V=V,
        D=D,
        layers=stacked(
            lambda slides: tokens[slides],
            slides,
            feeds[True],
            feeds[False],
            routed(k, L, k.want("dense_mlp_idx", 0)),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=(),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )
    stack = model.decoder
    embedding = stack.stem.but(norm=Norm("model.embed_tokens.embed_norm", norm))
    wide = ("attn_sconv", "mlp_sconv", "k_sconv", "v_sconv", "gate.global_scale")
    return model.but(stacks=(stack.but(stem=embedding),), fp32=wide)


def _attention(k: Keys, D: int, C: int) -> dict[bool, Parts]:
    """The attention of sliding layers and of the others."""
    window, extent, rel = k.size("sliding_window_size", 512), k.size("rel_extent", 1024), k.size("d_rel", 16)

    def build(prefix: str, K: int, window: int | None, seen: int) -> Parts:
        N, K = k.size(f"{prefix}num_attention_heads", 64), k.size(f"{prefix}num_key_value_heads", K)
        H = k.size(f"{prefix}head_dim", 128)
        k.divides(f"{prefix}num_attention_heads", f"{prefix}num_key_value_heads", N, K)
        name, head, keys = "self_attn", (("H", H),), (("K", K), ("H", H))
        plain = GroupedQuery(
            name=name,
            D=D,
            N=N,
            K=K,
            H=H,
            q_norm=Norm(f"{name}.q_norm", head),
            k_norm=Norm(f"{name}.k_norm", head),
            rotary=None,
            window=window,
        )
        return Parts(
            what="attention with convolutions and relative positions",
            parts=(
                plain,
                Linear(f"{name}.r_proj", (("D", D),), (("N", N), ("H", rel)), "attention"),
                Loose(tensors=(Tensor(f"{name}.rel_logits_proj.proj", (("X", rel), ("P", seen)), "position"),)),
                ShortConvolution(f"{name}.k_sconv", keys, C),
                ShortConvolution(f"{name}.v_sconv", keys, C),
                ShortConvolution("attn_sconv", (("D", D),), C),
            ),
        )

    return {True: build("swa_", 16, window, window), False: build("", 8, None, extent)}


def _feed_forward(k: Keys, D: int, act: str, C: int) -> dict[bool, Parts]:
    """Experts, and the feed-forward of the other layers."""
    E, shared, whole = (
        k.size("n_routed_experts", 256),
        k.want("n_shared_experts", 2),
        k.optional("dense_intermediate_size"),
    )
    if whole is None:
        F, whole = k.size("moe_intermediate_size", 3072), k.size("intermediate_size", 24576)
    else:
        # As the first configs name them.
        F = k.size("intermediate_size", 24576)
        k.skip("moe_intermediate_size")
    conv = ShortConvolution("mlp_sconv", (("D", D),), C, "feed_forward")
    scale = (("X", 1),)
    block = Experts(name="mlp", D=D, E=E, used=chosen(k, E, 6), F=F, act=act, routing="own", scored=E + shared)
    correction = Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "buffer", dtype="fp32")
    n, path = ("X", shared), "mlp.shared_experts"
    always = (
        Tensor(f"{path}.gate_proj", (n, ("F", F), ("D", D)), "shared_expert"),
        Tensor(f"{path}.up_proj", (n, ("F", F), ("D", D)), "shared_expert"),
        Tensor(f"{path}.down_proj", (n, ("D", D), ("F", F)), "shared_expert"),
    )
    beside = Loose(tensors=(Tensor("mlp.gate.global_scale", scale, "router"), correction, *always))
    experts = Parts(what="experts whose shared ones are weighed", parts=(block, beside, conv))
    dense = Gated(name="mlp", D=D, F=whole, act=act)
    one = Loose(tensors=(Tensor("mlp.global_scale", scale, "feed_forward"),))
    return {True: experts, False: Parts(what="a scaled feed-forward", parts=(dense, one, conv))}


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/inkling/modeling_inkling.py",
    attributes={
        "conv_kernel_size": "sconv_kernel_size",
        "sliding_window_size": "sliding_window",
        "n_routed_experts": "num_local_experts",
        "max_position_embeddings": "model_max_length",
        "logits_mup_width_multiplier": "embedding_multiplier",
    },
)
