"""Qwen4-Exp: gated delta nets, attention over chosen blocks, experts, several streams, embeddings of word groups."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import isqrt
from typing import Any, Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import IndexKeys
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Kept, Loose, Part, Parts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._composite import read_inner
from tonnage.families._decoder import chosen, rotary_width
from tonnage.families._hybrid import (
    FULL,
    LINEAR,
    every_fourth,
    gated_attention,
    gated_delta,
    layer_kinds,
    whole_numbers,
)
from tonnage.families._pieces import matrix
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

INDEXED: Final = "indexed_attention"
TEXT: Final[dict[str, Any]] = {
    "vocab_size": 248320,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
}


def read(k: Keys) -> Model:
    """Build the model that ``Qwen4ExpForCausalLM`` builds: text alone."""
    if k.config["model_type"] == "qwen4_exp_text":
        return _text(k, "model")
    k.skip("vision_config", "tie_word_embeddings")
    return read_inner(k, "text_config", TEXT, lambda text: _text(text, "model"), less=("model_type",))


def read_with_vision(k: Keys) -> Model:
    """Build the model that ``Qwen4ExpForConditionalGeneration`` builds."""
    if k.config["model_type"] == "qwen4_exp_text":
        return _text(k, "model")
    path = "model.language_model"
    model = read_inner(k, "text_config", TEXT, lambda text: _text(text, path), less=("model_type",))
    _, tensors = seen(k, "model.visual", "qwen4_exp_vision", fixed=True)
    tied = k.want("tie_word_embeddings", False)
    assert model.head is not None
    head = model.head.but(alias_of=f"{path}.embed_tokens.weight" if tied else None)
    return model.but(model_type="qwen4_exp", head=head, extra=model.extra + tensors)


def _text(k: Keys, path: str) -> Model:
    D, L, M = k.need("hidden_size"), k.need("num_hidden_layers"), k.size("hc_count", 4)
    low, act = k.size("hc_lowrank", 320), k.want("hidden_act", "silu")
    default = every_fourth(k)
    kinds = layer_kinds(k, L, lambda i: LINEAR if default(i) == LINEAR else INDEXED, (LINEAR, FULL, INDEXED))
    delta = gated_delta(k, D, "joined")
    attends = _indexed(k, D, kinds)
    experts = _experts(k, D, act)
    groups = _groups(k, D, M, kinds)
    k.skip("output_gate_type", "seed", "split_ngram_parts", "full_attention_interval", "intermediate_size")
    k.skip("attention_dropout", "head_dim", "mtp_num_hidden_layers", "number_of_conv_states")

    @cache
    def layer(kind: str, place: int | None) -> Layer:
        words = () if place is None else groups[place]
        token = (delta if attends is None or kind == LINEAR else attends, *words)
        attention = (*token, *_mixed("attn_hyper_connection", D, M, low))
        channel = (experts, *_mixed("mlp_hyper_connection", D, M, low))
        name = "delta net" if kind == LINEAR else "attention over blocks"
        return Layer(
            sublayers=(
                Sublayer(block=Parts(what="attention of several streams", parts=attention)),
                Sublayer(block=Parts(what="experts of several streams", parts=channel)),
            ),
            kind=f"{name} with embeddings of word groups" if words else name,
        )

    places = {index: place for place, index in enumerate(_places(k, L, kinds))}
    model = decoder(
        k,
        D,
        tuple(layer(LINEAR if kind == LINEAR else INDEXED, places.get(i)) for i, kind in enumerate(kinds)),
        width=rotary_width(k, k.size("head_dim", 256)),
        positions=32768,
        path=path,
    )
    (stack,) = model.stacks
    last = tuple(t for part in _mixed(f"{path}.hyper_connection_mixer", D, M, low, joins=False) for t in part.weights())
    # The streams are joined behind the last layer, and nothing is normed after that.
    return model.but(stacks=(stack.but(norm=None),), extra=last)


def _indexed(k: Keys, D: int, kinds: tuple[str, ...]) -> Parts | None:
    """Gated attention beside what chooses the blocks that it sees, where a layer has it."""
    if set(kinds) == {LINEAR}:
        k.skip("num_attention_heads", "num_key_value_heads", "attention_bias", "indexer_n_heads", "indexer_kv_heads")
        k.skip("indexer_head_dim", "indexer_budget", "indexer_compress_ratio")
        return None
    full = gated_attention(k, D, K=2, H=256)
    N, K, H = k.need("indexer_n_heads"), k.need("indexer_kv_heads"), k.need("indexer_head_dim")
    budget, joined = k.need("indexer_budget"), k.need("indexer_compress_ratio")
    k.divides("indexer_budget", "indexer_compress_ratio", budget, joined)
    if K != 1:
        raise ConfigError(f"{k.path}indexer_kv_heads must be 1", key=f"{k.path}indexer_kv_heads", value=K)
    path, head = "self_attn.indexer", (("H", H),)
    return full.but(
        parts=(
            *full.parts,
            Linear(f"{path}.index_qk_proj", (("D", D),), (("X", N + K), ("H", H)), "attention"),
            *(Norm(f"{path}.{x}_layernorm", head) for x in "qk"),
            IndexKeys(H),
        )
    )


def _experts(k: Keys, D: int, act: str) -> Experts:
    E = k.size("num_experts", 512)
    shared = k.size("shared_expert_intermediate_size", 512)
    k.skip("norm_topk_prob")
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 10),
        F=k.size("moe_intermediate_size", 512),
        act=act,
        shared=Gated(name="mlp.shared_expert", D=D, F=shared, act=act, role="shared_expert"),
        shared_gate="shared_expert_gate",
    )


def _mixed(name: str, D: int, M: int, low: int, *, joins: bool = True) -> tuple[Part, ...]:
    """What makes a block's input of ``M`` streams, and tells how its output goes back to them."""
    whole = (("X", M), ("D", D))
    parts: list[Part] = [
        Norm(f"{name}.hc_norm", whole),
        Linear(f"{name}.input_mix_weight_down", whole, (("R", low),), "attention"),
        Linear(f"{name}.input_mix_weight_up", (("R", low),), whole, "attention"),
    ]
    if joins:
        parts.append(Linear(f"{name}.block_inject_weight", whole, (("X", M),), "attention"))
    return tuple(parts)


def _places(k: Keys, layers: int, kinds: tuple[str, ...]) -> list[int]:
    """Layers with embeddings of word groups; the config counts from one."""
    stated = sorted(set(whole_numbers(k, "ple_layer_ids") or ()))
    for index in stated:
        if not 1 <= index <= layers or kinds[index - 1] != LINEAR:
            key = f"{k.path}ple_layer_ids"
            raise ConfigError(f"{key}: {index} is not a layer with a delta net", key=key, value=index)
    return [index - 1 for index in stated]


def _groups(k: Keys, D: int, M: int, kinds: tuple[str, ...]) -> list[tuple[Part, ...]]:
    """For each such layer its table of hashed word groups, what it makes of them and what it keeps.

    Every head of every table has a prime number of rows of its own.
    """
    places, width = _places(k, len(kinds), kinds), k.optional("ple_embed_dim") or D
    size, each, base = (
        k.size("ngram_size", 3),
        k.size("heads_per_ngram", 8),
        k.size("ngram_vocab_size_base", 20_000_000),
    )
    padded, C = k.size("make_ngram_vocab_size_divisible_by", 128), k.size("ple_conv_kernel_size", 4)
    heads = (size - 1) * each
    if not places:
        return []
    H = k.divides("ple_embed_dim", "the heads of all word groups", width, heads)
    primes = _primes(base)
    found: list[tuple[Part, ...]] = []
    for _ in places:
        rows = -(-sum(next(primes) for _ in range(heads)) // padded) * padded
        found.append(_group(D, M, width, rows, H, heads, size, C))
    return found


def _group(D: int, M: int, width: int, rows: int, H: int, heads: int, size: int, C: int) -> tuple[Part, ...]:
    path, whole, ins = "ple", (("X", M), ("D", D)), ("X", width)
    table = f"{path}.ple_embedding"
    return (
        Loose(
            (
                Tensor(f"{table}.ngram_embedding.weight", (("V", rows), ("H", H)), "embedding"),
                Tensor(f"{table}.layer_multipliers", (("X", size),), "buffer", dtype="int64"),
                Tensor(f"{table}.ngram_heads_vocab_sizes", (("X", heads),), "buffer", dtype="int64"),
                Tensor(f"{table}.ngram_heads_offsets", (("X", heads),), "buffer", dtype="int64"),
                Tensor(f"{path}.conv1d.weight", (("X", M * D), ("X", 1), ("C", C)), "mixer"),
            )
        ),
        Linear(f"{path}.key_proj", (ins,), whole, "mixer"),
        matrix(f"{path}.value_proj", ins, ("D", D), "mixer", bias=False),
        *(Norm(f"{path}.norm_{name}", whole) for name in ("key", "query", "conv")),
        Kept(
            states=(
                ("word group convolution", (*whole, ("C", (C - 1) * size)), None),
                ("word group tokens", (("T", size - 1),), "int64"),
            )
        ),
    )


def _primes(start: int) -> Iterator[int]:
    """Prime numbers from ``start`` on."""
    value = start - 1
    while True:
        value += 1
        if value >= 2 and all(value % n for n in range(2, isqrt(value) + 1)):
            yield value


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen4_exp/"
    "modeling_qwen4_exp.py",
    attributes={"num_experts": "num_local_experts"},
    classes={"seq2seq": read_with_vision, "none": read_with_vision, "classify": read_with_vision},
)
