"""``--fit`` applied to a server: what its devices have free, what may be moved, and what came of it.

Reference: common/common.cpp ``common_init_result``, common/arg.cpp (``--fit``, ``--fit-target``, ``--fit-ctx``) and
tools/server/server-context.cpp ``load_model`` of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.errors import InputError
from tonnage.memory.ggml.build import Asked, Build, build
from tonnage.memory.ggml.choices import at, drafts
from tonnage.memory.ggml.fit import LEAST, Fitted, Layout, Used, Wanted, fitted
from tonnage.memory.ggml.served import Defaults, Served
from tonnage.memory.ggml.vision.served import Seen
from tonnage.memory.overhead import CONTEXT
from tonnage.units import MiB

EXPERTS: Final = "exps"
"""Part of the names of experts' tensors."""
MARGIN: Final = 1024
"""MiB that are left on each device (``--fit-target``)."""
UNTRAINED: Final = 1 << 20
"""Tokens that the converter states for models without positions."""


def settled_by_fit(a: Asked, s: Served, d: Defaults, pictures: Seen | None = None) -> tuple[Asked, tuple[str, ...]]:
    """The context and placement that ``--fit`` chooses, and what has to be said of it.

    Raises:
        InputError: margins that are no list of sizes, or of more devices than there are.
    """
    if not s.said.get("fit"):
        return a, ()
    if s.version < (0, 1):
        return a, ("fit: not modelled for builds before 0.1",)
    margins = _margins(s.said.get("fit_target"), len(a.names))
    if pictures is not None and pictures.device is not None:
        # What the projector will take is left free beside the margin.
        margins = tuple(m + pictures.buffers.used * (i == pictures.device) for i, m in enumerate(margins))
    longest = a.model.positions or UNTRAINED
    if s.device is None or not a.names:
        told = "fit: nothing tells what is free, so that nothing is shortened or moved (--gpu)"
        return a if "context" in s.said else at(a, s, d, longest * a.sequences), (told,)
    # What a process sees free lies behind its own context.
    free = s.device.capacity.bytes - s.in_use - (CONTEXT[1] if a.cuda else 0)
    wanted = Wanted(
        layers=a.placing.layers,
        experts=any(EXPERTS in w.name for w in a.file),
        free=(free,) * len(a.names),
        margins=margins,
        context=a.context if "context" in s.said else None,
        longest=longest,
        sequences=a.sequences,
        streams=1 if a.unified else a.sequences,
        least=s.said.get("fit_ctx") or LEAST,
        fixed=_fixed(a, s),
    )
    found = fitted(wanted, lambda layout: _used(_placed(a, s, d, layout), s))
    out = _placed(a, s, d, found.layout)
    return out, (_told(found, wanted, out, free),)


def _margins(text: str | None, devices: int) -> tuple[int, ...]:
    """``--fit-target``: MiB of each device, or of all. [byte]

    >>> _margins("512", 2), _margins(None, 1)
    ((536870912, 536870912), (1073741824,))
    """
    parts = (text or str(MARGIN)).replace("/", ",").split(",")
    if not all(part.strip().isdigit() for part in parts) or len(parts) > max(devices, 1):
        raise InputError(
            f"fit_target = {text!r} is no list of MiB for {devices} devices", key="fit_target", value=text,
            hint="such as 1024, or one number for each device: 1024,512",
        )  # fmt: skip
    sizes = [int(part) * MiB for part in parts]
    if len(sizes) == 1:
        return tuple(sizes * devices)
    return (*sizes, *(MARGIN * MiB,) * (devices - len(sizes)))


def _fixed(a: Asked, s: Served) -> str:
    """Why layers stay where they are."""
    said = s.said
    if said.get("n_gpu_layers") is not None:
        return f"n_gpu_layers already set by user to {said['n_gpu_layers']}"
    if len(a.names) > 1 and any(a.placing.shares):
        return "tensor_split already set by user"
    if a.placing.overrides:
        return "tensor_buft_overrides already set by user"
    return ""


def _placed(a: Asked, s: Served, d: Defaults, layout: Layout) -> Asked:
    changes: dict[str, Any] = {}
    if layout.offloaded is not None:
        changes |= {"offloaded": layout.offloaded, "shares": layout.shares}
    if layout.overrides is not None:
        changes["overrides"] = layout.overrides
    moved = a.but(placing=a.placing.but(**changes)) if changes else a
    return at(moved, s, d, layout.context)


def _used(a: Asked, s: Served) -> Used:
    """What a model and its context take on each device, a draft's beside it."""
    found = build(a, sampled=True, measured=True)
    draft = a.model.beside.get("draft")
    beside = None if draft is None else build(drafts(a, draft, s), sampled=True, measured=True)
    total = tuple(_on(found, i) + (_on(beside, i) if beside is not None else 0) for i in found.devices)
    return Used(total=total, weights=found.weights.devices)


def _on(b: Build, i: int) -> int:
    compute = b.compute[i] if b.compute is not None else b.rough.likely if b.rough is not None else 0
    return b.weights.devices[i] + b.caches.on(i) + b.caches.states[i] + compute


def _told(found: Fitted, w: Wanted, out: Asked, free: int) -> str:
    there = f"fit: {free // MiB:,} MiB taken to be free on each device"
    if found.failed:
        return f"{there}: failed to fit params to free device memory: {found.failed}, abort"
    words = f"{there}; context {out.context:,}"
    if not found.moved:
        return f"{words}, every layer where it was asked for"
    partly = len(out.placing.overrides)
    return f"{words}, {out.placing.offloaded} of {w.layers + 1} layers on devices" + (
        f", {partly} of them without all of their experts" if partly else ""
    )
