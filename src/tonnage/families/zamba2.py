"""Zamba 2: Mamba 2 mixers, and blocks of attention and feed-forward that layers share, with adapters of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._decoder import every
from tonnage.families._hybrid import HYBRID, LINEAR, again, layer_kinds, wide_attention, zamba_layers
from tonnage.keys import Keys
from tonnage.tensors import Axes

HYBRIDS: Final = (6, 12, 18, 24, 30, 36, 42, 47, 51)
"""Hybrid layers of a model of 54 layers."""

PATH: Final = "shared_transformer"


def read(k: Keys) -> Model:
    """Build the model that ``Zamba2ForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.size("num_hidden_layers", 54)
    if k.config.get("layers_block_type") is None and L != 54:
        k.need("layers_block_type", list)
    kinds = layer_kinds(k, L, lambda i: HYBRID if i in HYBRIDS else LINEAR, (LINEAR, HYBRID), key="layers_block_type")
    hybrids = [i for i, kind in enumerate(kinds) if kind == HYBRID]
    different = every(k, "num_mem_blocks", 1)
    k.skip("num_logits_to_keep", "use_mamba_kernels", "use_mem_eff_path", "hybrid_layer_ids", "kv_channels")
    k.skip("time_step_min", "time_step_max", "time_step_floor", "num_query_groups", "attention_hidden_size")
    k.skip("attention_head_dim", "mamba_headdim", "ffn_hidden_size")
    own = [_shared(k, D, which, len(hybrids), different) for which in range(different)]
    later = own
    # Transformers ties the shared blocks only where it ties the head.
    if k.want("tie_word_embeddings", True):
        later = [again(block, f"model.layers.{layer}.") for block, layer in zip(own, hybrids, strict=False)]
    blocks = [own[i] if i < different else later[i % different] for i in range(len(hybrids))]
    N = k.need("num_attention_heads")
    H = k.divides("2 x hidden_size", "num_attention_heads", 2 * D, N)
    positions = k.size("max_position_embeddings", 4096)
    long = k.want("use_long_context", False)
    model = decoder(
        k,
        D,
        zamba_layers(D, kinds, _mixer(k, D), blocks),
        width=H,
        positions=4096,
        tied=True,
        norm="final_layernorm",
        rotary=(Rotary("model.rotary_emb", H),) if k.want("use_mem_rope", False) else (),
    )
    return model.but(positions=16384 if long else positions)


def _mixer(k: Keys, D: int) -> Mamba2:
    N = k.size("n_mamba_heads", 8)
    inner = k.size("mamba_expand", 2) * D
    mixer = Mamba2(
        name="mamba",
        D=D,
        N=N,
        H=k.divides("mamba_expand x hidden_size", "n_mamba_heads", inner, N),
        G=k.size("mamba_ngroups", 1),
        Z=k.size("mamba_d_state", 64),
        C=k.size("mamba_d_conv", 4),
        chunk=k.size("chunk_size", 256),
        bias=k.want("add_bias_linear", False),
    )
    # Transformers' class always has the bias of the convolution.
    k.skip("use_conv_bias")
    return mixer


def _shared(k: Keys, D: int, which: int, hybrids: int, different: int) -> tuple[Part, ...]:
    """One of the shared blocks, with an adapter for each layer that runs it."""
    F, R = k.optional("intermediate_size") or 4 * D, k.size("adapter_rank", 128)
    bias = k.want("add_bias_linear", False)
    attention = wide_attention(k, f"{PATH}.self_attn", D, None, 2 * D)
    mlp = Gated(
        name=f"{PATH}.feed_forward", D=D, F=F, act=k.want("hidden_act", "gelu"), fused="gate_up_proj", bias=bias
    )
    adapts = k.want("use_shared_attention_adapter", False)

    def adapters() -> Iterator[Linear]:
        for index in range(which, hybrids, different):
            both: Axes = (("X", 2), ("F", F))
            yield from _adapter(f"{PATH}.feed_forward.gate_up_proj_adapter_list.{index}", D, R, both)
            for part in "qkv" if adapts else "":
                path = f"{PATH}.self_attn.linear_{part}_adapter_list.{index}"
                yield from _adapter(path, 2 * D, R, (("D", 2 * D),))

    return (
        *attention,
        mlp,
        *adapters(),
        Norm(f"{PATH}.input_layernorm", (("D", 2 * D),)),
        Norm(f"{PATH}.pre_ff_layernorm", (("D", D),)),
    )


def _adapter(path: str, D: int, R: int, out: Axes) -> Iterator[Linear]:
    role: Final = "feed_forward" if "feed_forward" in path else "attention"
    yield Linear(f"{path}.0", (("D", D),), (("R", R),), role)
    yield Linear(f"{path}.1", (("R", R),), out, role)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/zamba2/modeling_zamba2.py",
)
