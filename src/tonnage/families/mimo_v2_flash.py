"""MiMo V2 Flash: sinks and twice the heads of keys in sliding layers, narrower values, scored experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, heads, window_of, windows
from tonnage.families._experts import ahead, routed, scored, stacked, tables, turned
from tonnage.families._hybrid import whole_numbers
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``MiMoV2FlashForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k, 4)
    H, VH = k.size("head_dim", 192), k.size("v_head_dim", 128)
    norm, act, bias = (("D", D),), k.want("hidden_act", "silu"), k.want("attention_bias", False)
    dropout = k.want("attention_dropout", 0.0)
    k.skip("attention_value_scale", "first_k_dense_replace")
    stated, often = _released(k, N, K, H, VH)
    shown = k.optional("sliding_window_size")
    window = window_of(k, 129) if shown is None else shown + 1
    k.skip("sliding_window")
    seen = windows(k, L, window, lambda i: bool(stated[i]) if i < len(stated) else i != 0 and (i + 1) % 6 != 0)
    kinds = ["full_attention" if window is None else "sliding_attention" for window in seen]
    widths = turned(k, H, kinds, {"full_attention": 0.334, "sliding_attention": 0.334}, missing=0.334)
    if any(window is not None for window in seen):
        k.divides("num_attention_heads", "num_key_value_heads", N, 2 * K)

    def attention(window: int | None) -> Untraced:
        kind = "full_attention" if window is None else "sliding_attention"
        plain = GroupedQuery(
            name="self_attn",
            D=D,
            N=N,
            K=K if window is None else 2 * K,
            H=H,
            VH=VH,
            bias=bias,
            rotary=kind,
            rotary_width=widths.get(kind),
            rotary_style="rebound",
            window=window,
            sinks=window is not None,
            eager="sinks",
            dropout=dropout,
        )
        return Untraced(block=plain, what="attention with sinks in some layers and weighed values")

    V, mlp = k.need("vocab_size"), Gated(name="mlp", D=D, F=k.need("intermediate_size"), act=act)
    return causal(
        k,
        V=V,
        D=D,
        layers=stacked(
            attention,
            seen,
            scored(k, D, act, experts=256, used=8, width=2048, shared=None),
            mlp,
            tuple(map(bool, often)) or routed(k, L, 1),
            lambda name: Norm(name, norm),
        ),
        norm=Norm("model.norm", norm),
        rotary=tables("model", widths),
        tied=k.want("tie_word_embeddings", False),
        positions=k.want("max_position_embeddings", 131072),
        eager_only=True,
        apart=tuple(
            t
            for index in range(k.want("num_nextn_predict_layers", 0))
            for t in _ahead(attention(window), mlp, index, D, V)
        ),
    )


def _released(k: Keys, N: int, K: int, H: int, VH: int) -> tuple[list[int], list[int]]:
    """Which layers are sliding and which have experts, as the released config tells it: 1 where they do.

    Its other keys say what transformers' class builds anyway.
    """
    layers = k.need("num_hidden_layers")
    for key, value in (
        ("swa_num_attention_heads", N),
        ("swa_num_key_value_heads", 2 * K),
        ("swa_head_dim", H),
        ("swa_v_head_dim", VH),
        ("add_swa_attention_sink_bias", True),
        ("scoring_func", "sigmoid"),
        ("topk_method", "noaux_tc"),
    ):
        k.refuse(key, value)
    k.refuse("add_full_attention_sink_bias")
    k.skip("attention_chunk_size", "swa_rope_theta", "partial_rotary_factor", "moe_layer_freq", "hybrid_layer_pattern")
    found = []
    for key in ("hybrid_layer_pattern", "moe_layer_freq"):
        flags = whole_numbers(k, key) or []
        if flags and len(flags) != layers:
            raise ConfigError(
                f"{key} has {len(flags)} entries for {layers} layers", key=key, value=len(flags), file=k.file
            )
        found.append(flags)
    return found[0], found[1]


def _ahead(token: Untraced, mlp: Gated, index: int, D: int, V: int) -> Iterator[Tensor]:
    """A layer that predicts a further token: within a window and without experts, 0.33 B in the released model.

    A checkpoint stores it, transformers does not build it; embedding and head are the model's own.
    Reference: https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/models/mimo_v2_flash_nextn.py.
    """
    norm = (("D", D),)
    layer = Layer(
        sublayers=(
            Sublayer(block=token, before=Norm("input_layernorm", norm)),
            Sublayer(block=mlp, before=Norm("pre_mlp_layernorm", norm)),
        )
    )
    path = f"model.mtp.layers.{index}."
    yield from ahead(layer, index, D, V, tables=False, last="final_layernorm", path=path)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/mimo_v2_flash/modeling_mimo_v2_flash.py",
    attributes={"n_routed_experts": "num_local_experts"},
)
