"""GLM-ASR's encoder: Whisper's with rotary positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import Rotary
from tonnage.families._decoder import heads, rotary_width
from tonnage.families._pieces import layer_norm
from tonnage.families._towers import convolution, feed_forward, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``GlmAsrEncoder``."""
    D, (N, K) = k.need("hidden_size"), heads(k)
    H = k.optional("head_dim") or k.divides("hidden_size", "num_attention_heads", D, N)
    k.skip("hidden_act", "max_position_embeddings", "attention_dropout")
    first = tower(
        "audio",
        path,
        *convolution("conv1", k.need("num_mel_bins"), D, 3),
        *convolution("conv2", D, D, 3),
        layer_norm("norm", D),
        Rotary("rotary_emb", rotary_width(k, H, 0.5)),
    )
    layer = (
        GroupedQuery(name="self_attn", D=D, N=N, K=K, H=H, bias=True, key_bias=False, o_bias=True),
        *feed_forward("mlp", D, k.need("intermediate_size")),
        layer_norm("input_layernorm", D),
        layer_norm("post_attention_layernorm", D),
    )
    return D, first + repeated("audio", f"{path}.layers", k.need("num_hidden_layers"), *layer)


TOWER: Final = Tower(
    read=read,
    defaults={
        "glmasr_encoder": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "num_mel_bins": 128,
        }
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/glmasr/modeling_glmasr.py",
)
