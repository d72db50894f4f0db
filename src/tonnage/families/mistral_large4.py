"""Mistral Large 4: sparse latent attention whose layers may share latents, experts, a tower as in Mistral 3."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.attention import Latent
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import Indexer
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Loose, Part, Parts
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._composite import read_inner
from tonnage.families._decoder import chosen, every
from tonnage.families._experts import routed, shared_expert, words
from tonnage.families._hybrid import whole_numbers
from tonnage.families._language import headed
from tonnage.families._merged import merged_tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 204800,
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 72,
    "num_attention_heads": 64,
}
PIXTRAL: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 30,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 1540,
}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build ``MistralLarge4ForConditionalGeneration``."""
    names = {"n_routed_experts": "num_local_experts"}
    model = read_inner(k, "text_config", TEXT, _text, aliases=names, less=("model_type",))
    extra = merged_tower(k, model.width, given=PIXTRAL).tensors
    return headed(model, k.want("tie_word_embeddings", False), extra=model.extra + extra, tells=True).but(
        model_type="mistral_large4", fp32=("rotary_emb", "mlp.gate.weight")
    )


def _text(k: Keys) -> Model:
    D, L, act = k.need("hidden_size"), k.need("num_hidden_layers"), k.want("hidden_act", "silu")
    k.skip("num_key_value_heads", "head_dim", "qk_head_dim", "final_logit_softcapping", "tie_word_embeddings")
    k.skip("n_group", "topk_group", "routed_scaling_factor", "index_topk")
    words(k, "layer_types", L, ("indexed_attention",))
    key = "n_routed_experts" if k.config.get("num_experts") is None else "num_experts"
    k.skip("n_routed_experts", "num_experts")
    E, F = k.size(key, 128), k.size("moe_intermediate_size", 6144)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=F,
        act=act,
        shared=shared_expert(D, F * k.want("n_shared_experts", 1), act),
    )
    dense, routes = gated(k, D), routed(k, L, k.want("first_k_dense_replace", 1))
    turned, sources, chooses = _turned(k, L), _sources(k, L), _choosing(k, L)
    latent = _latent(k, D)
    indexer = Indexer(
        name="self_attn.indexer", D=D, R=D, N=k.size("index_n_heads", 32), H=k.size("index_head_dim", 128)
    )

    @cache
    def layer(turns: bool, owns: bool, indexes: bool, routes: bool) -> Layer:
        channel: Gated | Untraced = Untraced(block=experts, what="Mistral Large 4's experts") if routes else dense
        token = _attention(latent, turns, owns, indexer if indexes else None)
        return normed_before(token, channel, D, kind="layer with experts" if routes else "dense layer")

    layers = tuple(layer(turned[i], sources[i] == i, chooses[i], routes[i]) for i in range(L))
    rotary = (Rotary(f"{PATH}.rotary_emb", latent.rope, buffers=("inv_freq", "original_inv_freq", "alpha")),)
    return decoder(k, D, layers, width=latent.rope, positions=1048576, path=PATH, rotary=rotary).but(head=None)


def _latent(k: Keys, D: int) -> Latent:
    return Latent(
        name="self_attn",
        D=D,
        N=k.need("num_attention_heads"),
        q_rank=None,
        kv_rank=k.size("kv_lora_rank", 512),
        nope=k.size("qk_nope_head_dim", 64),
        rope=k.size("qk_rope_head_dim", 64),
        VH=k.size("v_head_dim", 128),
        bias=k.want("attention_bias", False),
        dropout=k.want("attention_dropout", 0.0),
    )


def _attention(latent: Latent, turns: bool, owns: bool, indexer: Indexer | None) -> Parts:
    """Attention of a layer that turns queries and keys or not, and makes latents of its own or takes another's."""
    D, N = (("D", latent.D),), ("N", latent.N)
    if not turns:
        latent = latent.but(nope=latent.nope + latent.rope, rope=0)
    parts: list[Part] = [_scales("self_attn", latent.N)]
    if owns:
        parts.append(latent)
    else:
        ranks, heads = (("R", latent.kv_rank),), (N, ("H", latent.nope + latent.VH))
        parts += [
            Linear("self_attn.q_proj", D, (N, ("H", latent.nope + latent.rope)), "attention"),
            Linear("self_attn.kv_b_proj", ranks, heads, "attention"),
            Linear("self_attn.o_proj", (N, ("H", latent.VH)), D, "attention", latent.bias),
        ]
    if indexer is not None:
        parts += [
            indexer,
            Norm(f"{indexer.name}.q_input_norm", D, "layer", bias=True),
            _scales(indexer.name, indexer.N),
        ]
    return Parts(what="sparse attention that shares latents", parts=tuple(parts))


def _scales(path: str, heads: int) -> Loose:
    """A scale and a shift for every head."""
    return Loose(
        tuple(Tensor(f"{path}.softmax_scaling.{name}", (("N", heads),), "attention") for name in ("scale", "bias"))
    )


def _turned(k: Keys, layers: int) -> list[bool]:
    interval = every(k, "no_rope_layer_interval", 4)
    stated = whole_numbers(k, "no_rope_layers")
    found = [bool(n) for n in stated] if stated is not None else [(i + 1) % interval != 0 for i in range(layers)]
    return _as_many(k, "no_rope_layers", found, layers)


def _sources(k: Keys, layers: int) -> list[int]:
    """For every layer the one whose latents it sees."""
    stated = whole_numbers(k, "kv_source_layers")
    found = _as_many(k, "kv_source_layers", list(range(layers)) if stated is None else stated, layers)
    for i, source in enumerate(found):
        if not 0 <= source <= i or found[source] != source:
            name = f"{k.path}kv_source_layers"
            raise ConfigError(f"{name}: layer {i} cannot take the latents of layer {source}", key=name, value=source)
    return found


def _choosing(k: Keys, layers: int) -> list[bool]:
    """Which layers have an indexer of their own."""
    k.refuse("index_topk_pattern")
    often, after = max(k.want("index_topk_freq", 1), 1), k.want("index_skip_topk_offset", 2)
    stated = words(k, "indexer_types", layers, ("full", "shared"))
    if stated is not None:
        return [word == "full" for word in stated]
    return [max(i - after + 1, 0) % often == 0 for i in range(layers)]


def _as_many(k: Keys, key: str, values: list[Any], layers: int) -> list[Any]:
    if len(values) < layers:
        name = f"{k.path}{key}"
        raise ConfigError(f"{name} has {len(values)} entries for {layers} layers", key=name, value=len(values))
    return values


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mistral_large4/"
    "modeling_mistral_large4.py",
    attributes={"image_token_id": "image_token_index"},
)
