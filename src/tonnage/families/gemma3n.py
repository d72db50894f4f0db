"""Gemma 3n with its towers: MobileNet-V5 for images, a conformer for sound."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.altup_ends import Words
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._mobilenet import mobilenet
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Role, Tensor

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "vocab_size": 262400,
}
VISION: Final[dict[str, Any]] = {"hidden_size": 2048, "vocab_size": 128, "architecture": "mobilenetv5_300m_enc"}
AUDIO: Final[dict[str, Any]] = {
    "hidden_size": 1536,
    "vocab_size": 128,
    "input_feat_size": 128,
    "conf_num_attention_heads": 8,
    "conf_num_hidden_layers": 12,
    "conf_conv_kernel_size": 5,
    "conf_attention_chunk_size": 12,
    "conf_attention_context_left": 13,
    "conf_attention_context_right": 0,
}
SOUND: Final = "model.audio_tower"


def read(k: Keys) -> Model:
    """Build ``Gemma3nForConditionalGeneration``."""
    text = language(k, "model.language_model", "gemma3n_text", fixed=True, always=TEXT)
    D = text.model.width
    images = read_inner(k, "vision_config", VISION, lambda inner: _vision(inner, D), less=("model_type",))
    sound = read_inner(k, "audio_config", AUDIO, lambda inner: _audio(inner, D), less=("model_type",))
    k.skip("audio_soft_tokens_per_image", "vision_soft_tokens_per_image")
    stack = text.model.decoder
    others = _words("vision", images, D), _words("audio", sound, D)
    assert stack.stem.inner is not None
    stem = stack.stem.but(others=others, inner=stack.stem.inner.but(path="model.language_model"))
    model = text.model.but(stacks=(stack.but(stem=stem),))
    model = headed(model, k.want("tie_word_embeddings", True), extra=images + sound)
    capped = text.config.get("final_logit_softcapping", 30.0) is not None
    return model.but(head=None if model.head is None else model.head.but(capped=capped))


def _words(tower: str, tensors: tuple[Tensor, ...], D: int) -> Words:
    name = f"model.embed_{tower}"
    (_, V), (_, width) = next(t.axes for t in tensors if t.name == f"{name}.embedding.weight")
    return Words(name=name, V=V, D=width, outs=D, last=tower == "audio")


def _embedder(role: Role, path: str, k: Keys, D: int) -> tuple[Tensor, ...]:
    """Tokens of a tower's own, and the projection of theirs and of what it sees."""
    ins = ("X", k.need("hidden_size"))
    k.skip("vocab_offset")
    return tower(
        role,
        path,
        # A table, which is no linear module.
        Tensor("embedding.weight", (("P", k.need("vocab_size")), ins), role),
        Norm("hard_embedding_norm", (ins,)),
        Norm("soft_embedding_norm", (ins,)),
        matrix("embedding_projection", ins, ("D", D), role, bias=False),
    )


def _vision(k: Keys, D: int) -> tuple[Tensor, ...]:
    k.refuse("architecture", "mobilenetv5_300m_enc")
    k.refuse("model_args", {})
    k.skip("do_pooling", "num_classes", "label_names", "pretrained_cfg")
    return mobilenet("model.vision_tower.timm_model") + _embedder("vision", "model.embed_vision", k, D)


def _audio(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Two convolutions and layers of a conformer."""
    W, N = k.need("hidden_size"), k.need("conf_num_attention_heads")
    H = k.divides("hidden_size", "conf_num_attention_heads", W, N)
    channels = k.optional("sscp_conv_channel_size", list) or [128, 32]
    if len(channels) != 2 or not all(isinstance(n, int) and n > 0 for n in channels):
        name = f"{k.path}sscp_conv_channel_size"
        raise ConfigError(f"{name} must be two numbers", key=name, value=channels, file=k.file)
    k.refuse("sscp_conv_kernel_size", [[3, 3], [3, 3]])
    k.refuse("sscp_conv_stride_size", [[2, 2], [2, 2]])
    k.skip("gradient_clipping", "conf_attention_logit_cap", "conf_reduction_factor", "conf_residual_weight")
    k.skip("sscp_conv_group_norm_eps", "sscp_conv_eps")
    first, second = channels
    bins = ((k.need("input_feat_size") + 1) // 2 + 1) // 2
    name = "subsample_conv_projection"
    sampled = tower(
        "audio",
        SOUND,
        *convolution(f"{name}.conv_0.conv", 1, first, 3, 3, bias=False),
        Norm(f"{name}.conv_0.norm", (("X", first),)),
        *convolution(f"{name}.conv_1.conv", first, second, 3, 3, bias=False),
        Norm(f"{name}.conv_1.norm", (("X", second),)),
        matrix(f"{name}.input_proj_linear", ("X", second * bins), ("D", W), "audio", bias=False),
    )
    layers = repeated("audio", f"{SOUND}.conformer", k.need("conf_num_hidden_layers"), *_conformer(k, W, H))
    return sampled + layers + _embedder("audio", "model.embed_audio", k, D)


def _conformer(k: Keys, W: int, H: int) -> tuple[Part | Tensor, ...]:
    width, own, chunk = ("D", W), "attention.attn", k.need("conf_attention_chunk_size")
    seen = chunk + k.need("conf_attention_context_left") - 1 + k.want("conf_attention_context_right", 0)
    parts: list[Part | Tensor] = [_number("gradient_clipping"), Norm("norm", (width,))]
    for name in ("ffw_layer_start", "ffw_layer_end"):
        parts += [
            Norm(f"{name}.pre_layer_norm", (width,)),
            matrix(f"{name}.ffw_layer_1", width, ("F", 4 * W), "audio", bias=False),
            matrix(f"{name}.ffw_layer_2", ("F", 4 * W), width, "audio", bias=False),
            Norm(f"{name}.post_layer_norm", (width,)),
            _number(f"{name}.gradient_clipping"),
        ]
    parts += [
        Norm("attention.pre_attn_norm", (width,)),
        Norm("attention.post_norm", (width,)),
        matrix("attention.post", width, width, "audio", bias=False),
        Tensor(f"{own}.per_dim_scale", (("H", H),), "audio"),
        matrix(f"{own}.relative_position_embedding.pos_proj", width, width, "audio", bias=False),
        *(matrix(f"{own}.{x}_proj", width, width, "audio", bias=False) for x in "qkv"),
        *(_number(name) for name in ("attention.gradient_clipping", f"{own}.q_scale")),
        _number(f"{own}.softcap", "fp32"),
        Tensor(f"{own}.local_causal_valid_mask", (("T", chunk), ("S", seen)), "buffer", dtype="bool"),
        Tensor(
            f"{own}.relative_position_embedding.inv_timescales",
            (("X", 1), ("X", 1), ("X", W // 2)),
            "buffer",
            dtype="fp32",
        ),
        Norm("lconv1d.pre_layer_norm", (width,)),
        matrix("lconv1d.linear_start", width, ("X", 2 * W), "audio", bias=False),
        *convolution("lconv1d.depthwise_conv1d", 1, W, k.need("conf_conv_kernel_size"), bias=False),
        Norm("lconv1d.conv_norm", (width,)),
        matrix("lconv1d.linear_end", width, width, "audio", bias=False),
        _number("lconv1d.gradient_clipping"),
    ]
    return tuple(parts)


def _number(name: str, dtype: str | None = None) -> Tensor:
    return Tensor(name, (), "buffer", dtype=dtype)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma3n/modeling_gemma3n.py",
)
