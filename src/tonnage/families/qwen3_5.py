"""Qwen3.5 and 3.6: gated delta nets, gated attention in every fourth layer; dense or with experts; a vision tower."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, normed_before
from tonnage.families._composite import nested
from tonnage.families._decoder import chosen, rotary_width
from tonnage.families._hybrid import FULL, LINEAR, every_fourth, gated_attention, gated_delta, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISUAL: Final = "model.visual"


def read(k: Keys) -> Model:
    """Build the model that ``Qwen3_5ForCausalLM`` or ``Qwen3_5MoeForCausalLM`` builds: text alone."""
    k.skip("vision_config")
    if "text_config" in k.config:
        k.skip("tie_word_embeddings")
    routed = _routed(k)
    return nested(k, "text_config", lambda text: _text(text, "model", routed)) or _text(k, "model", routed)


def read_with_vision(k: Keys) -> Model:
    """Build the model that ``Qwen3_5ForConditionalGeneration`` or its like with experts builds."""
    tied, routed = k.want("tie_word_embeddings", False), _routed(k)
    model = nested(k, "text_config", lambda text: _text(text, "model.language_model", routed, tied))
    tower = nested(k, "vision_config", lambda vision: tuple(_vision(vision)))
    if model is None or tower is None:
        k.need("text_config" if model is None else "vision_config")
        raise AssertionError
    return model.but(extra=tower)


def read_bare(k: Keys) -> Model:
    """The same without the head: ``Qwen3_5Model`` and its classifier have the tower, ``Qwen3_5TextModel`` has none."""
    return read_with_vision(k) if "text_config" in k.config else read(k)


def _routed(k: Keys) -> bool:
    return str(k.config.get("model_type")) in ("qwen3_5_moe", "qwen3_5_moe_text")


def _text(k: Keys, path: str, routed: bool, tied: bool | None = None) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    act = k.want("hidden_act", "silu")
    attention = gated_attention(k, D, K=2 if routed else 4, H=256)
    delta = gated_delta(k, D, "joined")
    channel = _experts(k, D, act) if routed else Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)

    def layer(kind: str) -> Layer:
        token = attention if kind == FULL else delta
        return normed_before(token, channel, D, style="rms-gemma", kind="attention" if kind == FULL else "delta net")

    layers = {kind: layer(kind) for kind in (FULL, LINEAR)}
    kinds = layer_kinds(k, L, every_fourth(k))
    # A layer that predicts a further token is stored in some checkpoints; transformers does not build it.
    k.skip("full_attention_interval", "mtp_num_hidden_layers", "mtp_use_dedicated_embeddings", "mlp_only_layers")
    k.skip("mamba_ssm_dtype", "attn_output_gate", "partial_rotary_factor")
    model = decoder(
        k,
        D,
        tuple(layers[kind] for kind in kinds),
        width=rotary_width(k, k.size("head_dim", 256), 0.25),
        positions=32768,
        style="rms-gemma",
        path=path,
    )
    if tied is None or model.head is None:
        return model
    return model.but(head=model.head.but(alias_of=f"{path}.embed_tokens.weight" if tied else None))


def _experts(k: Keys, D: int, act: str) -> Experts:
    E = k.size("num_experts", 256)
    # Transformers never reads it: this type has no dense layers.
    k.skip("intermediate_size", "norm_topk_prob", "decoder_sparse_step")
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 8),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        shared=Gated(
            name="mlp.shared_expert",
            D=D,
            F=k.size("shared_expert_intermediate_size", 512),
            act=act,
            role="shared_expert",
        ),
        shared_gate="shared_expert_gate",
    )


def _vision(k: Keys) -> Iterator[Tensor]:
    """The tower: patches of two frames, layers of attention, and a merger of neighbouring patches."""
    D, F, depth = k.size("hidden_size", 1152), k.size("intermediate_size", 4304), k.size("depth", 27)
    width, inner = (("D", D),), (("F", F),)
    merged = k.size("spatial_merge_size", 2) ** 2
    patch, frames = k.size("patch_size", 16), k.size("temporal_patch_size", 2)
    pixels = (("X", k.size("in_channels", 3)), ("X", frames), ("X", patch), ("X", patch))
    yield Tensor(f"{VISUAL}.patch_embed.proj.weight", (*width, *pixels), "vision")
    yield Tensor(f"{VISUAL}.patch_embed.proj.bias", width, "vision")
    yield Tensor(f"{VISUAL}.pos_embed.weight", (("P", k.size("num_position_embeddings", 2304)), *width), "vision")
    for index in range(depth):
        path = f"{VISUAL}.blocks.{index}"
        for name in ("norm1", "norm2"):
            yield from Norm(f"{path}.{name}", width, "layer", bias=True).weights()
        yield from Linear(f"{path}.attn.qkv", width, (("X", 3), *width), "vision", True).weights()
        yield from Linear(f"{path}.attn.proj", width, width, "vision", True).weights()
        yield from Linear(f"{path}.mlp.linear_fc1", width, inner, "vision", True).weights()
        yield from Linear(f"{path}.mlp.linear_fc2", inner, width, "vision", True).weights()
    together = (("X", merged), *width)
    yield from Norm(f"{VISUAL}.merger.norm", width, "layer", bias=True).weights()
    yield from Linear(f"{VISUAL}.merger.linear_fc1", together, together, "vision", True).weights()
    out = (("D", k.size("out_hidden_size", 3584)),)
    yield from Linear(f"{VISUAL}.merger.linear_fc2", together, out, "vision", True).weights()
    N = k.size("num_heads", 16)
    H = k.divides("hidden_size", "num_heads", D, N)
    yield from Rotary(f"{VISUAL}.rotary_pos_emb", H // 2).weights()
    k.skip("hidden_act", "deepstack_visual_indexes")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_5/modeling_qwen3_5.py",
    attributes={"num_experts": "num_local_experts"},
    classes={"seq2seq": read_with_vision, "none": read_bare, "classify": read_bare},
)
