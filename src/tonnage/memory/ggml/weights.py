"""Weights of a GGUF file by the device that llama.cpp loads them to.

Reference: src/llama-model.cpp ``load_tensors``, src/llama-model-loader.cpp ``create_tensor`` and ``get_mapping_range``,
common/arg.cpp (``--cpu-moe``, ``--n-cpu-moe``), ggml/src/ggml-cuda/ggml-cuda.cu
``ggml_backend_cuda_buffer_type_get_alloc_size`` and ggml/src/ggml-cpu/repack.cpp of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.quant import Recipe, called, entries
from tonnage.quant import recipe as recipe_of
from tonnage.record import Record

INPUTS: Final = ("token_embd", "position_embd", "token_types")
"""Tensors of the input, which stay in host memory."""

EXPERTS: Final = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
"""Tensors that ``--cpu-moe`` keeps in host memory. common/common.h ``LLM_FFN_EXPS_REGEX``"""

DENSE: Final = r"\.ffn_(up|down|gate)\."
"""Tensors that ``--n-cpu-ffn`` does. common/common.h ``LLM_FFN_DENSE_REGEX``"""

REPACKED: Final = {"q4_0": 8, "q4_K": 8, "iq4_nl": 8, "mxfp4": 8}
"""Formats whose matrices are laid out anew on a CPU with AVX2, and what their rows divide by."""

ROW: Final = 512
"""Elements to which CUDA pads the last row of a quantized matrix (``MATRIX_ROW_PADDING``)."""


def row_pad(form: str, columns: int) -> int:
    """What CUDA adds to a quantized tensor so that its last row is whole. [byte]

    >>> row_pad("q8_0", 512), row_pad("q8_0", 256), row_pad("fp16", 256)
    (0, 272, 0)
    """
    rest = columns % ROW
    return FORMATS[form].nbytes(ROW - rest) if FORMATS[form].elements > 1 and rest else 0


class Weight(Record):
    """A tensor of the file.

    Args:
        name: llama.cpp's.
        layer: index; None outside the layers.
        format: of its elements.
        shape: outermost dimension first.
        input: whether it belongs to the input.
    """

    name: str
    layer: int | None
    format: str
    shape: tuple[int, ...]
    input: bool

    @property
    def nbytes(self) -> int:
        """Bytes in the file. [byte]"""
        return FORMATS[self.format].nbytes(prod(self.shape))

    def on_cuda(self) -> int:
        """Bytes in a buffer of CUDA. [byte]"""
        return self.nbytes + row_pad(self.format, self.shape[-1] if self.shape else 1)


def file_of(model: Model, recipe: Recipe | None, dtype: str) -> tuple[tuple[Weight, ...], bool]:
    """The tensors of a model's GGUF file, and whether they carry llama.cpp's names.

    Raises:
        UnsupportedError: a recipe that no GGUF file is made by.
    """
    if recipe is None:
        names = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
        try:
            recipe = recipe_of(called(names.get(dtype, "bf16")))
            return tuple(_planned(model, recipe)), True
        except UnsupportedError:
            return tuple(_plain(model, dtype)), False
    if recipe.plan is None or recipe.method != "gguf":
        raise UnsupportedError(
            f"llamacpp runs GGUF files, and {recipe.title} is no format of theirs", key="quant", value=recipe.method,
            hint="--quant q4_k_m, q8_0, f16, ...; --quant none takes the checkpoint as if converted unquantized",
        )  # fmt: skip
    return tuple(_planned(model, recipe)), True


def _planned(model: Model, recipe: Recipe) -> Iterator[Weight]:
    if recipe.plan is None:
        return
    norm = model.decoder.stem.norm
    own = norm.name.rpartition(".")[2] + "." if norm is not None else None
    for _, t, _ in recipe.plan(model):
        first = t.name.startswith(INPUTS) or (t.layer is None and t.role in ("embedding", "position"))
        # The norm of the embedding runs with the first layer.
        normed = t.name.startswith("token_embd_norm") or (own is not None and t.name.startswith(own))
        at = 0 if normed and t.layer is None else t.layer
        yield Weight(t.name, at, t.dtype or "fp32", tuple(n for _, n in t.axes), first and not normed)


def _plain(model: Model, dtype: str) -> Iterator[Weight]:
    """Matrices in the file's format, what has one dimension in fp32: as every converter keeps them."""
    for _, t, m in entries(model, by_layer=True):
        if t.role == "buffer" or t.alias_of is not None:
            continue
        kept = (m is None and t.role != "embedding") or (m is not None and m.rows == 1)
        first = t.layer is None and t.role in ("embedding", "position")
        name = t.name
        if t.layer is None and t.role in ("embedding", "head") and len(t.shape) == 2:
            name = "token_embd.weight" if t.role == "embedding" else "output.weight"
        yield Weight(name, t.layer, "fp32" if kept or t.role == "router" else dtype, t.shape, first)


# Which device holds what.


class Placing(Record):
    """Where layers and single tensors go.

    Args:
        layers: of the model.
        devices: accelerators.
        offloaded: layers on accelerators, the output counting as one.
        shares: of each accelerator; empty for equal ones.
        overrides: expressions of tensors' names, each with the device that they name (-1: host memory).
        late: the output goes to an accelerator after all layers, not before them.
    """

    layers: int
    devices: int
    offloaded: int
    shares: tuple[float, ...] = ()
    overrides: tuple[tuple[str, int], ...] = ()
    late: bool = False

    @property
    def host(self) -> int:
        """Host memory comes behind the accelerators."""
        return self.devices

    def of_layer(self, index: int) -> int:
        """The device of a layer; of the output for one beyond the last."""
        start = max(self.layers + (not self.late) - self.offloaded, 0)
        there = min(self.offloaded, self.layers + 1) if self.devices else 0
        if index < start or index - start >= there:
            return self.host
        at = _single((index - start) / there)
        return sum(split <= at for split in self.splits())

    def splits(self) -> list[float]:
        """Where each accelerator's part of the layers ends, in the single precision of the loader."""
        shares = self.shares if any(self.shares) else (1.0,) * self.devices
        sums, total = [], 0.0
        for share in shares:
            total = _single(total + share)
            sums.append(total)
        return [_single(s / total) for s in sums]

    def of(self, w: Weight) -> int:
        """The device of a tensor."""
        for pattern, device in self.overrides:
            if re.search(pattern, w.name):
                return self.host if device < 0 else device
        if w.input:
            return self.host
        return self.of_layer(self.layers if w.layer is None else w.layer)


def _single(x: float) -> float:
    """Rounded to single precision."""
    rounded: float = struct.unpack("f", struct.pack("f", x))[0]
    return rounded


def overrides(text: str | None, names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """``--override-tensor``: ``expression=buffer``, comma-separated.

    Raises:
        InputError: not of this form, or a buffer that there is not.

    >>> overrides(r"ffn_.*_exps=CPU", ("CUDA0",))
    (('ffn_.*_exps', -1),)
    """
    found = []
    for item in filter(None, (text or "").split(",")):
        pattern, equals, name = item.rpartition("=")
        where = [*(n.lower() for n in names), "cpu"]
        if not equals or name.lower() not in where:
            raise InputError(
                f"override_tensor: {item!r} is not expression=buffer", key="override_tensor", value=item,
                hint=f"buffers: {', '.join((*names, 'CPU'))}",
            )  # fmt: skip
        try:
            re.compile(pattern)
        except re.error as e:
            raise InputError(
                f"override_tensor: {pattern!r} is no regular expression: {e}", key="override_tensor", value=pattern
            ) from None
        at = where.index(name.lower())
        found.append((pattern, at if at < len(names) else -1))
    return tuple(found)


class Loaded(Record):
    """What of the weights lies where.

    Args:
        devices: bytes of each accelerator's buffer. [byte]
        host: bytes of the tensors in host memory. [byte]
        mapped: bytes from the first of them in the file to the last. [byte]
        repacked: bytes of what the CPU lays out anew, and keeps beside the file's pages. [byte]
        tied: bytes of the table of tokens that a device holds once more as the output. [byte]
    """

    devices: tuple[int, ...]
    host: int
    mapped: int
    repacked: int
    tied: int


def loaded(file: Iterable[Weight], placing: Placing, *, cuda: bool, align: int, repack: bool) -> Loaded:
    """Bytes of weights by device.

    Args:
        file: the tensors, in the file's order.
        placing: where they go.
        cuda: whether the accelerators' buffers pad quantized rows.
        align: of tensors in the accelerators' buffers. [byte]
        repack: whether matrices that stay with the CPU are laid out anew.
    """
    sizes = [0] * (placing.devices + 1)
    offset = repacked = 0
    first, last = None, 0
    tokens, output = None, False
    for w in file:
        at = placing.of(w)
        output = output or w.name == "output.weight"
        tokens = w if w.name == "token_embd.weight" else tokens
        size = w.nbytes
        if at < placing.host:
            sizes[at] += _padded(w.on_cuda() if cuda else size, align)
        elif repack and not w.input and _repacks(w):
            repacked += size
        else:
            sizes[at] += size
            first, last = offset if first is None else first, offset + size
        offset += _padded(size, 32)
    tied, at = 0, placing.of_layer(placing.layers)
    if tokens is not None and not output and at < placing.host:
        tied = _padded(tokens.on_cuda() if cuda else tokens.nbytes, align)
        sizes[at] += tied
    return Loaded(
        devices=tuple(sizes[: placing.devices]),
        host=sizes[placing.host],
        mapped=last - first if first is not None else 0,
        repacked=repacked,
        tied=tied,
    )


def _padded(size: int, to: int) -> int:
    return -(-size // to) * to


def _repacks(w: Weight) -> bool:
    rows = REPACKED.get(w.format)
    return rows is not None and len(w.shape) in (2, 3) and w.shape[-2] % rows == 0
