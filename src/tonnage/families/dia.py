"""Dia: an encoder of bytes and a decoder of several channels of sound, both with gates and rotary positions."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Head, Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Block, Layer, Model, Stack, Sublayer
from tonnage.families import Family
from tonnage.families._composite import filled
from tonnage.families._decoder import heads, rotary_width
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ENCODER: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "vocab_size": 256,
}
DECODER: Final[dict[str, Any]] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 1028,
}
"""Defaults of ``DiaEncoderConfig`` and ``DiaDecoderConfig``."""


def read(k: Keys) -> Model:
    """Build the model that ``DiaForConditionalGeneration`` builds; the codec stands apart from it."""
    k.skip("delay_pattern")
    encoder, _ = filled(k, "encoder_config", ENCODER, lambda inner: _stack(inner, "encoder", 1024))
    decoder, P = filled(k, "decoder_config", DECODER, lambda inner: _stack(inner, "decoder", 3072))
    return Model(
        model_type="dia",
        stacks=(encoder, decoder),
        head=Head(name="logits_dense", D=decoder.stem.D, V=decoder.stem.V),
        positions=P,
        causal=False,
    )


def _stack(k: Keys, name: str, positions: int) -> tuple[Stack, int]:
    """One of the two with its positions. The decoder's table holds the tokens of all channels."""
    D, V, reads, path = k.need("hidden_size"), k.need("vocab_size"), name == "decoder", f"model.{name}"
    N, K = heads(k)
    own = GroupedQuery(name="self_attention", D=D, N=N, K=K, H=k.size("head_dim", 128), causal=reads)
    mlp = Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=k.want("hidden_act", "silu"), fused="gate_up_proj")
    blocks: list[tuple[Block, str]] = [(own, "pre_sa_norm"), (mlp, "pre_mlp_norm" if reads else "post_sa_norm")]
    table = f"{path}.embedding"
    buffers: tuple[Tensor, ...] = ()
    if reads:
        C = k.size("num_channels", 9)
        V, table = V * C, f"{path}.embeddings.embed"
        buffers = (Tensor(f"{path}.embeddings.offsets", (("X", C),), "buffer", dtype="int64"),)
        blocks.insert(1, (_cross(k, own), "pre_ca_norm"))
    layer = Layer(sublayers=tuple(Sublayer(block=block, before=Norm(norm, (("D", D),))) for block, norm in blocks))
    rotary = (Rotary(f"{path}.rotary_emb", rotary_width(k, own.H)),)
    stack = Stack(
        name=name,
        path=f"{path}.layers",
        stem=Stem(name=table, V=V, D=D, rotary=rotary, buffers=buffers),
        layers=(layer,) * k.need("num_hidden_layers"),
        norm=Norm(f"{path}.norm", (("D", D),)),
    )
    return stack, k.size("max_position_embeddings", positions)


def _cross(k: Keys, own: GroupedQuery) -> GroupedQuery:
    """Attention to the encoder, with heads of its own number and width."""
    N, K = k.size("cross_num_attention_heads", 16), k.size("cross_num_key_value_heads", 16)
    k.divides("cross_num_attention_heads", "cross_num_key_value_heads", N, K)
    return GroupedQuery(
        name="cross_attention",
        D=own.D,
        N=N,
        K=K,
        H=k.size("cross_head_dim", 128),
        rotary=None,
        causal=False,
        cross=True,
        seen=k.size("cross_hidden_size", 1024),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/dia/modeling_dia.py",
)
