"""xLSTM: matrix memories and gated feed-forward blocks; no positions, no cache that grows."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.mixers.mlstm import MLstm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``xLSTMForCausalLM`` builds."""
    D = k.optional("hidden_size") or k.need("embedding_dim")
    L = k.optional("num_blocks") or k.need("num_hidden_layers")
    k.skip("embedding_dim", "num_hidden_layers", "add_out_norm")
    V, N, bias = k.need("vocab_size"), k.size("num_heads", 8), k.want("use_bias", False)
    mode = k.want("weight_mode", "single")
    if mode not in ("single", "fused"):
        raise ConfigError(f"weight_mode = {mode!r} is neither single nor fused", key="weight_mode", value=mode)
    keys, values = int(D * k.want("qk_dim_factor", 0.5)), int(D * k.want("v_dim_factor", 1.0))
    memory = MLstm(
        name="mlstm_layer",
        D=D,
        N=N,
        H=k.divides("qk_dim_factor x hidden_size", "num_heads", keys, N),
        VH=k.divides("v_dim_factor x hidden_size", "num_heads", values, N),
        fused=mode == "fused",
        bias=bias,
    )
    multiple = k.size("ffn_round_up_to_multiple_of", 64)
    F = int((D * k.want("ffn_proj_factor", 2.667) + multiple - 1) // multiple * multiple)
    ffn = Gated(
        name="ffn",
        D=D,
        F=F,
        gate="proj_up_gate",
        up="proj_up",
        down="proj_down",
        fused="proj_up_gate_z" if mode == "fused" else None,
        bias=bias,
    )
    k.skip("norm_reduction_force_float32", "chunkwise_kernel", "sequence_kernel", "step_kernel", "mode", "chunk_size")
    k.skip(
        "inference_state_dtype",
        "return_last_states",
        "autocast_kernel_dtype",
        "eps",
        "gate_soft_cap",
        "output_logit_soft_cap",
    )
    k.skip("max_inference_chunksize", "add_qk_norm", "cell_norm_eps", "force_bos_token_insert", "add_embedding_dropout")
    # The class ties nothing, whatever its config says.
    k.skip("tie_word_embeddings", "add_post_blocks_norm", "add_post_norm", "lm_head_bias")
    width = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=memory, before=Norm("norm_mlstm", width, bias=bias)),
            Sublayer(block=ffn, before=Norm("norm_ffn", width, bias=bias)),
        )
    )
    return Model(
        model_type="xlstm",
        stacks=(
            Stack(
                name="decoder",
                path="backbone.blocks",
                stem=Stem(name="backbone.embeddings", V=V, D=D),
                layers=(layer,) * L,
                norm=Norm("backbone.out_norm", width),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V, capped=True),
        positions=None,
        eager_only=True,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xlstm/modeling_xlstm.py",
)
