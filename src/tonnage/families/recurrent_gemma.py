"""RecurrentGemma (Griffin): gated linear recurrent units, and attention over a window in every third layer."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Rotary
from tonnage.arch.mixers.elementwise import Griffin
from tonnage.arch.model import Block, Layer, Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import decoder, normed_before
from tonnage.families._decoder import heads, rotary_width
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``RecurrentGemmaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    N, K = heads(k)
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    inner = k.optional("lru_width") or D
    k.divides("lru_width", "num_attention_heads", inner, N)
    k.skip("head_dim", "w_init_variance_scale", "final_w_init_variance_scale", "layers_block_type", "layer_types")
    F = k.size("intermediate_size", 7680) // 2
    attention = GroupedQuery(
        name="temporal_block",
        D=D,
        N=N,
        K=K,
        H=H,
        bias=k.want("attention_bias", False),
        o_bias=True,
        window=k.size("attention_window_size", 2048),
        dropout=k.want("attention_dropout", 0.0),
    )
    turned = rotary_width(k, H, 0.5)
    table = tuple(Rotary("temporal_block.rotary_emb", turned).weights())
    blocks: dict[str, Block] = {
        "attention": Untraced(block=attention, what="RecurrentGemma's attention", beside=table),
        "recurrent": Griffin(name="temporal_block", D=D, I=inner, N=N, C=k.size("conv1d_width", 4)),
    }
    act = k.want("hidden_activation", "gelu_pytorch_tanh")
    mlp = Gated(name="mlp_block", D=D, F=F, act=act, bias=True)
    layers: dict[str, Layer] = {
        kind: normed_before(
            block, mlp, D, style="rms-gemma", names=("temporal_pre_norm", "channel_pre_norm"), kind=kind
        )
        for kind, block in blocks.items()
    }
    pattern = k.optional("block_types", list) or ["recurrent", "recurrent", "attention"]
    for kind in pattern:
        if kind not in layers:
            raise ConfigError(
                f"block_types: {kind!r} is neither recurrent nor attention", key="block_types", value=kind
            )
    return decoder(
        k,
        D,
        tuple(layers[pattern[i % len(pattern)]] for i in range(L)),
        width=turned,
        positions=8192,
        tied=True,
        style="rms-gemma",
        norm="final_norm",
        rotary=(),
        scaled=True,
        capped=k.want("logits_soft_cap", 30.0) != 0,
        buffers=(Tensor("model.normalizer", (), "buffer", dtype="bf16"),),
    ).but(positions=None)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/recurrent_gemma/modeling_recurrent_gemma.py",
    attributes={"attention_window_size": "sliding_window"},
)
