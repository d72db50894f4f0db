"""The compute buffers that llama.cpp reserves: the worst-case graph, scheduled and laid out.

Reference: src/llama-context.cpp ``sched_reserve`` and ``graph_reserve``, ggml/src/ggml-cuda/fattn.cu
``ggml_cuda_flash_attn_ext_get_alloc_size`` of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tonnage.arch.model import Model
from tonnage.memory.ggml.cache import Cells
from tonnage.memory.ggml.graph import Node, Unmodelled
from tonnage.memory.ggml.layers import Batch, Builder
from tonnage.memory.ggml.sched import COPIES, Device, reserved
from tonnage.memory.ggml.weights import ROW, Placing, Weight
from tonnage.record import Record
from tonnage.tensors import Tensor

HOST_ALIGN: Final = 32
DEVICE_ALIGN: Final = 128

SAMPLE: Final = 7
"""Layers at either end of a run of them that stand for all of it: more than any pattern of layers is long."""


SMALL: Final = 32
"""Tokens below which norms are held to their layers' devices also where not all layers are on accelerators."""


class Plan(Record):
    """What a context is made for.

    Args:
        model: what runs.
        file: its tensors.
        placing: which device holds what.
        cells: of the caches.
        tokens: of one pass (``n_ubatch``), before they are made a multiple of the sequences.
        sequences: ``n_seq_max``.
        outputs: tokens of a pass whose logits are asked for, at most.
        flash: whether attention is one operation.
        k, v: formats of the cache.
        host_cache: the cache stays in host memory.
        cuda: whether the accelerators run CUDA.
        fetch: whether weights in host memory are fetched for large batches.
        pipelined: whether several accelerators work on several batches at once.
        measured: only sizes are asked for: the scheduler then forgets which operations were held to a device.
    """

    model: Model
    file: tuple[Weight, ...]
    placing: Placing
    cells: Cells
    tokens: int
    sequences: int
    outputs: int
    flash: bool
    k: str
    v: str
    host_cache: bool = False
    cuda: bool = True
    fetch: bool = True
    pipelined: bool = False
    measured: bool = False

    def cache(self, layer: int) -> int:
        """The device of a layer's cache."""
        return self.placing.host if self.host_cache else self.placing.of_layer(layer)


def compute(p: Plan, *, sampled: bool = False) -> tuple[int, ...] | None:
    """Bytes of each device's compute buffer, the host's last; None where a layer's graph is not known.

    Args:
        p: the context.
        sampled: only layers at both ends of each device's part are laid out: the same bytes on every architecture
            that was tried, in a fraction of the time.
    """
    try:
        found = _pass(p, p.tokens, p.outputs, sampled=sampled)
        stays = any(p.placing.of(w) == p.placing.host and not w.input for w in p.file)
        if p.placing.devices and stays:
            # What is fetched for a prompt is computed by the host for single tokens.
            alone = _pass(p, p.sequences, p.sequences, sampled=sampled)
            found = tuple(map(max, found, alone))
    except Unmodelled:
        return None
    return found


def _pass(p: Plan, tokens: int, outputs: int, *, sampled: bool) -> tuple[int, ...]:
    tokens = -(-tokens // p.sequences) * p.sequences
    batch = Batch(
        tokens=tokens,
        sequences=p.sequences,
        outputs=min(tokens, outputs),
        cells=p.cells.each,
        window_cells=p.cells.window,
        streams=p.cells.streams,
        flash=p.flash,
        k=p.k,
        v=p.v,
        slots=p.cells.slots,
    )
    homes = _homes(p)
    default = p.file[0].format if p.file else "fp16"

    def where(name: str, layer: int | None) -> tuple[int, str]:
        found = homes.get((layer, name))
        if found is not None:
            return found
        at = p.placing.host if name.startswith(("token_embd", "position_embd")) else None
        return at if at is not None else p.placing.of_layer(p.placing.layers if layer is None else layer), default

    pinned = p.placing.host if p.host_cache and p.placing.devices and not p.measured else None
    whole = p.placing.offloaded > p.placing.layers or tokens < SMALL
    builder = Builder(
        p.model,
        batch,
        where,
        p.cache,
        pinned=pinned,
        norms=p.placing.of_layer if p.placing.devices and whole and not p.measured else None,
        factors=(None, "rope_freqs") in homes or any(r.factored for r in p.model.decoder.stem.rotary),
    )
    graph = builder.build(_sample(p) if sampled else range(len(p.model.decoder.layers)))
    sizes, _ = reserved(graph, _devices(p), copies=COPIES if p.pipelined else 1, fetch=p.fetch)
    return tuple(sizes)


def _homes(p: Plan) -> Mapping[tuple[int | None, str], tuple[int, str]]:
    """Device and format of every tensor, by layer and name; the output is the table of tokens where it is tied."""
    found: dict[tuple[int | None, str], tuple[int, str]] = {}
    for w in p.file:
        name = w.name.removesuffix(".weight")
        if w.layer is not None:
            name = name.removeprefix(f"blk.{w.layer}.")
        found[w.layer, name] = p.placing.of(w), w.format
    tokens = found.get((None, "token_embd"))
    if tokens is not None and (None, "output") not in found:
        found[None, "output"] = p.placing.of_layer(p.placing.layers), tokens[1]
    return found


def _sample(p: Plan) -> list[int]:
    """Layers that stand for all: the first and the last ones of every run of layers that lie alike."""
    moved: dict[int, list[tuple[str, int]]] = {}
    if p.placing.overrides:
        for w in p.file:
            at = p.placing.of(w)
            if w.layer is not None and at != p.placing.of_layer(w.layer):
                moved.setdefault(w.layer, []).append((w.name.removeprefix(f"blk.{w.layer}."), at))
    runs: list[list[int]] = []
    last: object = None
    for index in range(len(p.model.decoder.layers)):
        here = (p.placing.of_layer(index), moved.get(index))
        if here != last:
            runs.append([])
        runs[-1].append(index)
        last = here
    out: list[int] = []
    for run in runs:
        out += run if len(run) <= 2 * SAMPLE else run[:SAMPLE] + run[-SAMPLE:]
    return out


def _devices(p: Plan) -> Sequence[Device]:
    copied = tuple(form not in ("fp16", "fp32") for form in (p.k, p.v))

    def on_cuda(t: Node) -> int:
        return cuda_size(t, copied)

    size = on_cuda if p.cuda else _nbytes
    return [
        *(Device(f"GPU{i}", DEVICE_ALIGN, True, size) for i in range(p.placing.devices)),
        Device("CPU", HOST_ALIGN, False, _nbytes),
    ]


def _nbytes(t: Node) -> int:
    return t.nbytes


def cuda_size(t: Node, copied: tuple[bool, ...]) -> int:
    """What a tensor takes in a buffer of CUDA.

    Flash attention holds copies of keys and values in fp16 behind its result where the cache is in another format
    (``copied``); of fp32, the graph makes them itself. Rows of quantized matrices are padded.
    """
    size = t.nbytes
    if t.op == "FLASH_ATTN_EXT":
        keys, values = t.src[1], t.src[2]
        shared = values.base is keys.base
        for cached, needs in zip((keys, values), copied, strict=True):
            if needs and not (cached is values and shared):
                size = -(-size // 128) * 128 + 2 * cached.numel
        return size
    block, elements = t.block
    rest = t.ne[0] % ROW
    return size + (block * ((ROW - rest) // elements) if elements > 1 and rest else 0)


class Rough(Record):
    """A compute buffer as far as it can be told without its graph. [byte]"""

    low: int
    likely: int
    high: int


def rough(p: Plan) -> Rough:
    """What a graph must and may hold at once, where its structure is not known.

    At least the mask, three times the residual stream and the logits; at most the two widest results of all matrices
    beside that, and where attention is not one operation the scores twice.
    """
    tokens, width = p.tokens, p.model.width
    mask = p.cells.each * tokens * (2 if p.flash else 4)
    logits = 4 * p.outputs * p.model.vocabulary
    widest = max((_rows(t) for layer, _ in p.model.decoder.distinct() for t in layer.weights()), default=width)
    heads = max(
        (getattr(s.block, "N", 0) for layer, _ in p.model.decoder.distinct() for s in layer.sublayers), default=0
    )
    scores = 0 if p.flash else 4 * heads * tokens * p.cells.each
    stream = 4 * tokens * width
    low = mask + 3 * stream + scores
    return Rough(
        low=min(low, mask + logits + stream),
        likely=mask + max(4 * stream + 4 * tokens * widest + scores, logits + 2 * stream),
        high=2 * mask + 8 * stream + 16 * tokens * widest + 2 * scores + logits,
    )


def _rows(t: Tensor) -> int:
    """Elements of a token in a matrix's result."""
    shape = t.shape
    return max(shape[-2:]) if len(shape) > 1 else 0
