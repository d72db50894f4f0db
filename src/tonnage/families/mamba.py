"""Mamba: selective state-space mixers and nothing else; no attention, no positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.recurrent import Mamba1
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MambaForCausalLM`` builds."""
    D, V = k.need("hidden_size"), k.need("vocab_size")
    expanded = int(k.want("expand", 2.0) * D)
    rank = k.config.get("time_step_rank", "auto")
    mixer = Mamba1(
        name="mixer",
        D=D,
        I=k.optional("intermediate_size") or expanded,
        Z=k.size("state_size", 16),
        C=k.size("conv_kernel", 4),
        R=-(-D // 16) if rank == "auto" and k.want("time_step_rank", "auto") else k.need("time_step_rank"),
        act=k.want("hidden_act", "silu"),
        bias=k.want("use_bias", False),
        conv_bias=k.want("use_conv_bias", True),
    )
    if k.config.get("model_type") == "falcon_mamba":
        mixer = mixer.but(inner_norms=True, fixed=True)
        k.skip("mixer_rms_eps", "use_falcon_mambapy")
    norm = (("D", D),)
    layer = Layer(
        sublayers=(Sublayer(block=mixer, before=Norm("norm", norm)),),
        wide=k.want("residual_in_fp32", True),
        kind="mamba",
    )
    tied = k.want("tie_word_embeddings", True)
    # Initial values, and the layout of the authors' own configs, which transformers does not read.
    k.skip("time_step_scale", "time_step_min", "time_step_max", "time_step_floor", "time_step_init_scheme")
    k.skip("rescale_prenorm_residual", "d_model", "d_inner", "n_layer", "ssm_cfg", "rms_norm", "fused_add_norm")
    k.skip("pad_vocab_size_multiple", "use_mambapy", "use_associative_scan")
    return Model(
        model_type=str(k.config["model_type"]),
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
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mamba/modeling_mamba.py",
)
