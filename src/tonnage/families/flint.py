"""Flint: sinks, positions in sliding layers only, sigmoid experts beside a shared one, two dense layers first."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.layers import Norm, NormStyle
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_heads, turned_in_windows
from tonnage.families._decoder import chosen, every, window_of, windows
from tonnage.families._experts import shared_expert, stacked
from tonnage.keys import Keys

STYLE: Final[NormStyle] = "rms-fp32-weight"


def read(k: Keys) -> Model:
    """Build the model that ``FlintForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = normed_heads(attention(k, D, K=4, H=128, sinks=True, eager="sinks"), style=STYLE), gated(k, D)
    window = window_of(k, 513)
    seen = windows(k, L, window, lambda i: not (i < 2 or i % 4 == 1 or i == L - 1))
    E = k.size("num_experts", 256)
    experts = Experts(
        name="mlp",
        D=D,
        E=E,
        used=chosen(k, E, 6),
        F=k.size("moe_intermediate_size", 512),
        act=mlp.act,
        routing="own",
        normalised=k.want("norm_topk_prob", True),
        shared=shared_expert(D, k.size("shared_expert_intermediate_size", 1024), mlp.act, name="mlp.shared_expert"),
    )
    step, dense = every(k, "decoder_sparse_step", 1), k.optional("mlp_only_layers", list)
    dense = [0, 1] if dense is None else dense

    def sinking(seen: int | None) -> Untraced:
        return Untraced(block=turned_in_windows(token, seen), what="attention with sinks in fp32")

    layers = stacked(
        sinking,
        seen,
        experts,
        mlp,
        tuple(i not in dense and (i + 1) % step == 0 for i in range(L)),
        lambda name: Norm(name, (("D", D),), STYLE),
    )
    masks = (None, window) if window is not None else ()
    model = decoder(k, D, layers, width=token.H, positions=262144, style=STYLE, eager_only=True, masks=masks)
    return model.but(fp32=("gate.weight", "sinks"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/flint/modeling_flint.py",
)
