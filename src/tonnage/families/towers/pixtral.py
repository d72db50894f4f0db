"""Pixtral's tower: Llama's layers over patches that are turned by row and column (arXiv:2410.07073)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.sight.blocks import TABLE, Row
from tonnage.arch.sight.towers import Patches
from tonnage.families._blocks import normed_before
from tonnage.families._towers import side
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys


def read(k: Keys, path: str) -> Sight:
    """``PixtralVisionModel``."""
    D, N, patch = k.need("hidden_size"), k.need("num_attention_heads"), side(k, "patch_size")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    k.skip("head_dim", "vocab_size")
    attention = GroupedQuery(
        name="attention", D=D, N=N, K=N, H=H, o="o_proj", rotary=TABLE, causal=False,
        dropout=k.optional("attention_dropout", float, 0.0) or 0.0,
    )  # fmt: skip
    mlp = Gated(name="feed_forward", D=D, F=k.need("intermediate_size"), act=k.optional("hidden_act", str) or "silu")
    made = Row(
        patches=Patches(f"{path}.patch_conv", k.need("num_channels"), D, patch, bias=False),
        before=Norm(f"{path}.ln_pre", (("D", D),)),
        path=f"{path}.transformer.layers",
        layer=normed_before(attention, mlp, D, names=("attention_norm", "ffn_norm")),
        count=k.need("num_hidden_layers"),
        angles=tuple(Rotary(f"{path}.patch_positional_embedding", H).weights()),
        width=H,
        image=side(k, "image_size"),
    )
    return Sight(D, tuple(made.weights()), made)


TOWER: Final = Tower(
    read=read,
    defaults={
        "pixtral": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "num_channels": 3,
            "image_size": 1024,
            "patch_size": 16,
        }
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pixtral/"
    "modeling_pixtral.py",
)
