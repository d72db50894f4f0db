"""What OLMo's models share from the second on: norms of all query and key heads, and behind the blocks."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.layers import NormStyle, Rotary
from tonnage.arch.model import Block, Model
from tonnage.families._blocks import attention, decoder, normed_after, normed_heads
from tonnage.keys import Keys

STYLE: Final[NormStyle] = "rms-fp32-weight"


def olmo_attention(k: Keys, D: int) -> GroupedQuery:
    """Attention whose norms follow their matrices at once, turned in the tables' fp32 and cast back."""
    return normed_heads(attention(k, D, rotary_style="back"), style=STYLE, whole=True, norm_inline=True)


def olmo(k: Keys, channel: Block, *, positions: int) -> Model:
    """The model of equal layers with this feed-forward; ``positions`` is the default."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = olmo_attention(k, D)
    layer, rotary = normed_after(token, channel, D, style=STYLE), Rotary("model.rotary_emb", token.H, dtype="fp32")
    return decoder(k, D, (layer,) * L, width=token.H, positions=positions, style=STYLE, rotary=(rotary,))
