"""Mamba 2: state-space mixers of many heads; no attention, no positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Mamba2ForCausalLM`` builds."""
    D, V = k.need("hidden_size"), k.need("vocab_size")
    mixer = Mamba2(
        name="mixer",
        D=D,
        N=k.size("num_heads", 128),
        H=k.size("head_dim", 64),
        G=k.size("n_groups", 8),
        Z=k.size("state_size", 128),
        C=k.size("conv_kernel", 4),
        chunk=k.size("chunk_size", 256),
        act=k.want("hidden_act", "silu"),
        bias=k.want("use_bias", False),
        conv_bias=k.want("use_conv_bias", True),
    )
    expanded = k.want("expand", 2.0) * D
    if expanded != mixer.inner:
        raise ConfigError(
            f"num_heads x head_dim = {mixer.inner}, but expand x hidden_size = {expanded:g}",
            key="num_heads",
            value=mixer.N,
        )
    k.divides("num_heads", "n_groups", mixer.N, mixer.G)
    norm = (("D", D),)
    layer = Layer(
        sublayers=(Sublayer(block=mixer, before=Norm("norm", norm)),),
        wide=k.want("residual_in_fp32", True),
        kind="mamba",
    )
    tied = k.want("tie_word_embeddings", False)
    # Initial values, and keys of older configs that transformers does not read.
    k.skip("time_step_rank", "time_step_min", "time_step_max", "time_step_floor", "time_step_limit")
    k.skip("rescale_prenorm_residual", "intermediate_size", "norm_before_gate", "rms_norm")
    return Model(
        model_type="mamba2",
        stacks=(
            Stack(
                name="decoder",
                path="backbone.layers",
                stem=Stem(name="backbone.embeddings", V=V, D=D),
                layers=(layer,) * k.need("num_hidden_layers"),
                norm=Norm("backbone.norm_f", norm),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, alias_of="backbone.embeddings.weight" if tied else None, wide=True),
        positions=None,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mamba2/modeling_mamba2.py",
)
