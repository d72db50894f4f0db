"""MiniCPM3: latent attention in Llama's layers, with multipliers on embedding, branches and hidden states."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import decoder, gated, normed_before
from tonnage.families._decoder import embed_scale, latent
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``MiniCPM3ForCausalLM`` builds."""
    D, L, N = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("num_attention_heads")
    # A whole number makes a buffer of integers.
    whole = isinstance(k.config.get("scale_emb", 12), int)
    k.skip("scale_emb", "scale_depth", "dim_model_base")
    VH = D // N
    token = latent(k, D, style="plain", q_rank=768, kv_rank=256, nope=64, rope=32, VH=VH)
    layer = normed_before(token, gated(k, D, bias=k.want("mlp_bias", False)), D, scaled=True)
    model = decoder(
        k,
        D,
        (layer,) * L,
        width=token.rope,
        positions=32768,
        tied=True,
        scaled=True,
        buffers=(embed_scale("model", "int64" if whole else None),),
    )
    assert model.head is not None
    stack = model.decoder
    return model.but(stacks=(stack.but(stem=stack.stem.but(scale_cast=whole)),), head=model.head.but(divided=True))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minicpm3/"
    "modeling_minicpm3.py",
)
