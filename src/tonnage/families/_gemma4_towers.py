"""Gemma 4's towers for images and sound, and what its unified models have in their place."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._gemma import loose
from tonnage.families._towers import convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

Tensors = tuple[Tensor, ...]

LIMITS: Final = ("input_min", "input_max", "output_min", "output_max")
"""Buffers of a clipped matrix."""


def _matrix(name: str, ins: Axes, outs: Axes, clipped: bool) -> tuple[Part, ...]:
    limits = loose(*(Tensor(f"{name}.{limit}", (), "buffer") for limit in LIMITS if clipped))
    return Linear(f"{name}.linear", ins, outs, "attention"), limits


def _projection(path: str, role: str, ins: int, D: int) -> Tensors:
    linear = Linear("embedding_projection", (("X", ins),), (("D", D),), "embedding")
    return tower("audio" if role == "audio" else "vision", path, linear)


def vision(k: Keys, D: int) -> Tensors:
    """Patches with a table of two coordinates, layers of attention, and a projection to ``D``."""
    width, F = k.size("hidden_size", 768), k.size("intermediate_size", 3072)
    N, K, H = k.size("num_attention_heads", 12), k.size("num_key_value_heads", 12), k.size("head_dim", 64)
    patch, positions = k.size("patch_size", 16), k.size("position_embedding_size", 10240)
    clipped, bias = k.want("use_clipped_linears", False), k.want("attention_bias", False)
    standard = k.want("standardize", False)
    k.skip("hidden_activation", "max_position_embeddings", "attention_dropout", "pooling_kernel_size")
    k.skip("default_output_length", "global_head_dim", "image_seq_length", "video_seq_length")
    if bias:
        k.refuse("attention_bias")
    residual, inner, head = (("D", width),), (("F", F),), (("H", H),)
    path = "model.vision_tower"
    layer = (
        *_matrix("self_attn.q_proj", residual, (("N", N), *head), clipped),
        *_matrix("self_attn.k_proj", residual, (("K", K), *head), clipped),
        *_matrix("self_attn.v_proj", residual, (("K", K), *head), clipped),
        *_matrix("self_attn.o_proj", (("N", N), *head), residual, clipped),
        *(Norm(f"self_attn.{part}_norm", head) for part in "qk"),
        *_matrix("mlp.gate_proj", residual, inner, clipped),
        *_matrix("mlp.up_proj", residual, inner, clipped),
        *_matrix("mlp.down_proj", inner, residual, clipped),
        *(Norm(f"{name}_layernorm", residual) for name in ("input", "post_attention")),
        *(Norm(f"{name}_feedforward_layernorm", residual) for name in ("pre", "post")),
    )
    return (
        *tower(
            "vision",
            path,
            Linear("patch_embedder.input_proj", (("X", 3 * patch**2),), residual, "embedding"),
            Tensor("patch_embedder.position_embedding_table", (("X", 2), ("P", positions), *residual), "position"),
            *(Tensor(f"std_{part}", residual, "buffer") for part in ("bias", "scale") if standard),
            Rotary("encoder.rotary_emb", H // 2),
        ),
        *repeated("vision", f"{path}.encoder.layers", k.size("num_hidden_layers", 16), *layer),
        *_projection("model.embed_vision", "vision", width, D),
    )


def unified_vision(k: Keys, D: int) -> Tensors:
    """No tower: patches are embedded by one matrix between norms, and projected to ``D``."""
    width, positions = k.size("mm_embed_dim", 3840), k.size("mm_posemb_size", 1120)
    pixels = 3 * (k.size("patch_size", 16) * k.size("pooling_kernel_size", 3)) ** 2
    residual, ins = (("D", width),), (("X", pixels),)
    k.skip("num_soft_tokens")
    path = "model.embed_vision"
    return (
        *tower(
            "vision",
            path,
            Tensor("pos_embedding", (("P", positions), ("X", 2), *residual), "position"),
            Norm("patch_ln1", ins, "layer", bias=True),
            Linear("patch_dense", ins, residual, "embedding", True),
            Norm("patch_ln2", residual, "layer", bias=True),
            Norm("pos_norm", residual, "layer", bias=True),
        ),
        *_projection(f"{path}.multimodal_embedder", "vision", k.size("output_proj_dims", 3840), D),
    )


def audio(k: Keys, D: int, unified: bool) -> Tensors:
    """Two convolutions and layers of a conformer, or nothing but a projection to ``D``."""
    if unified:
        return _projection("model.embed_audio", "audio", k.size("audio_embed_dim", 640), D)
    width, N, out = k.size("hidden_size", 1024), k.size("num_attention_heads", 8), k.size("output_proj_dims", 1536)
    H = k.divides("hidden_size", "num_attention_heads", width, N)
    clipped, C = k.want("use_clipped_linears", True), k.size("conv_kernel_size", 5)
    channels = k.optional("subsampling_conv_channels", list) or [128, 32]
    if len(channels) != 2:
        raise ConfigError(f"{k.path}subsampling_conv_channels must be two", key="subsampling_conv_channels")
    first, second = channels
    k.skip("hidden_act", "residual_weight", "attention_chunk_size", "attention_context_left", "gradient_clipping")
    k.skip("attention_context_right", "attention_logit_cap", "attention_invalid_logits_value")
    path, residual = "model.audio_tower", (("D", width),)
    inner, heads = (("F", 4 * width),), (("N", N), ("H", H))
    layer: list[Part | Tensor] = []
    for name in ("feed_forward1", "feed_forward2"):
        layer += _matrix(f"{name}.ffw_layer_1", residual, inner, clipped)
        layer += _matrix(f"{name}.ffw_layer_2", inner, residual, clipped)
        layer += [Norm(f"{name}.{part}_layer_norm", residual) for part in ("pre", "post")]
    layer += [Tensor("self_attn.per_dim_scale", (("H", H),), "attention"), Tensor("self_attn.softcap", (), "buffer")]
    for part in ("q_proj", "k_proj", "v_proj"):
        layer += _matrix(f"self_attn.{part}", residual, heads, clipped)
    layer += _matrix("self_attn.post", heads, residual, clipped)
    layer.append(Linear("self_attn.relative_k_proj", residual, heads, "attention"))
    layer += _matrix("lconv1d.linear_start", residual, (("X", 2), *residual), clipped)
    layer += _matrix("lconv1d.linear_end", residual, residual, clipped)
    layer.append(Tensor("lconv1d.depthwise_conv1d.weight", (*residual, ("X", 1), ("C", C)), "feed_forward"))
    layer += [Norm(f"lconv1d.{name}", residual) for name in ("pre_layer_norm", "conv_norm")]
    layer += [Norm(name, residual) for name in ("norm_pre_attn", "norm_post_attn", "norm_out")]
    sampled = "subsample_conv_projection"
    return (
        *tower(
            "audio",
            path,
            *convolution(f"{sampled}.layer0.conv", 1, first, 3, 3, bias=False),
            *convolution(f"{sampled}.layer1.conv", first, second, 3, 3, bias=False),
            Norm(f"{sampled}.layer0.norm", (("X", first),)),
            Norm(f"{sampled}.layer1.norm", (("X", second),)),
            Linear(f"{sampled}.input_proj_linear", (("X", first // 4 * second),), residual, "embedding"),
            Tensor("rel_pos_enc.inv_timescales", (("X", 1), ("X", 1), ("X", width // 2)), "buffer", dtype="fp32"),
            Linear("output_proj", residual, (("X", out),), "embedding", True),
        ),
        *repeated("audio", f"{path}.layers", k.size("num_hidden_layers", 12), *layer),
        *_projection("model.embed_audio", "audio", out, D),
    )
