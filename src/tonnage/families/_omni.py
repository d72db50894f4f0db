"""What Qwen's omni models share: the half that reads, and the parts of the half that speaks."""

from __future__ import annotations

from collections.abc import Iterable

from tonnage.arch.model import Model
from tonnage.families._language import headed, language, unpassed
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Axis, Role, Tensor


def thinker(k: Keys, kind: str, like: str, below: str = "") -> Model:
    """Text, images and sound to text, below the path ``below``."""
    text = language(k, f"{below}model.language_model", f"{kind}_text", like=like).model
    _, sees = seen(k, f"{below}model.visual", f"{kind}_vision_encoder", fixed=True)
    _, hears = seen(k, f"{below}model.audio_tower", f"{kind}_audio_encoder", key="audio_config", fixed=True)
    k.skip("position_id_per_seconds", "seconds_per_chunk")
    tied = k.want("tie_word_embeddings", False)
    model = unpassed(text, "attention with positions in three dimensions")
    return headed(model, tied, extra=hears + sees, name=f"{below}lm_head")


def heard(role: Role, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The same tensors under one role; buffers stay buffers."""
    return tuple(
        t if t.role == "buffer" else Tensor(t.name, t.axes, role, t.dims, None, t.alias_of, t.dtype) for t in tensors
    )


def upward(name: str, ins: int, outs: int, kernel: int) -> tuple[Tensor, ...]:
    """``nn.ConvTranspose1d``: stored input first."""
    width: Axis = ("D", outs)
    return (
        Tensor(f"{name}.weight", (("X", ins), width, ("C", kernel)), "audio"),
        Tensor(f"{name}.bias", (width,), "audio"),
    )


def snake(name: str, channels: int) -> tuple[Tensor, ...]:
    """An activation function with two learned numbers for every channel."""
    path = f"{name}." if name else ""
    return tuple(Tensor(f"{path}{part}", (("D", channels),), "audio") for part in ("alpha", "beta"))
