"""What vLLM lets a prompt hold beside text, and what its profile run makes of it.

A budget of tokens, that of a step or the largest item, bounds the items that the encoder is profiled with; their
output stays while the language model runs. Items that are not admitted at all need no encoder.

Reference: vllm-project/vllm v0.33.0 vllm/multimodal/encoder_budget.py, vllm/v1/worker/gpu/mm/encoder_runner.py
``profile_encoder_cache``, vllm/config/multimodal.py ``get_limit_per_prompt``; v0.8.5
vllm/v1/worker/gpu_model_runner.py ``profile_run``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError
from tonnage.memory.pool.processors import HEARD, Item
from tonnage.memory.pool.profiling import Batch, Encoded
from tonnage.memory.pool.towers import items, tower
from tonnage.placement.mesh import Mesh
from tonnage.record import Record
from tonnage.releases import Since, Version, since

LIMIT: Final[Since[int]] = (((0, 9), 999), ((0, 0), 1))
"""Items of a modality that a prompt may hold where nothing is said."""
WHOLE: Final[Since[bool]] = (((0, 10), True), ((0, 0), False))
"""Whether only whole items count that fit into the budget; before, the last one was rounded up."""
UNBUILT: Final[Since[bool]] = (((0, 10), True), ((0, 0), False))
"""Whether an encoder that no modality needs is left out."""
BY_NAME: Final = (0, 17)
"""Release from which on the later name is profiled where two modalities have as many tokens."""
MODALITIES: Final = ("image", "video", "audio")
ENCODERS: Final = ("vision", "audio")


class Asked(Record):
    """What a workload says of pictures and sound.

    Args:
        limits: items of a prompt, by modality.
        pixels: of a picture at most; None where the processor decides.
        profiled: whether the encoder takes part in the profile run.
    """

    limits: Mapping[str, int]
    pixels: int | None
    profiled: bool

    def lets(self, role: str, *, video: bool = True) -> bool:
        """Whether anything is let in that an encoder of this role reads."""
        names = ("audio",) if role == "audio" else ("image", "video") if video else ("image",)
        return any(self.limits[name] for name in names)


def asked(said: Mapping[str, Any], version: Version) -> Asked:
    """Read the keys of a workload.

    Raises:
        InputError: a modality that there is not, or a value that is no count.

    >>> asked({"limit_mm_per_prompt": "image=2,video=0"}, (0, 33)).limits
    {'image': 2, 'video': 0, 'audio': 999}
    """
    limits = dict.fromkeys(MODALITIES, since(version, LIMIT))
    limits.update(_limits(said.get("limit_mm_per_prompt") or ""))
    if said.get("language_model_only"):
        limits = dict.fromkeys(MODALITIES, 0)
    return Asked(limits, said.get("max_pixels"), not said.get("skip_mm_profiling"))


def _limits(text: str) -> dict[str, int]:
    """``image=2,video=0``."""
    out = {}
    for pair in text.split(",") if text else ():
        name, _, count = (part.strip() for part in pair.partition("="))
        if name not in MODALITIES or not count.isdigit():
            raise InputError(
                f"limit_mm_per_prompt = {text}: a count for each of {', '.join(MODALITIES)} is meant",
                key="limit_mm_per_prompt", value=text, hint="image=2,video=0",
            )  # fmt: skip
        out[name] = int(count)
    return out


def without_encoders(model: Model, a: Asked, version: Version) -> Model:
    """The model as it is loaded: releases from 0.10 on leave encoders out for which nothing is let in."""
    if not since(version, UNBUILT) or all(a.limits.values()):
        return model
    found = tower(model, Mesh())
    shown = items(model, found, {"video": 1}, None, 1, version)
    videos = found is None or any(i.modality == "video" for i in shown)
    out = tuple(t for t in model.extra if t.role not in ENCODERS or a.lets(t.role, video=videos))
    return model if len(out) == len(model.extra) else model.but(extra=out)


class Profiled(Record):
    """The encoder's part of the profile run.

    Args:
        encoded: what it takes; None where it does not run.
        line: what the engine prints of it.
        unknown: whether there is an encoder of which this is not known.
    """

    encoded: Encoded | None
    line: str = ""
    unknown: bool = False


def profiled(
    model: Model, mesh: Mesh, a: Asked, batch: Batch, context: int, version: Version, *, width: int
) -> Profiled:
    """The encoder on the items that the budget lets in.

    Args:
        model: what runs.
        mesh: the degrees.
        a: what is let in.
        batch: tokens and rows of a step.
        context: tokens of a sequence.
        version: of the engine.
        width: bytes of an element. [byte]
    """
    roles = {t.role for t in model.extra if t.role in ENCODERS} | ({"audio"} if _encoded(model) else set())
    if not any(a.lets(role) for role in roles):
        return Profiled(None)
    if not a.profiled:
        return Profiled(None, "Skipping memory profiling for multimodal encoder and encoder cache.")
    found = {role: tower(model, mesh, role) if version >= (0, 8) else None for role in sorted(roles)}
    limits = {m: n if ("audio" if m == "audio" else "vision") in roles else 0 for m, n in a.limits.items()}
    admitted = items(model, found.get("vision"), limits, a.pixels, context, version)
    if not {role for role in roles if a.lets(role)} <= {i.role for i in admitted}:
        return Profiled(None, unknown=True)
    item = max(admitted, key=lambda i: (i.tokens, i.modality if version >= BY_NAME else ""))
    budget = max(batch.tokens, *(i.tokens for i in admitted))
    rows = budget // item.tokens if _encoded(model) else batch.rows
    count = _count(item, budget, most(model, item.modality, a.limits), batch.but(rows=rows), context, version)
    read = found[item.role]
    assert read is not None
    why = f"encoder: {count:,} x {item.patches:,} patches of the largest {item.modality}, pixels and widest layer"
    return Profiled(
        Encoded(read.live(item, count, width), read.kept(item, count, width), why),
        f"Encoder cache will be initialized with a budget of {budget} tokens, and profiled with {count} "
        f"{item.modality} items of the maximum feature size.",
        unknown=read.wide is None or not item.patches,
    )


def _encoded(model: Model) -> bool:
    """Whether the encoder is a stack of its own, which reads sound."""
    return len(model.stacks) > 1 and model.model_type in HEARD


def most(model: Model, modality: str, limits: Mapping[str, int]) -> int:
    """Items of a modality that a prompt may hold: no more than the model can tell apart."""
    heard = HEARD.get(model.whole_type or model.model_type)
    bound = heard.limit if heard is not None and modality == "audio" else 0
    return min(limits[modality], bound) if bound else limits[modality]


def _count(item: Item, budget: int, limit: int, batch: Batch, context: int, version: Version) -> int:
    """Items of the profile run."""
    if not since(version, WHOLE):
        return min(-(-budget // item.tokens), batch.rows * limit)
    each = max(1, min(limit, context // item.tokens))
    return max(1, min(budget // item.tokens, batch.rows * each))
