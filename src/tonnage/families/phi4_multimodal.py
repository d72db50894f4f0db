"""Phi-4-multimodal: Phi-3 behind SigLIP's tower for images and a conformer for sound (arXiv:2503.01743).

transformers builds it without the LoRA adapters that the checkpoint stores beside it.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import causal, heads, rotary_width, window_of
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import attention, clip_layer, convolution, feed_forward, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_channels": 3,
    "image_size": 448,
    "patch_size": 14,
}
AUDIO: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 1536,
    "num_blocks": 24,
    "num_attention_heads": 16,
    "ext_pw_out_channel": 1024,
    "depthwise_separable_out_channel": 1024,
    "depthwise_multiplier": 1,
    "kernel_size": 3,
    "input_size": 80,
    "time_reduction": 8,
    "bias_max_distance": 1000,
    "nemo_conv_channels": 1024,
    "downsample_rate": 1,
}
PATH: Final = "model.embed_tokens_extend"


def read(k: Keys) -> Model:
    """Build the model that ``Phi4MultimodalForCausalLM`` builds."""
    D = k.need("hidden_size")
    N, K = heads(k, 8)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    turned = rotary_width(k, H)
    k.skip("embd_pdrop", "original_max_position_embeddings")
    token = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        fused="qkv_proj",
        fused_order="sliced",
        rotary_width=turned,
        rotary_style="joined",
        window=window_of(k),
        dropout=k.want("attention_dropout", 0.0),
    )
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), fused="gate_up_proj")
    norm, dropout = (("D", D),), k.want("resid_pdrop", 0.0)
    block = counted("a model that reads images and sound", token)
    layer = Layer(
        sublayers=(
            Sublayer(block=block, before=Norm("input_layernorm", norm), dropout=dropout),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm), dropout=dropout),
        )
    )
    model = causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=(layer,) * k.need("num_hidden_layers"),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
    )
    images = filled(k, "vision_config", VISION, lambda inner: _images(inner, D))
    return model.but(extra=images + filled(k, "audio_config", AUDIO, lambda inner: _sound(inner, D)))


def _images(k: Keys, D: int) -> tuple[Tensor, ...]:
    """SigLIP's tower with its pooling head, and what brings it to the language model's width."""
    W, F, patch = k.need("hidden_size"), k.need("intermediate_size"), side(k, "patch_size")
    rows = (side(k, "image_size") // patch) ** 2
    k.divides("hidden_size", "num_attention_heads", W, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout", "crop_size", "feature_layer")
    path = f"{PATH}.image_embed"
    one: tuple[tuple[str, int], ...] = (("B", 1), ("X", 1))
    return (
        *tower(
            "vision",
            path,
            Tensor("global_img_feature_extensor", (*one, ("D", W)), "vision"),
            Tensor("sub_img_feature_extensor", (("P", 1), *one, ("D", W)), "vision"),
            matrix("img_projection_up", ("X", W), ("D", D), "vision"),
            matrix("img_projection_down", ("D", D), ("D", D), "vision"),
        ),
        *tower(
            "vision",
            f"{path}.img_processor",
            *convolution("embeddings.patch_embedding", k.need("num_channels"), W, patch, patch),
            Tensor("embeddings.position_embedding.weight", (("P", rows), ("D", W)), "vision"),
            layer_norm("post_layernorm", W),
            Tensor("head.probe", (*one, ("D", W)), "vision"),
            Tensor("head.attention.in_proj_weight", (("X", 3 * W), ("D", W)), "vision"),
            Tensor("head.attention.in_proj_bias", (("X", 3 * W),), "vision"),
            matrix("head.attention.out_proj", ("D", W), ("D", W), "vision"),
            layer_norm("head.layernorm", W),
            *feed_forward("head.mlp", W, F),
        ),
        *repeated("vision", f"{path}.img_processor.encoder.layers", k.need("num_hidden_layers"), *clip_layer(W, F)),
    )


def _sound(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Strided convolutions, a conformer, and two projections: for sound alone and beside images."""
    W, C, N = k.need("hidden_size"), k.need("nemo_conv_channels"), k.need("num_attention_heads")
    bins, steps = k.need("input_size"), k.need("time_reduction").bit_length() - 1
    k.divides("hidden_size", "num_attention_heads", W, N)
    k.skip(
        "activation", "chunk_size", "left_chunk", "dropout_rate", "conv_activation", "conv_glu_type", "feature_layer"
    )
    k.skip("nemo_activation", "nemo_final_size")
    last = bins
    for _ in range(steps):
        last = (last - 1) // 2 + 1
    rows = k.need("bias_max_distance") * (1 if k.want("bias_symmetric", False) else 2)
    path = f"{PATH}.audio_embed"
    subsampling = convolution("conv.0", 1, C, 3, 3)
    for step in range(steps - 1):
        subsampling += convolution(f"conv.{2 + 3 * step}", 1, C, 3, 3) + convolution(f"conv.{3 + 3 * step}", C, C, 1, 1)
    wide = W * k.need("downsample_rate")
    projections: list[Part] = []
    for what in ("speech", "vision_speech"):
        projections.append(matrix(f"up_proj_for_{what}", ("X", wide), ("D", D), "audio"))
        projections.append(matrix(f"down_proj_for_{what}", ("D", D), ("D", D), "audio"))
    return (
        *tower("audio", path, *projections),
        *tower(
            "audio",
            f"{path}.encoder",
            *(Tensor(f"encoder_embedding.global_{x}", (("X", bins),), "buffer") for x in ("mean", "invstd")),
            Tensor("relative_attention_bias_layer.bias_values.weight", (("P", rows), ("N", N)), "audio"),
            matrix("embed.out", ("X", C * last), ("D", W), "audio"),
        ),
        *tower("audio", f"{path}.encoder.embed", *subsampling),
        *repeated("audio", f"{path}.encoder.encoders", k.need("num_blocks"), *_conformer(k, W)),
    )


def _conformer(k: Keys, W: int) -> tuple[Part | Tensor, ...]:
    """Half a feed-forward block, attention, a convolution, the other half."""
    F, C, kernel = k.need("intermediate_size"), k.need("ext_pw_out_channel"), k.need("kernel_size")
    outs, times = k.need("depthwise_separable_out_channel"), k.need("depthwise_multiplier")
    parts: list[Part | Tensor] = []
    for name in ("feed_forward_in", "feed_forward_out"):
        parts += [
            layer_norm(f"{name}.layer_norm", W),
            matrix(f"{name}.gate_up_proj", ("D", W), ("F", 2 * F), "audio"),
            matrix(f"{name}.down_proj", ("F", F), ("D", W), "audio"),
        ]
    glu = tuple(Tensor(f"conv.glu.b{i}", (("B", 1), ("D", C), ("X", 1)), "audio") for i in (1, 2))
    return (
        *parts,
        *attention("self_attn", W, o="o_proj"),
        layer_norm("conv.layer_norm", W),
        *glu,
        *convolution("conv.glu.ext_pw_conv_1d", W, 2 * C, 1),
        *convolution("conv.dw_sep_conv_1d.dw_conv", 1, W * times, kernel),
        *convolution("conv.dw_sep_conv_1d.pw_conv", W * times, outs, 1),
        *convolution("conv.ext_pw_conv_1d", W, C, 1),
        layer_norm("layer_norm_att", W),
        layer_norm("layer_norm", W),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/phi4_multimodal/"
    "modeling_phi4_multimodal.py",
)
