"""K-EXAONE: normed queries and keys, a window on three of four layers and positions only there, scored experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_heads, turned_in_windows
from tonnage.families._decoder import every, window_of, windows
from tonnage.families._experts import routed, scored, stacked
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``ExaoneMoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = normed_heads(attention(k, D, K=32, bias=False, o_bias=False)), gated(k, D)
    window = window_of(k, 4096)
    if k.config.get("layer_types") is None and window is not None:
        pattern = every(k, "sliding_window_pattern", 4)
    else:
        pattern = 1
        k.skip("sliding_window_pattern")
    seen = windows(k, L, window, lambda i: (i + 1) % pattern != 0)
    k.skip("num_nextn_predict_layers")
    layers = stacked(
        lambda seen: turned_in_windows(token, seen, everywhere=window is None),
        seen,
        scored(k, D, mlp.act, experts=64, used=8, width=1024, key="num_experts", shared_key="num_shared_experts"),
        mlp,
        routed(k, L, k.want("first_k_dense_replace", 1)),
        lambda name: Norm(name, (("D", D),)),
    )
    return decoder(k, D, layers, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/exaone_moe/modeling_exaone_moe.py",
)
