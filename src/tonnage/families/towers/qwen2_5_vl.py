"""Qwen2.5-VL's tower: Qwen2-VL's with windows, RMS norms and gated feed-forward blocks (arXiv:2502.13923)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm, Rotary
from tonnage.arch.sight.rows import Frames, Merger, Row, Stretches, normed
from tonnage.families._pieces import matrix
from tonnage.families._towers import NAMES, side, sizes
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys

SEEN: Final = ("qwen2_5_vl_vision",)
"""Types whose pass is modelled."""


def read(k: Keys, path: str) -> Sight:
    """``Qwen2_5_VisionTransformerPretrainedModel`` and its like."""
    D, patch, frames = k.need("hidden_size"), side(k, "patch_size"), k.need("temporal_patch_size")
    out, merge = k.need("out_hidden_size"), k.need("spatial_merge_size")
    merged, kind = D * merge**2, k.config["model_type"]
    k.skip("in_chans", "spatial_patch_size", "tokens_per_second")
    mlp = Gated(
        name="mlp", D=D, F=k.need("intermediate_size"), act=k.optional("hidden_act", str, "silu") or "silu", bias=True,
        role="vision",
    )  # fmt: skip
    attention = _attention(k, D)
    made = Row(
        patches=Frames(f"{path}.patch_embed.proj", k.need("in_channels"), D, patch, bias=False, frames=frames),
        rotary=Rotary(f"{path}.rotary_pos_emb", attention.H // 2),
        path=f"{path}.blocks",
        layer=normed(attention, mlp, lambda name: Norm(name, (("D", D),))),
        count=k.need("depth"),
        merger=Merger(
            norm=Norm(f"{path}.merger.ln_q", (("D", D),)),
            first=matrix(f"{path}.merger.mlp.0", ("X", merged), ("X", merged), "vision"),
            second=matrix(f"{path}.merger.mlp.2", ("X", merged), ("D", out), "vision"),
        ),
        merged=merge,
        window=(k.optional("window_size", int, 112) or 112) // merge // patch,
        whole=sizes(k, "fullatt_block_indexes", (7, 15, 23, 31), least=0),
    )  # fmt: skip
    return Sight(out, tuple(made.weights()), made if kind in SEEN else None)


def _attention(k: Keys, D: int) -> Stretches:
    N, kind = k.need("num_heads"), k.config["model_type"]
    H = k.divides("hidden_size", "num_heads", D, N)
    # EXAONE 4.5 shares keys and values between heads.
    K = k.need("num_key_value_heads") if kind == "exaone4_5_vision" else N
    apart = kind == "qwen2_5_omni_vision_encoder"
    return Stretches(
        name="attn", D=D, N=N, K=K, H=H, q="q", k="k", v="v", o="proj", fused=None if apart else "qkv", bias=True,
        o_bias=True, causal=False, rotary=None,
    )  # fmt: skip


_SIZES: Final[dict[str, Any]] = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
}

TOWER: Final = Tower(
    read=read,
    defaults={
        "exaone4_5_vision": {**_SIZES, "num_key_value_heads": 8},
        "qwen2_5_omni_vision_encoder": _SIZES,
        "qwen2_5_vl_vision": _SIZES,
    },
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_5_vl/"
    "modeling_qwen2_5_vl.py",
    attributes=NAMES,
)
