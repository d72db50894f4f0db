"""What decoder-only families share: windows of the layers, turned width of a head, the model around its layers."""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch.attention import Latent
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.keys import Keys
from tonnage.tensors import Tensor

Windows = tuple[int | None, ...]


def windows(k: Keys, layers: int, window: int | None, sliding: Callable[[int], bool]) -> Windows:
    """Window of every layer: as ``layer_types`` says, else for the layers that ``sliding`` tells.

    transformers caches ``min(tokens, window)`` of them in a layer that slides.
    """
    kinds = k.texts("layer_types", layers)
    if kinds is None:
        return tuple(window if window is not None and sliding(i) else None for i in range(layers))
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise UnsupportedError(
                f"{k.path}layer_types: {kind!r} is not modelled in this family", key=f"{k.path}layer_types", value=kind
            )
        if kind == "sliding_attention" and window is None:
            raise ConfigError(
                f"{k.path}layer_types has sliding layers but there is no sliding_window", key=f"{k.path}sliding_window"
            )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def heads(k: Keys, default: int | None = None, queries: int | None = None) -> tuple[int, int]:
    """Query heads, which every released config states but where ``queries`` is given, and the heads that they share."""
    N = k.need("num_attention_heads") if queries is None else k.want("num_attention_heads", queries)
    K = k.optional("num_key_value_heads", int, default) or N
    k.divides("num_attention_heads", "num_key_value_heads", N, _positive(k, "num_key_value_heads", K))
    return N, K


def window_of(k: Keys, default: int | None = None) -> int | None:
    """``sliding_window``: tokens that a query sees in a layer that slides, itself included."""
    tokens = k.optional("sliding_window", int, default)
    return None if tokens is None else _positive(k, "sliding_window", tokens)


def used_window(k: Keys, default: int | None = 4096) -> int | None:
    """``sliding_window``, where ``use_sliding_window`` turns it on (Qwen, SmolLM3)."""
    if k.want("use_sliding_window", False):
        return window_of(k, default)
    k.skip("sliding_window")
    return None


def every(k: Keys, key: str, default: int) -> int:
    """A key that says which of the layers, counted from one, are of another kind."""
    return _positive(k, key, k.want(key, default))


def chosen(k: Keys, experts: int, default: int | None) -> int | None:
    """``num_experts_per_tok``: routed experts that a token uses."""
    used = k.optional("num_experts_per_tok", int, default)
    if used is not None and not 0 < used <= experts:
        raise ConfigError(
            f"{k.path}num_experts_per_tok = {used} of {experts} experts", key=f"{k.path}num_experts_per_tok", value=used
        )
    return used


def _positive(k: Keys, key: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{k.path}{key} = {value} is not a sensible size", key=k.path + key, value=value, file=k.file)
    return value


def sparse(k: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: every ``decoder_sparse_step``-th, but for those in ``mlp_only_layers`` (Qwen)."""
    step = every(k, "decoder_sparse_step", 1)
    dense = set(k.optional("mlp_only_layers", list) or ())
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(layers))


def rotary_width(k: Keys, H: int, factor: float = 1.0) -> int:
    """Elements of a head of ``H`` that are turned: ``int(H * partial_rotary_factor)``.

    The factor stands beside the other keys or among those of the rotary embedding, which win.
    """
    factor = k.want("partial_rotary_factor", factor)
    for key in ("rope_parameters", "rope_scaling"):
        inner = k.inner(key)
        if inner is not None:
            factor = inner.want("partial_rotary_factor", factor)
    if not 0 < int(H * factor) <= H:
        raise ConfigError(
            f"{k.path}partial_rotary_factor = {factor} turns {int(H * factor)} elements of a head of {H}",
            key=f"{k.path}partial_rotary_factor",
            value=factor,
        )
    return int(H * factor)


def latent(
    k: Keys,
    D: int,
    *,
    style: str,
    q_rank: int = 1536,
    kv_rank: int = 512,
    nope: int = 128,
    rope: int = 64,
    VH: int = 128,
) -> Latent:
    """Latent attention as DeepSeek's configs describe it; ``style`` is how queries and keys are turned.

    The other arguments are transformers' defaults.
    """
    N = k.need("num_attention_heads")
    heads = k.optional("num_key_value_heads") or N
    if heads != N:
        raise ConfigError(
            f"num_key_value_heads = {heads}: latent attention has a key for each of its {N} heads",
            key="num_key_value_heads",
            value=heads,
        )
    k.skip("head_dim", "qk_head_dim")
    return Latent(
        name="self_attn",
        D=D,
        N=N,
        q_rank=k.optional("q_lora_rank", int, q_rank),
        kv_rank=k.want("kv_lora_rank", kv_rank),
        nope=k.want("qk_nope_head_dim", nope),
        rope=k.want("qk_rope_head_dim", rope),
        VH=k.want("v_head_dim", VH),
        bias=k.want("attention_bias", False),
        dropout=k.want("attention_dropout", 0.0),
        rotary_style=style,
    )


def causal(
    k: Keys,
    *,
    V: int,
    D: int,
    layers: tuple[Layer, ...],
    norm: Norm,
    rotary: tuple[Rotary, ...],
    tied: bool,
    positions: int,
    path: str = "model",
    scaled: bool = False,
    head_scaled: bool = False,
    head_bias: bool = False,
    capped: bool = False,
    eager_only: bool = False,
    dropout: float = 0.0,
    buffers: tuple[Tensor, ...] = (),
    masks: Windows = (),
    apart: tuple[Tensor, ...] = (),
    normed: Norm | None = None,
    masked: bool = False,
) -> Model:
    """Embedding, layers, last norm and head as ``...ForCausalLM`` names them.

    Args:
        k: the config, for its model type.
        V: rows of the vocabulary.
        D: residual width.
        layers: identical layers are one object.
        norm: behind the last layer.
        rotary: tables of rotation angles.
        tied: the head is the embedding.
        positions: the trained length.
        path: of the bare model.
        scaled: the embedding is multiplied by a number.
        head_scaled: the logits are.
        head_bias: the head has a bias.
        capped: the logits go through a tanh.
        eager_only: transformers has no other attention for it.
        dropout: of the embedding.
        buffers: beside the embedding.
        masks: windows for which the model makes a mask whether or not a layer has them.
        apart: stored with the model but not built.
        normed: of the embedding.
        masked: attention is handed a mask even where its kernel could do without.
    """
    table = f"{path}.embed_tokens"
    stem = Stem(
        name=table, V=V, D=D, rotary=rotary, scaled=scaled, dropout=dropout, buffers=buffers, norm=normed,
        masked=masked,
    )  # fmt: skip
    return Model(
        model_type=str(k.config.get("model_type", "")),
        stacks=(Stack(name="decoder", path=f"{path}.layers", stem=stem, layers=layers, norm=norm, masks=masks),),
        head=Head(
            name="lm_head",
            D=D,
            V=V,
            bias=head_bias,
            alias_of=f"{table}.weight" if tied else None,
            scaled=head_scaled,
            capped=capped,
        ),
        positions=positions,
        eager_only=eager_only,
        apart=apart,
    )


def embed_scale(path: str, dtype: str | None = None) -> Tensor:
    """The number that Gemma's embedding is multiplied by: a buffer."""
    return Tensor(f"{path}.embed_tokens.embed_scale", (), "buffer", dtype=dtype)
