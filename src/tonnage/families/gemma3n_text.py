"""Gemma 3n: several residual streams, a low-rank residual, embeddings of every layer, shared keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from tonnage.arch.altup import AltUp, AltUpLayer, Laurel, SparselyGated
from tonnage.arch.altup_ends import AltUpNorm, AltUpStem
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, embed_scale, heads, window_of
from tonnage.families._gemma import (
    STYLE,
    layer_embeddings,
    layer_input,
    reusing,
    rotaries,
    sharing_attention,
    storing,
)
from tonnage.families._hybrid import FULL, SLIDING, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SPARSE: Final = 10
"""Layers, from the first on, that let few gates through where the config says nothing, if there are more."""
STEM: Final = ("name", "V", "D", "rotary", "scaled", "buffers")
"""Of the usual embedding, what this one has as well."""


def read(k: Keys) -> Model:
    """Build the model that ``Gemma3nForCausalLM`` builds."""
    D, L, H = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("head_dim", 256)
    N, K = heads(k, 2, 8)
    bias, window = k.want("attention_bias", False), window_of(k, 512)
    act, R = k.want("hidden_activation", "gelu_pytorch_tanh"), k.size("hidden_size_per_layer_input", 256)
    kinds = layer_kinds(k, L, lambda i: SLIDING if (i + 1) % 5 else FULL, (FULL, SLIDING))
    dropout, sparse = k.want("attention_dropout", 0.0), _sparse(k, L)
    k.skip("altup_active_idx", "altup_coef_clip", "query_pre_attn_scalar", "rope_local_base_freq", "hidden_act")
    k.refuse("use_bidirectional_attention")
    M = k.size("altup_num_inputs", 4)
    altup = AltUp(D=D, M=M, scales=k.want("altup_correct_scale", True))
    laurel = Laurel(D=D, R=k.size("laurel_rank", 64))

    def norm(name: str) -> Norm:
        return Norm(name, (("D", D),), STYLE)

    @cache
    def layer(kind: str, reuses: bool, stores: bool, F: int, cuts: bool) -> Layer:
        sees = window if kind == SLIDING else None
        mlp = SparselyGated(name="mlp", D=D, F=F, act=act, sparse=cuts)
        inner = GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=bias, window=sees, rotary=kind, dropout=dropout)
        return AltUpLayer(
            sublayers=(
                Sublayer(
                    block=sharing_attention(inner, reuses=reuses, keys_first=True, stores=stores),
                    before=norm("input_layernorm"),
                    after=norm("post_attention_layernorm"),
                ),
                Sublayer(block=mlp, before=norm("pre_feedforward_layernorm"), after=norm("post_feedforward_layernorm")),
                Sublayer(block=layer_input(D, R, act)),
            ),
            altup=altup,
            laurel=laurel,
            kind=("full" if kind == FULL else "sliding") + (" layer that reuses a cache" if reuses else " layer"),
        )

    V = k.size("vocab_size_per_layer_input", 262144)
    shared = reusing(k, kinds, 15)
    model = causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(map(layer, kinds, shared, storing(kinds, shared), _widths(k, L), sparse)),
        norm=norm("model.norm"),
        rotary=rotaries("model", dict.fromkeys(kinds, H)),
        tied=k.want("tie_word_embeddings", True),
        positions=k.size("max_position_embeddings", 32768),
        scaled=True,
        capped=k.optional("final_logit_softcapping", float, 30.0) is not None,
        buffers=(embed_scale("model"), *_scales()),
        masks=(None, window),
    )
    rows = layer_embeddings("model", V, D, R, L).but(bounded=True)
    paths = [tuple(f"model.altup_{name}projections.{i}" for i in range(M - 1)) for name in ("", "unembed_")]
    stem = AltUpStem(**{name: getattr(model.decoder.stem, name) for name in STEM}, inner=rows, further=paths[0])
    stack = model.decoder.but(stem=stem, norm=AltUpNorm(D=D, further=paths[1], norm=norm("model.norm")))
    return model.but(extra=(*rows.weights(), *_streams(M, D)), stacks=(stack,))


def _sparse(k: Keys, layers: int) -> list[bool]:
    """In which layers few gates are let through."""
    given = k.config.get("activation_sparsity_pattern")
    if isinstance(given, list):
        pattern = k.need("activation_sparsity_pattern", list)
        if len(pattern) != layers:
            raise ConfigError(
                f"activation_sparsity_pattern must be {layers} shares", key="activation_sparsity_pattern",
                value=len(pattern), file=k.file,
            )  # fmt: skip
        return [share > 0 for share in pattern]
    if given is not None:
        key = "activation_sparsity_pattern"
        raise ConfigError(f"{key} must be a share for each of {layers} layers", key=key, value=given, file=k.file)
    k.skip("activation_sparsity_pattern")
    return [i < SPARSE < layers for i in range(layers)]


def _widths(k: Keys, layers: int) -> list[int]:
    """Inner widths of the layers: one for all or a list."""
    if not isinstance(k.config.get("intermediate_size"), list):
        return [k.size("intermediate_size", 16384)] * layers
    widths = k.need("intermediate_size", list)
    if len(widths) != layers or not all(isinstance(F, int) and F > 0 for F in widths):
        raise ConfigError(
            f"intermediate_size must be {layers} widths", key="intermediate_size", value=len(widths), file=k.file
        )
    return list(widths)


def _streams(n: int, D: int) -> Iterator[Tensor]:
    """To the further streams before the first layer, and back behind the last."""
    for index in range(n - 1):
        for name in ("altup_projections", "altup_unembed_projections"):
            yield from Linear(f"model.{name}.{index}", (("D", D),), (("D", D),), "embedding").weights()


def _scales() -> tuple[Tensor, ...]:
    return tuple(
        Tensor(f"model.{name}", (), "buffer") for name in ("per_layer_projection_scale", "per_layer_input_scale")
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gemma3n/modeling_gemma3n.py",
)
