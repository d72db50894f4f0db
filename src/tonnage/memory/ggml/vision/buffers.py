"""The buffers of a projector: its weights, what its graph is reserved for, and what the largest picture makes of that.

The graph is reserved at start for a picture of one size (``warmup``); a larger one makes the buffers grow.

Reference: tools/mtmd/clip.cpp ``reserve_compute_meta``, ``clip_encode`` and ``clip_get_mem_usage`` of
ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from math import prod

from tonnage.formats import FORMATS
from tonnage.memory.ggml.graph import Node
from tonnage.memory.ggml.reserve import DEVICE_ALIGN, HOST_ALIGN, cuda_size
from tonnage.memory.ggml.sched import Device, reserved
from tonnage.memory.ggml.vision.graphs import graph
from tonnage.memory.ggml.vision.projector import Projector
from tonnage.memory.ggml.weights import row_pad
from tonnage.record import Record

HEADS: tuple[int, ...] = (40, 64, 72, 80, 96, 112, 128, 256)
"""Widths of heads that CUDA's flash attention takes without a mask. ggml/src/ggml-cuda/fattn.cu"""


class Where(Record):
    """What a projector runs on.

    Args:
        device: an accelerator, rather than the host.
        cuda: whether that is CUDA.
        flash: "auto", "on" or "off".
    """

    device: bool
    cuda: bool = True
    flash: str = "auto"


class Loaded(Record):
    """A projector's buffers. [byte]

    Args:
        file: all tensors of the file, as its loader prints them.
        weights: as they lie in their buffer.
        reserved: compute buffers at start: the accelerator's and the host's.
        largest: the same for the largest picture.
        flash: attention is one operation.
    """

    file: int
    weights: int
    reserved: tuple[int, int]
    largest: tuple[int, int]
    flash: bool

    @property
    def used(self) -> int:
        """What ``--fit`` takes it to need on its device. [byte]"""
        return self.file + self.reserved[0]


def flash_runs(p: Projector, w: Where) -> bool:
    """Whether attention is one operation: as told, else where the device takes its heads."""
    if w.flash != "auto":
        return w.flash == "on"
    heads = (p.head, 128) if p.queries else (p.head,)
    return not (w.device and w.cuda) or all(h in HEADS for h in heads)


def loaded(p: Projector, w: Where) -> Loaded:
    """What a projector takes."""
    flash = flash_runs(p, w)
    align = DEVICE_ALIGN if w.device and w.cuda else HOST_ALIGN
    sizes = [(FORMATS[form].nbytes(prod(shape)), form, shape) for shape, form in p.tensors.values()]
    pads = w.device and w.cuda
    kept = (size + (row_pad(form, shape[-1] if shape else 1) if pads else 0) for size, form, shape in sizes)
    start = _compute(p, w, p.warmup, 1, flash=flash)
    most = [start, _compute(p, w, p.largest, p.together, flash=flash)]
    return Loaded(
        file=sum(size for size, _, _ in sizes),
        weights=sum(-(-size // align) * align for size in kept),
        reserved=start,
        largest=(max(m[0] for m in most), max(m[1] for m in most)),
        flash=flash,
    )


def _compute(p: Projector, w: Where, size: tuple[int, int], count: int, *, flash: bool) -> tuple[int, int]:
    """Bytes of the accelerator's compute buffer and of the host's."""
    host = Device("CPU", HOST_ALIGN, False, _plain)
    if not w.device:
        sizes, _ = reserved(graph(p, size, 0, flash=flash, count=count), [host])
        return 0, sizes[0]
    first = Device(
        "GPU", DEVICE_ALIGN if w.cuda else HOST_ALIGN, True, _cuda if w.cuda else _plain,
        runs=_runs if w.cuda else None,
    )  # fmt: skip
    sizes, _ = reserved(graph(p, size, 0, flash=flash, count=count), [first, host])
    return sizes[0], sizes[1]


def _plain(t: Node) -> int:
    return t.nbytes


def _cuda(t: Node) -> int:
    return cuda_size(t, (False, False))


def _runs(t: Node) -> bool:
    """Whether CUDA has an operation. ggml/src/ggml-cuda/ggml-cuda.cu ``ggml_backend_cuda_device_supports_op``"""
    if t.op == "IM2COL":
        return all(x.contiguous for x in t.src)
    if t.op == "FLASH_ATTN_EXT":
        return t.src[1].ne[0] in HEADS
    return True
