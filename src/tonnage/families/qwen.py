"""Qwen of 2023: Llama's structure with one matrix for queries, keys and values, by the code that its files bring along.

A config states twice the width of a feed-forward block. flash-attn's own kernels for norms and rotations, which the
code takes where they are installed, are left out, and so are keys and values that are stored in 8 bit.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.keys import Keys
from tonnage.tensors import Tensor

SCALED: Final = 32767
"""Positions for which attention has a factor (``logn_tensor``)."""


def read(k: Keys) -> Model:
    """Build the model that the released ``QWenLMHeadModel`` builds."""
    D, L, N = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("num_attention_heads")
    k.divides("hidden_size", "num_attention_heads", D, N)
    H = k.size("kv_channels", 128)
    if H * N != D:
        raise ConfigError(f"kv_channels = {H} is not hidden_size / num_attention_heads = {D // N}", key="kv_channels")
    k.refuse("rotary_pct", 1.0)
    k.refuse("use_cache_quantization")
    k.skip("rotary_emb_base", "use_dynamic_ntk", "use_logn_attn", "seq_length", "scale_attn_weights", "onnx_safe")
    k.skip("bf16", "fp16", "fp32", "use_flash_attn", "softmax_in_fp32", "use_cache_kernel", "layer_norm_epsilon")
    biased = not k.want("no_bias", True)
    doubled = k.need("intermediate_size")
    if doubled % 2:
        raise ConfigError(f"intermediate_size = {doubled} is twice the width of a block", key="intermediate_size")
    attention = GroupedQuery(
        name="attn",
        D=D,
        N=N,
        K=N,
        H=H,
        fused="c_attn",
        o="c_proj",
        bias=True,
        o_bias=biased,
        rotary_style="wide, joined",
        dropout=k.want("attn_dropout_prob", 0.0),
        buffers=(
            Tensor("attn.masked_bias", (), "buffer"),
            Tensor("attn.logn_tensor", (("X", 1), ("P", SCALED), ("X", 1), ("X", 1)), "buffer"),
        ),
    )
    mlp = Gated(name="mlp", D=D, F=doubled // 2, gate="w2", up="w1", down="c_proj", bias=biased, named=True)
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=attention, before=Norm("ln_1", norm)),
            Sublayer(block=mlp, before=Norm("ln_2", norm)),
        )
    )
    V = k.need("vocab_size")
    rotary = (Rotary("transformer.rotary_emb", H, buffers=("inv_freq",), dtype="fp32"),)
    stem = Stem(name="transformer.wte", V=V, D=D, rotary=rotary, dropout=k.want("emb_dropout_prob", 0.0))
    tied = k.want("tie_word_embeddings", False)
    last = Norm("transformer.ln_f", norm)
    return Model(
        model_type=str(k.config.get("model_type", "")),
        stacks=(Stack(name="decoder", path="transformer.h", stem=stem, layers=(layer,) * L, norm=last, tupled=True),),
        head=Head(name="lm_head", D=D, V=V, alias_of="transformer.wte.weight" if tied else None, sliced="plain"),
        positions=k.want("max_position_embeddings", 8192),
    )


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/Qwen/Qwen-7B/blob/main/modeling_qwen.py",
)
