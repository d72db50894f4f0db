"""dots3-note, the language model: gated latent attention, indexed or in a window, with sizes of its own a layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import Latent
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import Indexer
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal
from tonnage.families._experts import even, routed, scored, shared_expert, stacked, tables, words
from tonnage.keys import Keys

INDEXED: Final = "indexed_attention"
SLIDING: Final = "sliding_attention"
FULL: Final = "full_attention"

SIZES: Final = {
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1024,
    "kv_lora_rank": 512,
    "head_dim": 256,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
"""Sizes of attention that ``per_layer_config`` may override, and transformers' defaults."""

WINDOWED: Final = {
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "q_lora_rank": 1024,
    "kv_lora_rank": 1024,
    "head_dim": 256,
    "qk_nope_head_dim": 192,
    "v_head_dim": 128,
}
"""The same for layers with a window, where no layer overrides anything."""

Sizes = tuple[tuple[str, int], ...]


def read(k: Keys) -> Model:
    """Build the model that ``Dots3NoteForCausalLM`` builds of the text's own config."""
    return _text(k, k.want("tie_word_embeddings", False))


def _text(k: Keys, tied: bool) -> Model:
    D, L, act = k.size("hidden_size", 5120), k.size("num_hidden_layers", 46), k.want("hidden_act", "silu")
    norm, bias, dropout = (("D", D),), k.want("attention_bias", False), k.want("attention_dropout", 0.0)
    kinds = _kinds(k, L)
    window = k.optional("sliding_window") or k.want("sliding_window_size", 512)
    k.skip("sliding_window_size", "mlp_bias", "use_dsa", "use_sliding_window")
    F = k.size("moe_intermediate_size", 1536)
    wide = k.optional("moe_shared_expert_intermediate_size") or k.size("shared_experts_intermediate_size", 1536)
    k.skip("shared_experts_intermediate_size")
    experts = scored(k, D, act, experts=256, used=8, width=F).but(
        shared=shared_expert(D, wide * k.size("n_shared_experts", 1), act)
    )
    heads, width = k.size("index_n_heads", 64), k.size("index_head_dim", 128)
    k.skip("index_topk")

    def attention(what: tuple[str, Sizes]) -> Parts:
        kind, sizes = what[0], dict(what[1])
        N, rope = sizes["num_attention_heads"], sizes["qk_rope_head_dim"]
        if sizes["num_key_value_heads"] != N:
            key = f"{k.path}num_key_value_heads"
            value = sizes["num_key_value_heads"]
            raise ConfigError(f"{key} = {value}: latent attention has a key for each of its {N} heads", key=key)
        plain = Latent(
            name="self_attn",
            D=D,
            N=N,
            q_rank=sizes["q_lora_rank"],
            kv_rank=sizes["kv_lora_rank"],
            nope=sizes["qk_nope_head_dim"],
            rope=rope,
            VH=sizes["v_head_dim"],
            bias=bias,
            dropout=dropout,
            window=window if kind == SLIDING else None,
        )
        parts: list[Part] = [
            plain,
            Norm("self_attn.k_rope_only_layernorm", (("H", rope),)),
            Linear("self_attn.g_proj", (("D", D),), (("N", N),), "attention"),
        ]
        if kind == INDEXED:
            parts.append(Indexer("self_attn.indexer", D, sizes["q_lora_rank"], heads, width))
        return Parts(what="latent attention with a gate", parts=tuple(parts))

    seen = _seen(k, kinds)
    first = {kind: dict(seen[kinds.index(kind)][1])["qk_rope_head_dim"] for kind in set(kinds)}
    return causal(
        k,
        V=k.size("vocab_size", 152064),
        D=D,
        layers=stacked(
            attention,
            seen,
            experts,
            Gated(name="mlp", D=D, F=k.size("intermediate_size", 13824), act=act),
            routed(k, L, k.want("first_k_dense_replace", 1)),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=tables("model", {kind: even(rope) for kind, rope in first.items()}),
        tied=tied,
        positions=k.want("max_position_embeddings", 524288),
    )


def _kinds(k: Keys, layers: int) -> list[str]:
    """What the attention of every layer sees."""
    overridden = k.config.get("per_layer_config") is not None
    indexed = k.config.get("use_dsa", None if overridden else True)
    slides = k.config.get("use_sliding_window", True)
    k.refuse("moe_layer_freq", 1)
    stated = words(k, "layer_types", layers, (INDEXED, SLIDING, FULL))
    if stated is None:
        other = FULL if indexed is False else INDEXED
        stated = [other if not slides or i < 2 or i % 4 == 1 else SLIDING for i in range(layers)]
    if indexed is None:
        return stated
    old, new = (FULL, INDEXED) if indexed else (INDEXED, FULL)
    return [new if kind == old else kind for kind in stated]


def _seen(k: Keys, kinds: list[str]) -> list[tuple[str, Sizes]]:
    """Every layer's kind of attention and its sizes."""
    common = {key: k.size(key, size) for key, size in SIZES.items()}
    given = k.inner("per_layer_config")
    windowed = {key: k.size(f"swa_{key}", size) for key, size in WINDOWED.items()}
    rest = windowed["head_dim"] - windowed["qk_nope_head_dim"]
    windowed["qk_rope_head_dim"] = k.size("swa_qk_rope_head_dim", rest)
    layers = [dict(common) for _ in kinds]
    if given is None:
        for sizes, kind in zip(layers, kinds, strict=True):
            sizes.update(windowed if kind == SLIDING else {})
    for index in given.config if given is not None else ():
        one = given.inner(index) if given is not None else None
        if one is None or not index.isdigit() or int(index) >= len(layers):
            key = f"{k.path}per_layer_config"
            raise ConfigError(f"{key} names a layer that there is not: {index!r}", key=key, value=index, file=k.file)
        layers[int(index)].update({key: one.need(key) for key in SIZES if key in one.config})
        one.done()
    return [(kind, tuple(sizes.items())) for kind, sizes in zip(kinds, layers, strict=True)]


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/dots3_note/modeling_dots3_note.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
