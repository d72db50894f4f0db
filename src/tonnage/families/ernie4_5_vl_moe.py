"""ERNIE 4.5 VL: ERNIE 4.5 with experts of their own for text and for images, behind a tower (ERNIE 4.5 report)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import Part, Routed
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder
from tonnage.families._composite import read_inner
from tonnage.families._experts import routed, shared_expert, stacked
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import NAMES, feed_forward, repeated, side, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 103424,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "num_hidden_layers": 28,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build the model that ``Ernie4_5_VLMoeForConditionalGeneration`` builds."""
    named = {"moe_num_experts": "num_experts", "moe_k": "num_experts_per_tok"}
    model = read_inner(k, "text_config", TEXT, _text, aliases=named, less=("model_type",))
    tensors = read_inner(
        k, "vision_config", {}, lambda inner: _images(inner, model.width), aliases=NAMES, less=("model_type",)
    )
    tied = k.want("tie_word_embeddings", True)
    assert model.head is not None
    return model.but(
        model_type="ernie4_5_vl_moe",
        head=model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None),
        extra=tensors,
        fp32=("gate.weight", "moe_statics"),
    )


def _text(k: Keys) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    bias, act, norm = bool(k.want("use_bias", False)), k.want("hidden_act", "silu"), (("D", D),)
    token: GroupedQuery = attention(k, D, bias=bias, o_bias=bias, dropout=0.0)
    seen = counted("attention with positions in three dimensions", token)
    E, used = k.size("moe_num_experts", 64), k.size("moe_k", 6)
    if used > E:
        raise ConfigError(f"moe_k = {used} exceeds moe_num_experts = {E}", key="moe_k", value=used, file=k.file)
    widths = sizes(k, "moe_intermediate_size", (1536, 512))
    if len(widths) != 2:
        raise ConfigError(f"{k.path}moe_intermediate_size must be two", key="moe_intermediate_size", value=widths)
    shared = k.want("moe_num_shared_experts", 2)
    k.skip("moe_norm_min", "attention_dropout", "tie_word_embeddings")
    experts = counted(
        "experts for text and images",
        *_experts("text_moe", D, E, used, widths[0]),
        # A token of text uses none of these.
        *_experts("vision_moe", D, E, 0, widths[1]),
        *((shared_expert(D, widths[0] * shared, act, bias=bias),) if shared > 0 else ()),
    )
    layers = stacked(
        lambda _: seen,
        (None,) * L,
        experts,
        Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act, bias=bias),
        routed(k, L, 1),
        lambda name: Norm(name, norm),
    )
    return decoder(k, D, layers, width=token.H, positions=131072, path=PATH)


def _experts(name: str, D: int, E: int, used: int, F: int) -> tuple[Part | Tensor, ...]:
    path, every = f"mlp.{name}", ("E", E)
    return (
        Linear(f"{path}.gate", (("D", D),), (("Er", E),), "router"),
        Tensor(f"{path}.gate.moe_statics.e_score_correction_bias", (("X", 1), ("Er", E)), "router"),
        Routed(
            E=E,
            used=used,
            tensors=(
                Tensor(f"{path}.experts.gate_up_proj", (every, ("X", 2), ("F", F), ("D", D)), "expert", (1, 2, 1)),
                Tensor(f"{path}.experts.down_proj", (every, ("D", D), ("F", F)), "expert"),
            ),
        ),
    )


def _images(k: Keys, out: int) -> tuple[Tensor, ...]:
    """Patches, layers of attention, and what joins neighbours in space and then in time."""
    D, F, patch = k.size("hidden_size", 1280), k.size("intermediate_size", 5120), k.config.get("patch_size", 14)
    patch = side(k, "patch_size") if "patch_size" in k.config else patch
    H = k.divides("hidden_size", "num_heads", D, k.size("num_heads", 16))
    joined = D * k.size("spatial_merge_size", 2) ** 2
    frames = joined * k.size("temporal_merge_size", 2)
    k.skip("hidden_act")
    path, resampler = "model.vision_tower", "model.resampler_model"
    return (
        *tower(
            "vision",
            path,
            matrix("patch_embed.proj", ("X", k.size("in_channels", 3) * patch**2), ("D", D), "vision", bias=False),
            layer_norm("ln", D),
            Rotary("rotary_pos_emb", H // 2),
        ),
        *repeated("vision", f"{path}.blocks", k.size("depth", 32), *_layer(D, F)),
        *tower(
            "vision",
            resampler,
            *_joins("spatial_linear", joined, joined),
            *_joins("temporal_linear", frames, joined),
            matrix("mlp", ("X", joined), ("D", out), "vision"),
            Norm("after_norm", (("D", out),)),
        ),
    )


def _layer(D: int, F: int) -> tuple[Part, ...]:
    """Attention with queries, keys and values in one matrix, and a plain feed-forward block."""
    return (
        layer_norm("norm1", D),
        layer_norm("norm2", D),
        matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision"),
        matrix("attn.proj", ("D", D), ("D", D), "vision"),
        *feed_forward("mlp", D, F),
    )


def _joins(name: str, ins: int, outs: int) -> tuple[Part, ...]:
    return (
        matrix(f"{name}.fc1", ("X", ins), ("F", outs), "vision"),
        matrix(f"{name}.fc2", ("F", outs), ("D", outs), "vision"),
        layer_norm(f"{name}.ln", outs),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/ernie4_5_vl_moe/"
    "modeling_ernie4_5_vl_moe.py",
)
