"""MiniMax M3, the language model: blocks of tokens chosen by an indexer, clamped experts beside a shared one."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.indexed import BlockIndexer
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.sparse.chosen import ChosenBlocks
from tonnage.arch.stacks.stated import like
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import nested
from tonnage.families._decoder import causal, chosen, heads, rotary_width
from tonnage.families._experts import even, routed, shared_expert, stacked, words
from tonnage.families._hybrid import whole_numbers
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SPARSE: Final = "minimax_m3_sparse"


def read(k: Keys) -> Model:
    """Build the model that ``MiniMaxM3VLForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H, norm, head = k.size("head_dim", 128), (("D", D),), (("H", k.size("head_dim", 128)),)
    turned, act = even(rotary_width(k, H)), "silu"
    k.skip("hidden_act", "rotary_dim", "swiglu_alpha", "swiglu_limit", "routed_scaling_factor")
    # As the released config tells them.
    k.refuse("attention_output_gate")
    k.refuse("qk_norm_type", "per_head")
    k.refuse("scoring_func", "sigmoid")
    k.refuse("n_shared_experts", 1)
    k.skip("use_qk_norm", "use_gemma_norm", "use_routing_bias", "num_mtp_modules")
    plain = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        q_norm=Norm("self_attn.q_norm", head, "rms-gemma"),
        k_norm=Norm("self_attn.k_norm", head, "rms-gemma"),
        rotary_width=turned,
        norm_inline=True,
        rotary_style="rebound",
        dropout=k.want("attention_dropout", 0.0),
    )
    indexer, kinds = _sparse(k, D, L)
    sparse = like(ChosenBlocks, plain, indexer=indexer)
    F = k.size("dense_intermediate_size", 12288)
    dense = Gated(name="mlp", D=D, F=F, act=act, fused="gate_up_proj", clamp="sigmoid")
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda kind: plain if kind == "full_attention" else sparse,
            kinds,
            _experts(k, D, act),
            dense,
            _routes(k, L),
            lambda name: Norm(name, norm, "rms-gemma"),
        ),
        norm=Norm("model.norm", norm, "rms-gemma"),
        rotary=(Rotary("model.rotary_emb", turned),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 524288),
    )


def _experts(k: Keys, D: int, act: str) -> Experts:
    E = k.size("num_local_experts", 128)
    return Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=k.size("intermediate_size", 3072),
        act=act,
        routing="sigmoid-narrow",
        clamp="sigmoid",
        scaled=True,
        order="first",
        corrected=Tensor("mlp.gate.e_score_correction_bias", (("Er", E),), "buffer"),
        shared=shared_expert(D, k.size("shared_intermediate_size", 3072), act, fused="gate_up_proj").but(
            clamp="sigmoid"
        ),
    )


def _sparse(k: Keys, D: int, layers: int) -> tuple[BlockIndexer, list[str]]:
    """The indexer, and the kind of every layer."""
    found = BlockIndexer(
        "self_attn.indexer", D, k.size("index_n_heads", 4), k.size("index_head_dim", 128),
        k.size("index_block_size", 128), k.size("index_topk_blocks", 16), k.want("index_local_blocks", 1),
    )  # fmt: skip
    stated = words(k, "layer_types", layers, ("full_attention", SPARSE))
    found, often = nested(k, "sparse_attention_config", lambda inner: _released(inner, found)) or (found, None)
    kinds = stated or ["full_attention"] * layers
    if stated is None and often is not None:
        kinds = [SPARSE if flag else "full_attention" for flag in _every(k, "sparse_attention_freq", often, layers)]
    return found, kinds


def _released(k: Keys, found: BlockIndexer) -> tuple[BlockIndexer, list[int] | None]:
    """The indexer and the layers that have it, as the released config tells them."""
    k.skip("sparse_init_block", "sparse_score_type", "use_sparse_attention", "sparse_disable_index_value")
    often = whole_numbers(k, "sparse_attention_freq")
    told = found.but(
        N=k.size("sparse_num_index_heads", found.N),
        H=k.size("sparse_index_dim", found.H),
        block=k.size("sparse_block_size", found.block),
        top=k.size("sparse_topk_blocks", found.top),
        local=k.want("sparse_local_block", found.local),
    )
    return told, often


def _routes(k: Keys, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: all, but as ``mlp_layer_types`` or the released config's ``moe_layer_freq`` says."""
    often = whole_numbers(k, "moe_layer_freq")
    if often is None or k.config.get("mlp_layer_types") is not None:
        return routed(k, layers, 0)
    return tuple(map(bool, _every(k, "moe_layer_freq", often, layers)))


def _every(k: Keys, key: str, found: list[int], layers: int) -> list[int]:
    if len(found) != layers:
        raise ConfigError(
            f"{k.path}{key} has {len(found)} entries for {layers} layers",
            key=k.path + key,
            value=len(found),
            file=k.file,
        )
    return found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax_m3_vl/modeling_minimax_m3_vl.py",
    attributes={"num_local_experts": "num_experts"},
)
