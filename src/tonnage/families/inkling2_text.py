"""Inkling 2, the language model: residual streams over blocks of layers, convolutions, gates, many experts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers.convolved import ShortConvolution
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Parts
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen
from tonnage.families._experts import words
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``Inkling2ForCausalLM`` builds."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    norm, C = (("D", D),), k.size("conv_kernel_size", 4)
    k.skip("log_scaling_n_floor", "log_scaling_alpha", "unpadded_vocab_size", "route_scale", "number_of_conv_states")
    k.skip("n_layers_per_attn_res_block", "mlp_gate_softcap", "mlp_up_softcap", "scoring_func", "attention_dropout")
    k.skip("qk_l2_clip_threshold", "rel_l2_clip_threshold", "num_mtp_layers")
    E = k.size("n_routed_experts", 384)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 2304),
        act=k.want("hidden_act", "silu"),
        routing="own",
        correction=True,
    )
    query = Tensor("mlp_input.query", norm, "feed_forward")
    conv = ShortConvolution("post_mlp_convolution", norm, C, "feed_forward")
    channel = Parts(what="experts of several blocks of layers", parts=(experts, Loose(tensors=(query,)), conv))
    build = _attention(k, D, C)

    @cache
    def layer(slides: bool, first: bool) -> Layer:
        ahead = () if first else (Tensor("attention_input.query", norm if slides else (("X", 3), *norm), "attention"),)
        names = ("input_layernorm",) if slides else ("q_input_layernorm", "k_input_layernorm", "v_input_layernorm")
        norms = tuple(Norm(name, norm) for name in names)
        token = build(slides)
        token = token.but(parts=(*token.parts, Loose(tensors=ahead), *norms))
        return Layer(
            sublayers=(Sublayer(block=token), Sublayer(block=channel, before=Norm("post_attention_layernorm", norm))),
            kind="sliding layer" if slides else "full layer",
        )

    kinds = words(k, "layer_types", L, ("hybrid", "hybrid_sliding"))
    slides = [(i + 1) % 6 != 0 for i in range(L)] if kinds is None else [kind == "hybrid_sliding" for kind in kinds]
    model = causal(
        k,
        V=V,
        D=D,
        layers=tuple(layer(slide, i == 0) for i, slide in enumerate(slides)),
        norm=Norm("model.norm", norm),
        rotary=(),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 1048576),
        capped=k.want("final_logit_softcapping", 30.0) is not None,
        eager_only=True,
    )
    stack = model.decoder
    embedding = stack.stem.but(norm=Norm("model.embed_tokens.embed_norm", norm))
    last = Tensor("model.final_input.query", norm, "head")
    return model.but(stacks=(stack.but(stem=embedding),), extra=(last,), fp32=WIDE)


WIDE: Final = (
    "mlp.gate.weight",
    "post_attention_convolution",
    "post_mlp_convolution",
    "k_sconv.conv1d",
    "v_sconv.conv1d",
    "attention_input",
    "mlp_input",
    "final_input",
)
HEADS: Final = (("num_attention_heads", 48), ("num_key_value_heads", 8), ("head_dim", 128))


def _attention(k: Keys, D: int, C: int) -> Callable[[bool], Parts]:
    """What builds the attention of sliding layers and of the others."""
    window, extent, rel = k.size("sliding_window_size", 1024), k.size("rel_extent", 1024), k.size("d_rel", 16)
    sizes = {slides: [k.size(f"{'swa_' * slides}{key}", n) for key, n in HEADS] for slides in (False, True)}
    for slides, (N, K, _) in sizes.items():
        k.divides(f"{'swa_' * slides}num_attention_heads", f"{'swa_' * slides}num_key_value_heads", N, K)

    def build(slides: bool) -> Parts:
        N, K, H = sizes[slides]
        name, heads, keys = "self_attn", (("N", N), ("H", H)), (("K", K), ("H", H))
        loose = (
            Tensor(f"{name}.rel_logits_proj.proj", (("X", rel), ("P", window if slides else extent)), "position"),
            Tensor(f"{name}.q_l2_clip.scale", heads, "attention"),
            Tensor(f"{name}.rel_l2_clip.scale", (("N", N), ("H", rel)), "attention"),
        )
        made = None if slides else D
        return Parts(
            what="attention with convolutions and relative positions",
            parts=(
                GroupedQuery(name=name, D=D, N=N, K=K, H=H, rotary=None, window=window if slides else None),
                Linear(f"{name}.r_proj", (("D", D),), (("N", N), ("H", rel)), "attention"),
                Linear(f"{name}.gate_proj", (("D", D),), heads, "attention"),
                Linear(f"{name}.sink_proj", (("D", D),), (("N", N),), "attention"),
                Loose(tensors=loose),
                ShortConvolution(f"{name}.k_sconv", keys, C, "attention", made),
                ShortConvolution(f"{name}.v_sconv", keys, C, "attention", made),
                ShortConvolution("post_attention_convolution", (("D", D),), C),
            ),
        )

    return build


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/inkling2/modeling_inkling2.py",
    attributes={
        "conv_kernel_size": "sconv_kernel_size",
        "sliding_window_size": "sliding_window",
        "n_routed_experts": "num_local_experts",
        "max_position_embeddings": "model_max_length",
        "moe_intermediate_size": "intermediate_size",
        "route_scale": "routed_scaling_factor",
    },
)
