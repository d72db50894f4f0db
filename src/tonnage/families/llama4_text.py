"""Llama 4: attention in chunks with a full layer in every fourth, experts beside a shared one, a vision tower."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.experts_dense import DenseExperts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Layer, Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before
from tonnage.families._composite import filled, nested
from tonnage.families._decoder import chosen, every
from tonnage.families._hybrid import FULL, layer_kinds, whole_numbers
from tonnage.families._towers import repeated, tower
from tonnage.families.llama import factored
from tonnage.keys import Keys
from tonnage.tensors import Tensor

CHUNKED: Final = "chunked_attention"


def read(k: Keys) -> Model:
    """Build the model that ``Llama4ForCausalLM`` builds: text alone."""
    if "text_config" not in k.config:
        return _text(k, "model")
    k.skip("vision_config", "tie_word_embeddings")
    model = nested(k, "text_config", lambda text: _text(text, "model"))
    if model is None:
        k.need("text_config", dict)
        raise AssertionError
    return model


def read_with_vision(k: Keys) -> Model:
    """Build the model that ``Llama4ForConditionalGeneration`` builds."""
    # The class ties nothing: its own model of text does what that one's config says.
    k.skip("tie_word_embeddings")
    model = nested(k, "text_config", lambda text: _text(text, "language_model.model"))
    if model is None or model.head is None:
        k.need("text_config", dict)
        raise AssertionError
    towers = filled(k, "vision_config", {}, lambda vision: _vision(vision, model.width))
    seeing = model.decoder.but(stem=model.decoder.stem.but(around=True))
    return model.but(head=model.head.but(name="language_model.lm_head"), extra=towers, stacks=(seeing,))


def _text(k: Keys, path: str) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    full = attention(k, D, K=8, H=128, rotary_style="complex, returned", eager="narrow-softmax")
    act = k.want("hidden_act", "silu")
    chunk = k.optional("attention_chunk_size", int, 8192)
    dense = Gated(name="feed_forward", D=D, F=k.size("intermediate_size_mlp", 16384), act=act)
    E, F = k.size("num_local_experts", 16), k.need("intermediate_size")
    experts = DenseExperts(
        name="feed_forward",
        D=D,
        E=E,
        used=chosen(k, E, 1),
        F=F,
        act=act,
        router="router",
        transposed=True,
        shared=Gated(name="feed_forward.shared_expert", D=D, F=F, act=act, role="shared_expert"),
    )
    step, interval = every(k, "interleave_moe_layer_step", 1), every(k, "no_rope_layer_interval", 4)
    routed = whole_numbers(k, "moe_layers")
    routed = list(range(step - 1, L, step)) if routed is None else routed
    turned = whole_numbers(k, "no_rope_layers") or [int((i + 1) % interval != 0) for i in range(L)]
    if len(turned) < L:
        raise ConfigError(f"no_rope_layers has {len(turned)} entries for {L} layers", key="no_rope_layers")
    kinds = layer_kinds(k, L, lambda i: CHUNKED if turned[i] else FULL, (CHUNKED, FULL))
    if CHUNKED in kinds and chunk is None:
        raise ConfigError("layer_types has chunked layers but there is no attention_chunk_size", key="layer_types")
    normed, tempered = k.want("use_qk_norm", True), k.want("attn_temperature_tuning", True)
    k.skip("floor_scale", "attn_scale", "for_llm_compressor")

    @cache
    def layer(kind: str, turns: bool, routes: bool) -> Layer:
        chunks = kind == CHUNKED
        attends = full.but(
            window=chunk if chunks else None,
            chunked=chunks,
            rotary="default" if turns else None,
            position_scaled="wide" if tempered and not turns else False,
        )
        if normed and turns:
            bare = Norm("self_attn.qk_norm", (("H", full.H),), "rms-bare", weight=False)
            attends = attends.but(q_norm=bare, k_norm=bare, norm_after_rotary=True)
        channel: Block = experts if routes else dense
        kind = ("chunked" if chunks else "full") + (" layer with experts" if routes else " layer")
        made = normed_before(attends, channel, D, style="rms-apart", kind=kind)
        first, second = made.sublayers
        return made.but(sublayers=(first.but(holds=True), second))

    return decoder(
        k,
        D,
        tuple(layer(kinds[i], bool(turned[i]), i in routed) for i in range(L)),
        width=full.H,
        positions=131072,
        path=path,
        style="rms-apart",
        masks=(None, chunk),
        rotary=(Rotary(f"{path}.rotary_emb", full.H, complex=True, factored=factored(k)),),
    ).but(subclassed=("feed_forward.router",))


def _vision(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Patches, layers of attention, an adapter and a projection to ``D``."""
    width, F = k.size("hidden_size", 768), k.size("intermediate_size", 5632)
    N = k.size("num_attention_heads", 16)
    H = k.divides("hidden_size", "num_attention_heads", width, N)
    image, patch = k.size("image_size", 448), k.size("patch_size", 14)
    seen = (image // patch) ** 2 + 1
    pixels = k.size("num_channels", 3) * patch**2
    ins, out, last = k.size("projector_input_dim", 4096), k.size("projector_output_dim", 4096), 7680
    k.skip(
        "hidden_act",
        "vision_feature_layer",
        "vision_feature_select_strategy",
        "pixel_shuffle_ratio",
        "multi_modal_projector_bias",
    )
    k.skip("projector_dropout", "attention_dropout", "vision_feature_layer")
    residual, inner = (("D", width),), (("F", F),)
    heads = (("N", N), ("H", H))
    norms = (Norm(f"{name}_layernorm", residual, "layer", bias=True) for name in ("input", "post_attention"))
    return (
        *tower(
            "vision",
            "vision_model",
            Tensor("class_embedding", residual, "embedding"),
            Tensor("positional_embedding_vlm", (("P", seen), *residual), "position"),
            Linear("patch_embedding.linear", (("X", pixels),), residual, "embedding"),
            Norm("layernorm_pre", residual, "layer", bias=True),
            Norm("layernorm_post", residual, "layer", bias=True),
            Linear("vision_adapter.mlp.fc1", inner, (("X", ins),), "feed_forward"),
            Linear("vision_adapter.mlp.fc2", (("X", out),), (("X", out),), "feed_forward"),
            Tensor(
                "rotary_embedding.freqs_ci", (("P", seen), ("X", 1), ("X", H // 4 * 2)), "buffer", dtype="complex64"
            ),
        ),
        *repeated(
            "vision",
            "vision_model.model.layers",
            k.size("num_hidden_layers", 34),
            *(Linear(f"self_attn.{part}_proj", residual, heads, "attention", True) for part in "qkv"),
            Linear("self_attn.o_proj", heads, residual, "attention", True),
            Linear("mlp.fc1", residual, inner, "feed_forward", True),
            Linear("mlp.fc2", inner, residual, "feed_forward", True),
            *norms,
        ),
        *tower(
            "vision",
            "multi_modal_projector",
            Linear("linear_1", (("X", k.size("vision_output_dim", last)),), (("D", D),), "embedding"),
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llama4/modeling_llama4.py",
    classes={"seq2seq": read_with_vision},
    whole=("llama4",),
)
