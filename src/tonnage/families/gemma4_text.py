"""Gemma 4: full layers with heads of another width, shared caches, embeddings of every layer, experts beside."""

from __future__ import annotations

from functools import cache
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.experts_beside import ExpertsBeside
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import nested
from tonnage.families._decoder import causal, embed_scale, heads, window_of
from tonnage.families._gemma import STYLE, layer_embeddings, layer_input, reusing, rotaries, sharing_attention, storing
from tonnage.families._gemma4_towers import audio, unified_vision, vision
from tonnage.families._hybrid import FULL, SLIDING, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Tensor

PLACEHOLDERS: Final = 3
"""Of pictures, videos and sound, each looked for whatever towers there are."""


def read(k: Keys) -> Model:
    """Build the model that ``Gemma4ForCausalLM`` builds, or ``Gemma4ForConditionalGeneration`` with its towers.

    An assistant predicts further tokens of another model, which hands it the keys and values of all its layers.
    """
    kind = str(k.config.get("model_type", ""))
    unified = "unified" in kind
    if kind.endswith("assistant"):
        return _assistant(k, unified)
    if "text_config" not in k.config:
        return _text(k, "model", k.want("tie_word_embeddings", True), unified)
    tied = k.want("tie_word_embeddings", True)
    model = nested(k, "text_config", lambda text: _within(text, tied, unified))
    if model is None:
        k.need("text_config", dict)
        raise AssertionError
    D, sees = model.width, unified_vision if unified else vision
    towers = (
        *(nested(k, "vision_config", lambda inner: sees(inner, D)) or ()),
        *(nested(k, "audio_config", lambda inner: audio(inner, D, unified)) or ()),
    )
    k.skip("vision_soft_tokens_per_image", "audio_ms_per_token")
    *others, stack = model.stacks
    seeing = stack.but(stem=stack.stem.but(sought=PLACEHOLDERS))
    return model.but(extra=(*model.extra, *towers), stacks=(*others, seeing))


def _within(text: Keys, tied: bool, unified: bool) -> Model:
    text.skip("tie_word_embeddings")
    return _text(text, "model.language_model", tied, unified)


def _assistant(k: Keys, unified: bool) -> Model:
    """A language model without keys and values between two projections, and centroids where its table is ordered."""
    tied, outer = k.want("tie_word_embeddings", True), k.size("backbone_hidden_size", 3840 if unified else 1536)
    model = nested(k, "text_config", lambda text: _handed(text, tied, unified))
    if model is None:
        k.need("text_config", dict)
        raise AssertionError
    width, other = ("D", model.width), ("R", outer)
    extra: list[Tensor] = [
        *Linear("pre_projection", (("X", 2), other), (width,), "embedding").weights(),
        *Linear("post_projection", (width,), (other,), "head").weights(),
    ]
    if k.want("use_ordered_embeddings", False):
        centroids = ("X", k.size("num_centroids", 2048))
        extra += Linear("masked_embedding.centroids", (width,), (centroids,), "head").weights()
        order = Tensor("masked_embedding.token_ordering", (("V", model.vocabulary),), "buffer", dtype="int64")
        extra.append(order)
    k.skip("num_centroids", "centroid_intermediate_top_k")
    return model.but(extra=(*model.extra, *extra))


def _handed(text: Keys, tied: bool, unified: bool) -> Model:
    text.skip("tie_word_embeddings", "model_type")
    L = text.need("num_hidden_layers")
    shared = text.want("num_kv_shared_layers", 0) or L
    if shared != L:
        raise ConfigError(
            f"text_config.num_kv_shared_layers = {shared}: all {L} layers of an assistant reuse keys and values",
            key="text_config.num_kv_shared_layers",
            value=shared,
        )
    if not unified:
        text.refuse("enable_moe_block")
        text.refuse("use_double_wide_mlp")
        if R := text.want("hidden_size_per_layer_input", 256):
            key = "text_config.hidden_size_per_layer_input"
            raise ConfigError(f"{key} = {R}: an assistant has no embeddings of every layer", key=key, value=R)
    return _text(text, "model", tied, unified, handed=True)


def _text(k: Keys, path: str, tied: bool, unified: bool, *, handed: bool = False) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    bias, window = k.want("attention_bias", False), window_of(k, 1024 if unified else 512)
    act, F = k.want("hidden_activation", "gelu_pytorch_tanh"), k.need("intermediate_size")
    R = 0 if unified else k.want("hidden_size_per_layer_input", 256)
    V = k.size("vocab_size_per_layer_input", 262144) if R else 0
    k.skip("vocab_size_per_layer_input")
    keys_only, wide = k.want("attention_k_eq_v", False), k.want("use_double_wide_mlp", False)
    kinds = layer_kinds(k, L, lambda i: SLIDING if (i + 1) % 6 else FULL, (FULL, SLIDING))
    # The last layer always sees everything.
    kinds = (*kinds[:-1], FULL)
    k.refuse("use_bidirectional_attention", "vision")
    dropout = k.want("attention_dropout", 0.0)
    k.skip("hidden_act")
    N, sizes = _heads(k, kinds, keys_only)
    experts = None if unified else _experts(k, D, act)
    scalar = Tensor("layer_scalar", (("X", 1),), "buffer")

    def norm(name: str) -> Norm:
        return Norm(name, (("D", D),), STYLE)

    def channel(F: int) -> Sublayer:
        mlp, before = Gated(name="mlp", D=D, F=F, act=act), norm("pre_feedforward_layernorm")
        after = norm("post_feedforward_layernorm")
        if experts is None:
            return Sublayer(block=mlp, before=before, after=after)
        behind, routed, back = (
            norm(f"{name}_feedforward_layernorm_{i}") for name, i in (("post", 1), ("pre", 2), ("post", 2))
        )
        beside = ExpertsBeside(
            what="experts beside a feed-forward block",
            parts=(before, mlp, experts, behind, routed, back),
            before=before,
            dense=mlp,
            experts=experts,
            norms=(behind, routed, back),
        )
        return Sublayer(block=beside, after=after)

    @cache
    def layer(kind: str, size: tuple[int, int], reuses: bool, stores: bool) -> Layer:
        sees, no_values = window if kind == SLIDING else None, keys_only and kind == FULL
        K, H = size
        inner = GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, window=sees, rotary=kind, dropout=dropout)
        attention = sharing_attention(inner, reuses=reuses, no_values=no_values, stores=stores)
        return Layer(
            sublayers=(
                Sublayer(block=attention, before=norm("input_layernorm"), after=norm("post_attention_layernorm")),
                channel(2 * F if wide and reuses else F),
                *((Sublayer(block=layer_input(D, R, act)),) if R else ()),
            ),
            scalar=scalar,
            kind=("full" if kind == FULL else "sliding") + (" layer that reuses a cache" if reuses else " layer"),
        )

    shared = (True,) * L if handed else reusing(k, kinds, 0)
    stores = (False,) * L if handed else storing(kinds, shared)
    widths = {kind: size[1] for kind, size in zip(reversed(kinds), reversed(sizes), strict=True)}
    model = causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, kinds, sizes, shared, stores)),
        norm=norm(f"{path}.norm"),
        rotary=rotaries(path, widths),
        tied=tied,
        positions=k.size("max_position_embeddings", 262144 if unified else 131072),
        path=path,
        scaled=True,
        capped=k.optional("final_logit_softcapping", float) is not None,
        buffers=(embed_scale(path),),
        masks=(None, window),
    )
    if not R:
        return model
    rows = layer_embeddings(path, V, D, R, L)
    stack = model.decoder.but(stem=model.decoder.stem.but(inner=rows))
    return model.but(extra=tuple(rows.weights()), stacks=(stack,))


def _heads(k: Keys, kinds: tuple[str, ...], keys_only: bool) -> tuple[int, list[tuple[int, int]]]:
    """Query heads, and for every layer its key/value heads and their width.

    ``per_layer_config`` tells what differs by layer; without it ``global_head_dim`` and ``num_global_key_value_heads``
    are those of full layers.
    """
    N, K = heads(k, 4)
    H = k.size("head_dim", 256)
    wide, few = k.size("global_head_dim", 512), k.optional("num_global_key_value_heads")
    if k.config.get("per_layer_config") is None:
        k.skip("per_layer_config")
        full = (few if few is not None and keys_only else K, wide)
        return N, [full if kind == FULL else (K, H) for kind in kinds]
    told = nested(k, "per_layer_config", lambda inner: _told(inner, len(kinds), K, H)) or {}
    return N, [told.get(i, (K, H)) for i in range(len(kinds))]


def _told(k: Keys, layers: int, K: int, H: int) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for key in k.config:
        if not str(key).isdigit() or int(key) >= layers:
            raise ConfigError(f"{k.path}{key} is not one of the {layers} layers", key=f"{k.path}{key}", value=key)
        size = nested(k, key, lambda own: (own.size("num_key_value_heads", K), own.size("head_dim", H)))
        found[int(key)] = size or (K, H)
    return found


def _experts(k: Keys, D: int, act: str) -> Experts | None:
    """Experts that run beside the feed-forward block."""
    if not k.want("enable_moe_block", False):
        k.skip("num_experts", "top_k_experts", "moe_intermediate_size")
        return None
    E, F = k.need("num_experts"), k.need("moe_intermediate_size")
    used = k.optional("top_k_experts")
    if used is not None and not 0 < used <= E:
        raise ConfigError(f"top_k_experts = {used} of {E} experts", key="top_k_experts", value=used, file=k.file)
    scales = (
        Tensor("router.scale", (("D", D),), "router"),
        Tensor("router.per_expert_scale", (("Er", E),), "router"),
    )
    return Experts(
        name="", D=D, E=E, used=used, F=F, act=act, routing="softmax-scaled", router="router.proj", scales=scales
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma4/modeling_gemma4.py",
)
