"""Towers to which all pictures of a batch are one row of patches, of which each sees its own picture or a window of it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/qwen2_5_vl/
modeling_qwen2_5_vl.py (Qwen2_5_VLVisionAttention, Qwen2_5_VisionTransformerPretrainedModel), qwen2_vl/
modeling_qwen2_vl.py, and src/transformers/vision_utils.py (get_vision_window_index).

Leaves out: copies of indices that are made on the host, for as long as an operation on the device asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Layer, Sublayer
from tonnage.arch.packed import unbound
from tonnage.arch.rotate import rotate
from tonnage.arch.sight.towers import Patches, Table, numbered, through
from tonnage.arch.tape import Grads, Tape, Value, needs_grad
from tonnage.arch.texts import Texts
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor, size

Shapes = tuple[tuple[int, int], ...]
"""Rows and columns of patches of each picture."""
TABLE: Final = "patches"
PLACE: Final = 8
"""Bytes of an index."""


class Stretches(GroupedQuery):
    """Attention of a row of patches (axes ``T D``), of one stretch after the other.

    Args:
        lengths: of the stretches. [patch]
    """

    lengths: tuple[int, ...] = ()

    def forward(self, f: Forward, x: Value) -> Value:
        """The block's output."""
        first, last = self.matrices()
        T = x.axes[0]
        q, k, v = unbound(first.forward(f, x), (T, ("N", self.N), ("H", self.H)))
        q, k = rotate(q, k, *f.rotary[TABLE], self.H, style="wide, by turns")
        at_once = f.kernel == "flash_attention_2"
        lengths = None if at_once else f.tape.new("lengths of stretches", (("X", len(self.lengths)),), "int32")
        given = [y.view((("B", 1), *y.axes)) for y in (q, k, v)]
        out = self._at_once(f, given) if at_once else self._by_turns(f, given)
        out = last.forward(f, out.view(q.axes))
        f.local.clear()
        del lengths
        return out

    def _by_turns(self, f: Forward, given: list[Value]) -> Value:
        """One stretch after the other, and all of them joined."""
        parts = [ops.split(y, tuple((y.axes[0], ("T", n), *y.axes[2:]) for n in self.lengths)) for y in given]
        found = []
        for part in zip(*parts, strict=True):
            found.append(attend(f, self, *part))
            f.weights.clear()
        # The modelled code names all of it until the output is there.
        f.local += [y for part in parts for y in part] + found
        return ops.cat(tuple(found), given[0].axes)

    def _at_once(self, f: Forward, given: list[Value]) -> Value:
        """By a kernel that is told where each begins."""
        own, f.texts = f.texts, Texts(count=len(self.lengths), told=True, viewed=True)
        out = attend(f, self, *given)
        f.texts = own
        return out


class Frames(Patches):
    """A convolution over patches that come as rows, of a picture that stands for several frames.

    Args:
        frames: of a patch.
    """

    frames: int = 2

    @property
    def ins(self) -> Axes:
        """Of a row."""
        return (("X", self.channels * self.frames * self.side**2),)

    @property
    def _kernel(self) -> Axes:
        return ("D", self.D), ("X", self.channels), ("C", self.frames), ("C", self.side), ("C", self.side)

    def _rows(self, x: Value, rows: int) -> Axes:
        return x.axes[0], ("D", self.D)


class Sampled(Table):
    """A learned table of places for a square of patches, of which each patch takes a mean of four rows."""

    def found(self, f: Forward, indices: Value, weights: Value) -> Value:
        """Places of the patches, in fp32, by rows and weights (axes ``T X``)."""
        return _added_up(ops.mul(ops.embedding(indices, self.rows_of(f), (("D", self.D),)), weights, "weighed places"))


def normed(attention: Block, mlp: Block, norm: Callable[[str], Norm]) -> Layer:
    """A tower's layer: two blocks, each behind a norm of its own, ``norm1`` and ``norm2``."""
    return Layer(sublayers=tuple(Sublayer(block=b, before=norm(f"norm{n}")) for n, b in ((1, attention), (2, mlp))))


def _added_up(x: Value) -> Value:
    """``x.sum(1)``, whose gradient is a view."""
    tape, (T, X, D), dtype = x.tape, x.axes, x.dtype
    out = tape.new("places", (T, D), dtype)
    tape.record((out,), (x,), lambda g: (Value(g.storage, (T, X, D), dtype),), ())
    return out


class Merger(Record):
    """Neighbouring patches as one, and two matrices.

    Args:
        norm: of a patch, or of neighbours as one.
        first, second: the matrices.
    """

    norm: Norm
    first: Linear
    second: Linear

    def weights(self) -> Iterator[Tensor]:
        """All of its tensors."""
        for part in (self.norm, self.first, self.second):
            yield from part.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Rows of patches (axes ``T D``) to fewer, wider ones."""
        (_, T), (_, D) = x.axes
        ((_, width),) = self.first.ins
        merged: Axes = (("T", T * D // width), ("X", width))
        x = x.view(merged) if size(self.norm.axes) == width else x
        x = self.norm.forward(f, x).view(merged)
        return self.second.forward(f, activate(self.first.forward(f, x), "gelu"))


class Row(Record):
    """Qwen2-VL's tower; Qwen2.5-VL's, whose layers but some see windows; Qwen3-VL's, which hands on several outputs.

    Args:
        patches: the convolution.
        rotary: buffers of the angles.
        path: of the list of layers.
        layer: one of them, under the names below it.
        count: how many there are.
        merger: behind them.
        merged: patches along a side that become one.
        window: such along the side of a window; 0 where there are none.
        whole: layers that see pictures whole, where there are windows.
        places: what is added to the patches.
        deep: mergers of the outputs of layers, by the number of each.
    """

    patches: Frames
    rotary: Rotary
    path: str
    layer: Layer
    count: int
    merger: Merger
    merged: int
    window: int = 0
    whole: tuple[int, ...] = ()
    places: Sampled | None = None
    deep: tuple[tuple[int, Merger], ...] = ()

    def weights(self) -> Iterator[Tensor]:
        """All tensors of the tower."""
        parts = (self.patches, self.places, self.merger, *(merger for _, merger in self.deep), self.rotary)
        layers = (t for layer in numbered(self.path, self.layer, self.count) for t in layer.weights())
        for t in (*(t for part in parts if part is not None for t in part.weights()), *layers):
            role = t.role if t.role == "buffer" else "vision"
            yield Tensor(t.name, t.axes, role, t.dims, None, t.alias_of, t.dtype)

    def forward(self, f: Forward, pixels: Value, shapes: Shapes) -> tuple[Value, Value, list[Value]]:
        """Rows of pixels (axes ``T X``) to those of patches, what is seen in them, and what is at other depths."""
        tape, T = f.tape, pixels.axes[0]
        pictures = tuple(rows * columns for rows, columns in shapes)
        windows = tuple(n for shape in shapes for n in self.windows(*shape))
        named = []
        if self.places is not None:
            named = [tape.new("rows of the table", (T, ("X", 4)), "int64"), tape.new("weights", (T, ("X", 4)), "fp32")]
        named.append(tape.new("places of patches", (T, ("X", 2)), "int64"))
        bounds = [tape.new("bounds", (("X", len(found) + 1),), "int32") for found in (pictures, windows) if found]
        x = self.patches.forward(f, pixels, T[1])
        places = T[1] // self.merged**2
        if self.places is not None:
            named.append(self.places.found(f, *named[:2]))
            x = ops.add(x, ops.cast(named[-1], x.dtype), "patches and places")
        if self.window:
            x = ordered(x, places)
        deep, mergers, own = [], dict(self.deep), f.bounds
        self._angles(f, T, places)
        for index, layer in enumerate(numbered(self.path, self.layer, self.count)):
            windowed = self.window and index not in self.whole
            layer = _of_lengths(layer, windows if windowed else pictures)
            f.bounds = bounds[-1 if windowed else 0]
            x = through(f, x, (layer,))
            if index in mergers:
                deep.append(mergers[index].forward(f, x))
        f.rotary.clear()
        f.bounds = own
        found = self.merger.forward(f, x)
        if self.window:
            found = ordered(found, places)
        named.clear()
        return x, found, deep

    def windows(self, rows: int, columns: int) -> Iterator[int]:
        """Patches of each window of a picture, in order."""
        if not self.window:
            return
        for row in range(0, rows // self.merged, self.window):
            for column in range(0, columns // self.merged, self.window):
                high = min(self.window, rows // self.merged - row)
                yield high * min(self.window, columns // self.merged - column) * self.merged**2

    def _angles(self, f: Forward, T: tuple[str, int], places: int) -> None:
        """Cosine and sine of both places of every patch, in fp32; by windows, copies."""
        tape, half = f.tape, ("X", self.rotary.width // 2)
        angles = tape.new("angles of patches", (T, ("X", 2), half), "fp32")
        cosine = ops.scaled(tape.new("cosine", angles.axes, "fp32"))
        sine = ops.scaled(tape.new("sine", angles.axes, "fp32"))
        cosine, sine = (tape.new("table of patches", (T, ("X", 2 * half[1] * 2)), "fp32") for _ in range(2))
        if self.window:
            cosine, sine = ordered(cosine, places), ordered(sine, places)
        f.rotary[TABLE] = cosine, sine


def _of_lengths(layer: Layer, lengths: tuple[int, ...]) -> Layer:
    first, *rest = layer.sublayers
    assert isinstance(first.block, Stretches)
    return layer.but(sublayers=(first.but(block=first.block.but(lengths=lengths)), *rest))


def places_sorted(tape: Tape, places: int) -> None:
    """Scratch of what is added by index: places, sorted, where they came from, and CUB's own byte.

    Reference: pytorch v2.13.0 aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel.
    """
    tape.scratch("places, sorted", *(PLACE * places,) * 4, 1)


def ordered(x: Value, places: int) -> Value:
    """``x[index]``, by an index on the host: its gradient is added up in zeros, by places that are sorted."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    out = tape.new("in another order", axes, dtype)
    flows = needs_grad(x)

    def back(_: Value) -> Grads:
        if not flows:
            return (None,)
        found = tape.new("gradient in the order before", axes, dtype)
        places_sorted(tape, places)
        return (found,)

    tape.record((out,), (x,), back, ())
    return out
