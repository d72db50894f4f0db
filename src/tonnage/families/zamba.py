"""Zamba: Mamba mixers, and one block of attention and feed-forward that several layers share."""

from __future__ import annotations

from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.mamba_heads import MambaHeads
from tonnage.arch.model import Layer, Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._decoder import every
from tonnage.families._hybrid import HYBRID, LINEAR, again, layer_kinds, wide_attention, zamba_layers
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ZambaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    period, offset = every(k, "attn_layer_period", 6), k.want("attn_layer_offset", 4)
    kinds = layer_kinds(
        k,
        L,
        lambda i: HYBRID if i == 2 or (i > 2 and (i - 3) % period == offset) else LINEAR,
        (LINEAR, HYBRID),
        key="layers_block_type",
    )
    k.skip("num_logits_to_keep", "use_mamba_kernels", "use_associative_scan")
    k.skip("time_step_min", "time_step_max", "time_step_floor")
    shared = _shared(k, D)
    first = kinds.index(HYBRID) if HYBRID in kinds else 0
    # Transformers ties the shared block only where it ties the head.
    tied = k.want("tie_word_embeddings", True)
    later = again(shared, f"model.layers.{first}.") if tied else shared
    blocks = [shared if i == first else later for i, kind in enumerate(kinds) if kind == HYBRID]
    layers: tuple[Layer, ...] = zamba_layers(D, kinds, _mixer(k, D), blocks)
    return decoder(k, D, layers, width=1, positions=4096, tied=True, norm="final_layernorm", rotary=())


def _mixer(k: Keys, D: int) -> MambaHeads:
    N = k.size("n_mamba_heads", 2)
    inner = k.size("mamba_expand", 2) * D
    rank = k.config.get("mamba_dt_rank", "auto")
    k.skip("hidden_mamba_act")
    return MambaHeads(
        name="mamba",
        D=D,
        N=N,
        H=k.divides("mamba_expand x hidden_size", "n_mamba_heads", inner, N),
        Z=k.size("mamba_d_state", 16),
        C=k.size("mamba_d_conv", 4),
        R=-(-D // 16) if rank == "auto" and k.want("mamba_dt_rank", "auto") else k.need("mamba_dt_rank"),
        bias=k.want("mamba_proj_bias", False),
        conv_bias=k.want("mamba_conv_bias", True),
    )


def _shared(k: Keys, D: int) -> tuple[Part, ...]:
    path = "shared_transf"
    wide = k.optional("attention_hidden_size") or 2 * D
    return (
        *wide_attention(k, f"{path}.self_attn", D, 16, wide, k.optional("attention_head_dim")),
        Gated(name=f"{path}.feed_forward", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "gelu")),
        Norm(f"{path}.input_layernorm", (("D", wide),)),
        Norm(f"{path}.pre_ff_layernorm", (("D", D),)),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/zamba/modeling_zamba.py",
)
