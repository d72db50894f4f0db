"""Granite 3 with experts: Granite's multipliers, a shared expert in granitemoeshared, sinks in granitemoe_swa."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads, window_of, windows
from tonnage.families._experts import stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GraniteMoeForCausalLM``, ``...SharedForCausalLM`` or ``...SWAForCausalLM`` builds.

    The multipliers are applied whatever their values, so those cannot change memory.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    bias, act, dropout = k.want("attention_bias", False), k.want("hidden_act", "silu"), k.want("attention_dropout", 0.0)
    kind = k.config.get("model_type")
    slides, norm = kind == "granitemoe_swa", (("D", D),)
    window = window_of(k, 128) if slides else None
    seen = windows(k, L, window, lambda i: i % 4 != 0) if slides else (None,) * L
    thetas = _thetas(k, L) if slides else [1.0] * L
    E = k.size("num_local_experts", 8)
    shared = k.want("shared_intermediate_size", 0) if kind != "granitemoe" else 0
    experts = Experts(
        name="block_sparse_moe",
        D=D,
        E=E,
        used=chosen(k, E, 2),
        F=k.need("intermediate_size"),
        act=act,
        routing="softmax-top-fp32",
        order="outside",
        router="router",
        shared=Gated(
            name="shared_mlp", D=D, F=shared, act=act, fused="input_linear", down="output_linear", role="shared_expert"
        )
        if shared
        else None,
    )

    def attention(what: tuple[int | None, float]) -> GroupedQuery | Untraced:
        window, theta = what
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K,
            H=H,
            bias=bias,
            o_bias=bias,
            window=window,
            rotary="default" if theta else None,
            sinks=slides,
            dropout=dropout,
        )
        return Untraced(block=plain, what="attention with sinks behind a sigmoid") if slides else plain

    tables = sorted({theta for theta in thetas if theta}) if slides else []
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            attention,
            tuple(zip(seen, thetas, strict=True)),
            experts,
            None,
            (True,) * L,
            lambda name: Norm(name, norm),
            scaled=True,
        ),
        norm=Norm("model.norm", norm),
        rotary=(
            Rotary("model.rotary_emb", H),
            *(Rotary(f"model.rotary_embs.{i}", H, f"theta {theta}") for i, theta in enumerate(tables)),
        ),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 2048),
        scaled=True,
        head_scaled=True,
        eager_only=slides,
        masks=(None, window) if window is not None else (),
    )


def _thetas(k: Keys, layers: int) -> list[float]:
    """Every layer's base of the rotary angles, none where it is zero; each has a table of its own."""
    stated = k.optional("layer_rope_theta", list)
    if stated is None:
        return [1.0] * layers
    if len(stated) != layers or not all(isinstance(theta, int | float) for theta in stated):
        key = f"{k.path}layer_rope_theta"
        raise ConfigError(f"{key} must be {layers} numbers", key=key, value=len(stated), file=k.file)
    return [float(theta) for theta in stated]


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granitemoe/modeling_granitemoe.py",
)
