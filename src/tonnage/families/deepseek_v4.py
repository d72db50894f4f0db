"""DeepSeek-V4: compressed attention, some experts chosen by a table of tokens, several residual streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from tonnage.arch.compressed import Compressed, Compressor
from tonnage.arch.experts import Experts
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.streams import JoinedNorm, Mixer, Streamed
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen
from tonnage.families._experts import even, shared_expert, words
from tonnage.families._streams import streams_joined
from tonnage.keys import Keys
from tonnage.tensors import Tensor

CSA: Final = "compressed_sparse_attention"
HCA: Final = "heavily_compressed_attention"
SLIDING: Final = "sliding_attention"
WIDE: Final = ("attn_hc", "ffn_hc", "hc_head", "sinks", "position_bias", "norm")
WIDE_FOR_FP16: Final = tuple(
    f"self_attn.compressor.{name}"
    for name in ("kv_proj", "gate_proj", "indexer.kv_proj", "indexer.gate_proj", "indexer.scorer.weights_proj")
)
RATIOS: Final = {0: SLIDING, 4: CSA, 128: HCA}


def read(k: Keys) -> Model:
    """Build the model that ``DeepseekV4ForCausalLM`` builds."""
    D, L, V = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("vocab_size")
    act, norm, M = k.want("hidden_act", "silu"), (("D", D),), k.size("hc_mult", 4)
    k.skip("hc_eps", "swiglu_limit", "norm_topk_prob", "routed_scaling_factor")
    k.refuse("scoring_func", "sqrtsoftplus")
    k.skip("n_shared_experts", "attention_bias", "topk_method", "expert_dtype")
    further = k.optional("num_nextn_predict_layers") or 0
    E, F = k.size("n_routed_experts", 256), k.size("moe_intermediate_size", 2048)
    bias, used = k.want("mlp_bias", False), chosen(k, E, 6)
    turns = k.size("hc_sinkhorn_iters", 20)
    mixers = Mixer("attn_hc", D, M, turns, "attention"), Mixer("ffn_hc", D, M, turns, "feed_forward")

    def experts(hashed: bool) -> Experts:
        table = Tensor("mlp.gate.tid2eid", (("V", V), ("X", used or 1)), "buffer", dtype="int64")
        return Experts(
            name="mlp",
            D=D,
            E=E,
            used=used,
            F=F,
            act=act,
            routing="softplus",
            clamp="act",
            correction=not hashed,
            corrected=table if hashed else None,
            shared=shared_expert(D, F, act, bias=bias).but(clamp="act"),
        )

    build, types = _attention(k, D), _types(k, L)
    kinds = words(k, "mlp_layer_types", L, ("hash_moe", "moe"))
    first = k.want("num_hash_layers", 3)
    hashed = [i < first for i in range(L)] if kinds is None else [t == "hash_moe" for t in kinds]
    several = {which: experts(which) for which in {*hashed, *([False] if further else [])}}

    @cache
    def layer(kind: str, hashed: bool) -> Layer:
        first, second = (Norm(f"{name}_layernorm", norm, "rms-fp32-weight") for name in ("input", "post_attention"))
        return Streamed(
            sublayers=(Sublayer(block=build(kind), before=first), Sublayer(block=several[hashed], before=second)),
            mixers=mixers,
            kind=f"{kind.replace('_', ' ')} layer" + (" with a table of experts" if hashed else ""),
        )

    model = causal(
        k,
        V=V,
        D=D,
        layers=tuple(map(layer, types, hashed)),
        norm=Norm("model.norm", norm, "rms-fp32-weight"),
        rotary=_tables(k, "model.rotary_emb", _turned(k)),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 1048576),
        eager_only=True,
    )
    apart = tuple(t for i in range(further) for t in _ahead(layer(SLIDING, False), i, D, M))
    return several_streams(model, "model.hc_head", M).but(fp32=WIDE, fp32_for_fp16=WIDE_FOR_FP16, apart=apart)


def several_streams(model: Model, name: str, M: int) -> Model:
    """The model with ``M`` residual streams, which what is called ``name`` joins."""
    stack = model.decoder
    assert isinstance(stack.norm, Norm)
    joined = stack.but(stem=stack.stem.but(streams=M), norm=JoinedNorm(name, stack.norm, M))
    return model.but(stacks=(joined,), extra=streams_joined(name, stack.stem.D, M))


def _ahead(layer: Layer, index: int, D: int, M: int) -> Iterator[Tensor]:
    """A layer that predicts a further token: it sees a window, has experts, and joins its own streams.

    A checkpoint stores it, transformers does not build it; embedding and head are the model's own. The stored sums of
    both sizes are met with it to the parameter.
    Reference: https://huggingface.co/deepseek-ai/DeepSeek-V4-Flash/blob/main/inference/model.py, ``MTPBlock``.
    """
    width = (("D", D),)
    own = [t for t in layer.weights() if t.role != "buffer"]
    for name in ("e_proj", "h_proj"):
        own += Linear(name, width, width, "feed_forward").weights()
    for name in ("enorm", "hnorm", "norm"):
        own += Norm(name, width).weights()
    for t in (*own, *streams_joined("hc_head", D, M)):
        yield t.placed(f"mtp.{index}.", index)


def _types(k: Keys, layers: int) -> list[str]:
    """What the attention of every layer sees, as ``layer_types`` or the first configs' ``compress_ratios`` tell."""
    ratios = k.optional("compress_ratios", list)
    stated = words(k, "layer_types", layers, (CSA, HCA, SLIDING))
    if stated is None and ratios is not None:
        unknown = [ratio for ratio in ratios if ratio not in RATIOS]
        if unknown or len(ratios) < layers:
            key = f"{k.path}compress_ratios"
            raise ConfigError(f"{key} must be one of {list(RATIOS)} a layer", key=key, value=ratios, file=k.file)
        return [RATIOS[ratio] for ratio in ratios[:layers]]
    return stated or [CSA if i >= 2 and i % 2 else HCA for i in range(layers)]


def _turned(k: Keys) -> dict[str, int]:
    """Elements of a head that are turned by either table."""
    H, legacy = k.size("head_dim", 512), k.optional("qk_rope_head_dim")
    k.skip("compress_rope_theta")
    factor = k.optional("partial_rotary_factor", float)
    if factor is None:
        factor = 0.125 if legacy is None else legacy / H
    given = k.inner("rope_parameters")
    apart = given is not None and all(isinstance(given.config.get(kind), dict) for kind in ("main", "compress"))
    widths = {}
    for kind in ("main", "compress"):
        one = given.inner(kind) if given is not None and apart else None
        widths[kind] = even(int(H * (factor if one is None else one.want("partial_rotary_factor", 1.0))))
    return widths


def _tables(k: Keys, name: str, widths: dict[str, int]) -> tuple[Rotary, ...]:
    return tuple(
        Rotary(name, width, kind, halves=1, buffers=(f"{kind}_inv_freq", f"{kind}_original_inv_freq"))
        for kind, width in widths.items()
    )


def _attention(k: Keys, D: int) -> Callable[[str], Compressed]:
    """What builds the attention of a kind of layer."""
    N, H, R, G = (
        k.need("num_attention_heads"),
        k.size("head_dim", 512),
        k.size("q_lora_rank", 1024),
        k.size("o_groups", 8),
    )
    k.divides("num_attention_heads", "o_groups", N, G)
    k.refuse("num_key_value_heads", 1)
    dropout, top = k.want("attention_dropout", 0.0), k.size("index_topk", 512)
    window, outer = k.size("sliding_window", 128), k.size("o_lora_rank", 1024)
    heads, index = k.size("index_n_heads", 64), k.size("index_head_dim", 128)
    widths = _turned(k)
    rates = {CSA: k.want("compress_rate_csa", 4), HCA: k.want("compress_rate_hca", 128)}
    given = k.inner("compress_rates")
    if given is not None:
        rates = {kind: given.need(kind) if kind in given.config else rate for kind, rate in rates.items()}
        given.done()

    @cache
    def build(kind: str) -> Compressed:
        plain = Compressed(name="self_attn", D=D, N=N, H=H, R=R, G=G, O=outer, window=window, dropout=dropout)
        if kind == SLIDING:
            return plain

        def compressor(name: str, H: int) -> Compressor:
            tables = _tables(k, f"{name}.rotary_emb", widths)
            return Compressor(name=name, D=D, H=H, rate=rates[kind], overlaps=kind == CSA, rotary=tables)

        whole = compressor("self_attn.compressor", H)
        chooses = compressor("self_attn.compressor.indexer", index) if kind == CSA else None
        return plain.but(compressor=whole, indexer=chooses, index_heads=heads, top=top)

    return build


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v4/modeling_deepseek_v4.py",
    attributes={"n_routed_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"},
)
