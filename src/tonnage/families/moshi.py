"""Moshi: a decoder with a packed gated feed-forward block and a rotary table in every layer (arXiv:2410.00037)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Stack, Sublayer
from tonnage.errors import UnsupportedError
from tonnage.families import Family
from tonnage.families._decoder import heads, window_of
from tonnage.families._pieces import counted, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MoshiForCausalLM`` builds: the decoder of text alone."""
    D, V, F = k.need("hidden_size"), k.need("vocab_size"), k.size("ffn_dim", 22528)
    N, K = heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    half = k.divides("ffn_dim", "2", F, 2)
    k.skip("audio_encoder_config", "depth_decoder_config", "audio_vocab_size", "num_codebooks", "hidden_act")
    # The class shares nothing whatever the switch says.
    k.skip("tie_word_embeddings")
    attention = GroupedQuery(
        name="self_attn",
        D=D,
        N=N,
        K=K,
        H=H,
        q="q_proj.linear",
        k="k_proj.linear",
        v="v_proj.linear",
        o="o_proj.linear",
        window=window_of(k, 3000),
        dropout=k.want("attention_dropout", 0.0),
        buffers=tuple(
            Tensor(f"self_attn.rotary_emb.{name}", (("X", H // 2),), "buffer", dtype="fp32")
            for name in ("inv_freq", "original_inv_freq")
        ),
    )
    mlp = counted(
        "Moshi",
        matrix("mlp.fc1", ("D", D), ("F", F), "feed_forward", bias=False),
        matrix("mlp.fc2", ("F", half), ("D", D), "feed_forward", bias=False),
    )
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=counted("Moshi", attention), before=Norm("input_layernorm", norm)),
            Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
        )
    )
    return Model(
        model_type="moshi",
        stacks=(
            Stack(
                name="decoder",
                path="model.layers",
                # One row more: the first input.
                stem=Stem(name="model.embed_tokens", V=V + 1, D=D),
                layers=(layer,) * k.need("num_hidden_layers"),
                norm=Norm("model.norm", norm),
            ),
        ),
        head=Head(name="lm_head", D=D, V=V),
        positions=k.want("max_position_embeddings", 3000),
    )


def refused(k: Keys) -> Model:
    """The class with the codec and the decoder of its codes."""
    raise UnsupportedError(
        "MoshiForConditionalGeneration's codec is not modelled yet",
        key="architectures",
        hint="--head causal counts the decoder of text",
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/moshi/modeling_moshi.py",
    classes={"seq2seq": refused},
)
