"""Llama Nemotron Super and Ultra: Llama with layers that a search left without attention, or narrower, or shared less.

Every layer tells its own: whether it has attention at all, how many queries share a key, how wide its feed-forward is,
as a multiple of the residual width (arXiv:2411.19146).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import Family
from tonnage.families._decoder import causal
from tonnage.keys import Keys

MULTIPLE: Final = 256
"""What the width of a feed-forward is rounded up to."""


def read(k: Keys) -> Model:
    """Build the model that the released ``DeciLMForCausalLM`` builds."""
    D, L, N = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("num_attention_heads")
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    act, bias, narrow = k.want("hidden_act", "silu"), k.want("attention_bias", False), k.want("mlp_bias", False)
    dropout, norm = k.want("attention_dropout", 0.0), (("D", D),)
    k.skip("intermediate_size", "num_key_value_heads")

    @cache
    def layer(shared: int | None, F: int | None) -> Layer:
        parts: list[Sublayer] = []
        if shared is not None:
            K = k.divides("num_attention_heads", "block_configs.attention.n_heads_in_group", N, shared)
            token = GroupedQuery(
                name="self_attn", D=D, N=N, K=K, H=H, bias=bias, o_bias=bias, dropout=dropout
            )  # fmt: skip
            parts.append(Sublayer(block=token, before=Norm("input_layernorm", norm)))
        if F is not None:
            channel = Gated(name="mlp", D=D, F=F, act=act, bias=narrow)
            parts.append(Sublayer(block=channel, before=Norm("post_attention_layernorm", norm)))
        if not parts:
            raise UnsupportedError("a layer without attention and feed-forward is not modelled", key="block_configs")
        kind = "layer" if shared is not None else "layer without attention"
        return Layer(sublayers=tuple(parts), kind=f"{kind}, feed-forward {F:,}" if F else kind)

    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(layer(*_block(k, i, block, D)) for i, block in enumerate(_blocks(k, L))),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 2048),
    )


def _blocks(k: Keys, layers: int) -> list[Any]:
    blocks = k.need("block_configs", list)
    if len(blocks) != layers:
        raise ConfigError(
            f"block_configs has {len(blocks)} entries for {layers} layers", key="block_configs", value=len(blocks),
            file=k.file,
        )  # fmt: skip
    return blocks


def _block(k: Keys, index: int, block: object, D: int) -> tuple[int | None, int | None]:
    """Queries to a key, None without attention; width of the feed-forward, None without one."""
    path = f"block_configs.{index}."
    if not isinstance(block, Mapping):
        raise ConfigError(f"{path[:-1]} must be an object", key=path[:-1], value=block, file=k.file)
    whole = Keys(block, file=k.file, ignored=k.allowed, lenient=k.lenient, path=path)
    token, channel = whole.inner("attention"), whole.inner("ffn")
    if token is None or channel is None:
        key = path + ("attention" if token is None else "ffn")
        raise ConfigError(f"{key} is missing", key=key, file=k.file)
    for part in (token, channel):
        part.refuse("replace_with_linear")
        part.refuse("sparsify")
    # A window and sinks change what is seen, and no engine keeps less for them.
    for key in ("num_sink_tokens", "unshifted_sink", "use_prefill_window_in_sink_attention", "window_length"):
        token.refuse(key)
    shared = None if token.want("no_op", False) else token.need("n_heads_in_group")
    token.skip("n_heads_in_group")
    F = None if channel.want("no_op", False) else _width(channel.need("ffn_mult", float), D)
    channel.skip("ffn_mult", "hidden_act", "intermediate_size")
    for part in (token, channel, whole):
        part.done()
        k.ignored += part.ignored
    return shared, F


def _width(multiple: float, D: int) -> int:
    """Two thirds of a multiple of the residual width, rounded up.

    >>> _width(5.25, 8192), _width(0.5, 8192)
    (28672, 2816)
    """
    return -(-int(2 * multiple * D / 3) // MULTIPLE) * MULTIPLE


FAMILY: Final = Family(
    read=read,
    source="https://huggingface.co/nvidia/Llama-3_3-Nemotron-Super-49B-v1/blob/main/modeling_decilm.py",
)
