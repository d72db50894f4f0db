"""Qwen3-VL's tower: learned positions, and mergers whose output goes to early layers of the text (arXiv:2511.21631)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Rotary
from tonnage.arch.sight.rows import Frames, Merger, Row, Sampled, Stretches, normed
from tonnage.families._hybrid import whole_numbers
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import NAMES, side
from tonnage.families.towers import Sight, Tower
from tonnage.keys import Keys

DEEP: Final = (8, 16, 24)
"""Layers whose output is merged beside the last one's where the config says nothing."""
SEEN: Final = ("qwen3_5_vision", "qwen3_vl_moe_vision", "qwen3_vl_vision")
"""Types whose pass is modelled."""


def read(k: Keys, path: str) -> Sight:
    """``Qwen3VLVisionModel`` and its like."""
    D, patch, frames = k.need("hidden_size"), side(k, "patch_size"), k.need("temporal_patch_size")
    out, merge, N = k.need("out_hidden_size"), k.need("spatial_merge_size"), k.need("num_heads")
    H = k.divides("hidden_size", "num_heads", D, N)
    kind = k.config["model_type"]
    if kind not in _DEEP:
        # Qwen3.5's class has the key and does nothing with it.
        k.skip("deepstack_visual_indexes")
    omni = kind == "qwen3_omni_moe_vision_encoder"
    deep = f"{path}.merger_list" if omni else f"{path}.deepstack_merger_list"
    attention = Stretches(
        name="attn", D=D, N=N, K=N, H=H, o="proj", fused="qkv", bias=True, o_bias=True, causal=False, rotary=None
    )
    mlp = Plain(
        name="mlp", D=D, F=k.need("intermediate_size"), up="linear_fc1", down="linear_fc2",
        act=k.optional("hidden_act", str, "gelu_pytorch_tanh") or "gelu_pytorch_tanh",
    )  # fmt: skip
    made = Row(
        patches=Frames(f"{path}.patch_embed.proj", k.need("in_channels"), D, patch, hooked=False, frames=frames),
        rotary=Rotary(f"{path}.rotary_pos_emb", H // 2),
        path=f"{path}.blocks",
        layer=normed(attention, mlp, lambda name: layer_norm(name, D)),
        count=k.need("depth"),
        merger=_merger(f"{path}.merger", D, D * merge**2, out, omni=omni),
        merged=merge,
        places=Sampled(f"{path}.pos_embed", k.need("num_position_embeddings"), D),
        deep=tuple(
            (index, _merger(f"{deep}.{n}", D * merge**2, D * merge**2, out, omni=omni))
            for n, index in enumerate(_deep(k) if kind in _DEEP else ())
        ),
    )
    return Sight(out, tuple(made.weights()), made if kind in SEEN else None)


def _deep(k: Keys) -> tuple[int, ...]:
    stated = whole_numbers(k, "deepstack_visual_indexes")
    return DEEP if stated is None else tuple(stated)


def _merger(path: str, normed: int, merged: int, out: int, *, omni: bool) -> Merger:
    """Neighbouring patches to one: a norm over one of them or all, and two matrices."""
    norm, first, second = ("ln_q", "mlp.0", "mlp.2") if omni else ("norm", "linear_fc1", "linear_fc2")
    return Merger(
        norm=layer_norm(f"{path}.{norm}", normed),
        first=matrix(f"{path}.{first}", ("X", merged), ("X", merged), "vision"),
        second=matrix(f"{path}.{second}", ("X", merged), ("D", out), "vision"),
    )


_SIZES: Final[dict[str, Any]] = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
_DEEP: Final = (
    "cohere_compass_vision",
    "qwen3_omni_moe_vision_encoder",
    "qwen3_vl_moe_vision",
    "qwen3_vl_vision",
)

TOWER: Final = Tower(
    read=read,
    defaults=dict.fromkeys((*_DEEP, "qwen3_5_vision", "qwen4_exp_vision"), _SIZES),
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen3_vl/"
    "modeling_qwen3_vl.py",
    attributes=NAMES,
)
