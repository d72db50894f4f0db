"""The projector of a server: on which device it lies, its lines of a result, and what llama.cpp's log prints of it.

Reference: tools/server/server-context.cpp ``load_model``, common/arg.cpp (``--mmproj``, ``--mmproj-offload``,
``--mmproj-device``, ``--image-min-tokens``, ``--image-max-tokens``) and tools/mtmd/clip.cpp of ggml-org/llama.cpp
v0.5.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.evidence import DERIVED
from tonnage.memory.ggml.vision.buffers import Loaded, Where, loaded
from tonnage.memory.ggml.vision.projector import Projector, read
from tonnage.record import Record
from tonnage.timeline import Component, exact, ranged
from tonnage.units import MiB

KEYS: Final = ("mmproj_offload", "mmproj_device", "image_min_tokens", "image_max_tokens")
"""Keys that say something of a projector only."""
ENCODERS: Final = ("vision", "audio")
TILED: Final = ("idefics3", "internvl", "resampler")
"""Types that cut a picture into tiles of one size, as LLaVA 1.6 does."""

WHOLE: Final = ("gemma3",)
"""Types whose tokens see all of their picture, and so are read in one pass (``mtmd_decode_use_non_causal``)."""


def left_out(model: Model) -> bool:
    """Whether a model's encoder is not loaded beside it."""
    return "mmproj" not in model.files and any(t.role in ENCODERS for t in model.extra)


class Seen(Record):
    """A projector that is loaded.

    Args:
        projector: of its file.
        buffers: what it takes.
        device: index among the accelerators that the model may use; None for the host.
        name: of that device's buffers.
        caveats: what has to be said of it.
    """

    projector: Projector
    buffers: Loaded
    device: int | None
    name: str
    caveats: tuple[str, ...]

    def grows(self, device: int) -> int:
        """What the largest picture adds on an accelerator. [byte]"""
        return self.buffers.largest[0] - self.buffers.reserved[0] if self.device == device else 0


class Room(Record):
    """Tokens that a picture must fit into: of one sequence, and of one pass."""

    context: int
    ubatch: int


def seen(
    model: Model, names: tuple[str, ...], said: Mapping[str, Any], room: Room, *, cuda: bool
) -> tuple[Seen | None, list[str]]:
    """The projector that is asked for, and what has to be said where none is.

    Args:
        model: the text model, with the header of the projector's file.
        names: of the accelerators' buffers.
        said: keys of the workload.
        room: for a picture's tokens.
        cuda: whether the accelerators run CUDA.

    Raises:
        InputError: no projector, that of another model, or keys that contradict.
        UnsupportedError: a type or a device that is not modelled.
    """
    header = model.files.get("mmproj")
    if header is None:
        stray = next((key for key in KEYS if said.get(key) is not None), None)
        if stray is not None:
            raise InputError(
                f"{stray} = {said[stray]}: no projector is loaded", key=stray, value=said[stray],
                hint="--mmproj names its file, or f16 for the model's own encoder",
            )  # fmt: skip
        if left_out(model):
            return None, ["the encoder of pictures or sound has a file of its own, which is not loaded (--mmproj)"]
        return None, []
    p = read(header, said.get("image_min_tokens"), said.get("image_max_tokens"))
    if p.out != model.width:
        raise InputError(
            f"mmproj: {p.name}: mismatch between text model (n_embd = {model.width}) and mmproj (n_embd = {p.out})",
            key="mmproj", value=p.name, hint="you may be using wrong mmproj",
        )  # fmt: skip
    at = _device(names, said)
    where = Where(device=at is not None, cuda=cuda, flash=said.get("flash_attn") or "auto")
    found = loaded(p, where)
    name = names[at] if at is not None else "CPU"
    return Seen(projector=p, buffers=found, device=at, name=name, caveats=tuple(_told(p, said, room))), []


def _device(names: tuple[str, ...], said: Mapping[str, Any]) -> int | None:
    """The accelerator that holds it: the first, whichever the model's layers lie on; None for the host."""
    asked = said.get("mmproj_device")
    if said.get("mmproj_offload") is False:
        if asked is not None:
            raise InputError(
                f"mmproj_device = {asked} with mmproj_offload off: the projector stays with the CPU",
                key="mmproj_device", value=asked, hint="leave one of the two out",
            )  # fmt: skip
        return None
    if not names:
        return None
    kind = names[0].rstrip("0123456789")
    wanted = f"{kind}{asked or 0}"
    if wanted in names:
        return names.index(wanted)
    if asked is not None:
        raise InputError(
            f"mmproj_device = {asked}: invalid device {wanted} (available: {', '.join(names)})", key="mmproj_device",
            value=asked, hint="--gpus tells how many there are",
        )  # fmt: skip
    raise UnsupportedError(
        f"the projector lies on {wanted} whatever main_gpu says, which has no other part of the model: not modelled",
        key="mmproj", value=wanted, hint="--mmproj-device names the model's device, --no-mmproj-offload the host",
    )  # fmt: skip


def _told(p: Projector, said: Mapping[str, Any], room: Room) -> Iterator[str]:
    most = p.tokens(*p.largest)
    if most > room.context:
        yield f"mmproj: a picture of {most:,} tokens is longer than a context of {room.context:,}"
    if p.kind in WHOLE and most > room.ubatch:
        yield f"mmproj: llama.cpp stops at a picture, whose {most:,} tokens are no part of one pass (--ubatch-size)"
    if p.limits is not None:
        least = min(p.limits[0], most)
        yield f"mmproj: a picture takes {least:,} to {most:,} tokens of the context (--image-max-tokens)"
        return
    tile = "; a large picture is cut into several" if p.kind in TILED or p.tiled else ""
    yield f"mmproj: a picture of {p.side} x {p.side} takes {most:,} tokens of the context{tile}"
    for key in ("image_min_tokens", "image_max_tokens"):
        if said.get(key) is not None:
            yield f"{key}: projectors of type {p.kind} take pictures of one size"


def components(s: Seen, device: int, host: bool, reference: str) -> Iterator[Component]:
    """Lines of one rank.

    Args:
        s: the projector.
        device: the rank's accelerator.
        host: whether the rank tells what the host holds.
        reference: of the engine.
    """
    b, here = s.buffers, s.device == device
    tier = "requested" if here else "host"
    if here or (host and s.device is None):
        words = f"{s.name} projector model buffer: {len(s.projector.tensors)} tensors of {s.projector.name}"
        yield exact("weights", b.weights, words, reference, tier=tier, trust=DERIVED)
    if here:
        yield from _compute(s, s.name, b.reserved[0], b.largest[0], "requested", reference)
    if host:
        yield from _compute(s, "CPU", b.reserved[1], b.largest[1], "host", reference)


def _compute(s: Seen, name: str, start: int, most: int, tier: str, reference: str) -> Iterator[Component]:
    p = s.projector
    wide, high = p.warmup
    if start:
        words = f"{name} projector compute buffer: a picture of {wide} x {high}, flash attention " + (
            "on" if s.buffers.flash else "off"
        )
        yield exact("activations", start, words, reference, tier=tier, trust=DERIVED)
    if most > start:
        wide, high = p.largest
        several = f"{p.together} tiles" if p.together > 1 else "one picture"
        words = (
            f"{name} projector compute buffer grows for {several} of {wide} x {high}, "
            f"{p.together * p.tokens(wide, high):,} tokens"
        )
        yield ranged("activations", 0, most - start, most - start, words, reference, tier=tier, trust=DERIVED)


def log(s: Seen) -> Iterator[str]:
    """The lines that tell sizes, as v0.5.0 prints them."""
    b = s.buffers
    yield f"load_hparams: model size:         {b.file / MiB:.2f} MiB"
    yield f"get_dummy_batch: warmup with image size = {s.projector.warmup[0]} x {s.projector.warmup[1]}"
    for name, size in ((s.name, b.reserved[0]), ("CPU", b.reserved[1])):
        if size > 1:
            yield f"reserve_compute_meta: {name:>10} compute buffer size = {size / MiB:8.2f} MiB"
