"""Qwen2-VL's tower: patches of two frames, layers of attention, a merger of neighbouring patches (arXiv:2409.12191)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Rotary
from tonnage.arch.sight.rows import Frames, Merger, Row, Stretches, normed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import NAMES, side
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys


def read(k: Keys, path: str) -> Sight:
    """``Qwen2VisionTransformerPretrainedModel``."""
    D, patch, frames = k.need("embed_dim"), side(k, "patch_size"), k.need("temporal_patch_size")
    N = k.need("num_heads")
    H = k.divides("embed_dim", "num_heads", D, N)
    out, merge = k.need("hidden_size"), k.need("spatial_merge_size")
    merged = D * merge**2
    # Releases state the channels under another name, which transformers does not read.
    k.skip("in_chans", "spatial_patch_size")
    attention = Stretches(
        name="attn", D=D, N=N, K=N, H=H, o="proj", fused="qkv", bias=True, o_bias=True, causal=False, rotary=None
    )
    act = k.optional("hidden_act", str, "quick_gelu") or "quick_gelu"
    mlp = Plain(name="mlp", D=D, F=D * k.need("mlp_ratio"), act=act)
    made = Row(
        patches=Frames(f"{path}.patch_embed.proj", k.need("in_channels"), D, patch, bias=False, frames=frames),
        rotary=Rotary(f"{path}.rotary_pos_emb", H // 2),
        path=f"{path}.blocks",
        layer=normed(attention, mlp, lambda name: layer_norm(name, D)),
        count=k.need("depth"),
        merger=Merger(
            norm=layer_norm(f"{path}.merger.ln_q", D),
            first=matrix(f"{path}.merger.mlp.0", ("X", merged), ("X", merged), "vision"),
            second=matrix(f"{path}.merger.mlp.2", ("X", merged), ("D", out), "vision"),
        ),
        merged=merge,
    )
    return Sight(out, tuple(made.weights()), made)


_SIZES: Final[dict[str, Any]] = {
    "depth": 32,
    "embed_dim": 1280,
    "hidden_size": 3584,
    "mlp_ratio": 4,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

TOWER: Final = Tower(
    read=read,
    defaults={"qwen2_vl_vision": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_vl/"
    "modeling_qwen2_vl.py",
    attributes=NAMES,
)
