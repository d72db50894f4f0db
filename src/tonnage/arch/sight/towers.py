"""Towers: layers over the patches of a picture, on the tape that the language model's embedding is on.

A tower's layers bear their full names, by which adapters are put beside their matrices.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/siglip/modeling_siglip.py
(SiglipVisionEmbeddings, SiglipVisionModel), clip/modeling_clip.py.

Leaves out: what cuDNN takes for a convolution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from tonnage.arch import ops
from tonnage.arch.again import beside, nested
from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer
from tonnage.arch.naming import moved
from tonnage.arch.tape import Grads, Parameter, Tape, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor


class Patches(Record):
    """A convolution whose stride is its kernel: a row for every patch.

    Args:
        name: path of the module.
        channels: of a picture.
        D: width of a row.
        side: of a patch.
        bias: whether it has one.
        hooked: ``enable_input_require_grads`` finds it.
    """

    name: str
    channels: int
    D: int
    side: int
    bias: bool = True
    hooked: bool = True

    def weights(self) -> Iterator[Tensor]:
        """Kernel and bias."""
        yield Tensor(f"{self.name}.weight", self._kernel, "vision")
        if self.bias:
            yield Tensor(f"{self.name}.bias", (("D", self.D),), "vision")

    @property
    def _kernel(self) -> Axes:
        return ("D", self.D), ("X", self.channels), ("C", self.side), ("C", self.side)

    def forward(self, f: Forward, pixels: Value, rows: int) -> Value:
        """Pictures (first axis) to rows of patches; what was given is kept in the format of the weights."""
        tape = f.tape
        weight = tape.parameter(f"{self.name}.weight", self._kernel)
        bias = tape.parameter(f"{self.name}.bias", (("D", self.D),)) if self.bias else None
        given = ops.cast(pixels, weight.dtype)
        shift = None if bias is None else ops.lowered_weight(bias)
        kernel = ops.lowered_weight(weight)
        x = ops.lowered(given)
        out = tape.new("patches", self._rows(x, rows), x.dtype)
        form, learns, shifts = x.dtype, needs_grad(kernel), needs_grad(shift)

        def back(g: Value) -> Grads:
            gw = tape.new("weight gradient", weight.axes, form) if learns else None
            return None, gw, tape.new("bias gradient", (("D", self.D),), form) if shifts else None

        tape.record((out,), (x, kernel, shift), back, (x, *((kernel,) if isinstance(kernel, Value) else ())))
        del given
        if f.input_grads and self.hooked:
            tape.start(out, held=True)
        return out

    def _rows(self, x: Value, rows: int) -> Axes:
        return x.axes[0], ("T", rows), ("D", self.D)


class Table(Record):
    """A learned row for every patch of a square.

    Args:
        name: path of the module.
        rows: of the table.
        D: width of a row.
    """

    name: str
    rows: int
    D: int

    def weights(self) -> Iterator[Tensor]:
        """The table."""
        yield Tensor(f"{self.name}.weight", (("P", self.rows), ("D", self.D)), "vision")

    def rows_of(self, f: Forward) -> Parameter:
        """The table, as the pass has it."""
        return f.tape.parameter(f"{self.name}.weight", (("P", self.rows), ("D", self.D)))


class Places(Table):
    """Such a table, whose rows are found by a buffer of indices."""

    def added(self, f: Forward, x: Value) -> Value:
        """``x`` and the row of each patch."""
        table = self.rows_of(f)
        indices = f.tape.new("a buffer", (("X", 0),), "int64").view((("X", 1), ("T", self.rows)))
        return ops.add(x, ops.embedding(indices, table, (("D", self.D),), kept=False), "patches and places")


def numbered(path: str, layer: Layer, count: int) -> Iterator[Layer]:
    """The layers of a list under their full names."""
    for index in range(count):
        yield moved(layer, f"{path}.{index}.".__add__)


def through(f: Forward, x: Value, layers: Iterable[Layer]) -> Value:
    """The layers of a tower one after the other, each under a checkpoint where the model has these on.

    A checkpoint holds the masks, tables and bounds that a layer is called with.
    """
    for layer in layers:
        if f.checkpoints:
            bounds = () if f.bounds is None else (f.bounds,)
            held = (*f.masks.values(), *(v for pair in f.rotary.values() for v in pair), *bounds)
            run = partial(_called, f, layer, f.kernel, tuple(f.masks), tuple(f.rotary))
            x = nested(run, x, held) if f.nests else beside(run, x, held, within=_learns(f, layer))
            # The step of a checkpoint with a backward pass of its own has it as an attribute.
            f.tape.called += held if f.nests and x.node is not None else ()
        else:
            x = layer.forward(f, x)
    return x


def _learns(f: Forward, layer: Layer) -> bool:
    """Whether something of the layer is trained, or beside it."""
    trained, names = f.tape.trained, [t.name for t in layer.weights()]
    if trained is None or any(map(trained, names)):
        return True
    return f.tuning is not None and any(f.tuning.adapts(name.removesuffix(".weight")) for name in names)


def _called(
    f: Forward, layer: Layer, kernel: AttentionKernel, masks: tuple[int | None, ...], tables: tuple[str, ...],
    x: Value, *held: Value,
) -> Value:  # fmt: skip
    """A layer's output, in the circumstances of its first run."""
    own, f.kernel, bounds = f.kernel, kernel, f.bounds
    hides, turns = dict(f.masks), dict(f.rotary)
    n, m = len(masks), len(masks) + 2 * len(tables)
    f.masks.update(zip(masks, held[:n], strict=True))
    f.rotary.update(zip(tables, zip(held[n:m:2], held[n + 1 : m : 2], strict=True), strict=True))
    f.bounds = held[m] if len(held) > m else None
    y = layer.forward(f, x)
    f.kernel, f.bounds = own, bounds
    f.masks.clear()
    f.masks.update(hides)
    f.rotary.clear()
    f.rotary.update(turns)
    return y


def expanded(weight: Parameter, axes: Axes) -> Value:
    """A weight seen as many, whose gradients are summed."""
    tape, before, dtype = weight.tape, weight.axes, weight.dtype
    out = tape.new("a weight", (("X", 0),), dtype).view(axes)
    tape.record((out,), (weight,), lambda g: (tape.new("summed over repeats", before, dtype),), ())
    return out


class Upright(Record):
    """A tower as CLIP's and SigLIP's: patches, places, layers, a norm.

    Args:
        patches: the convolution.
        places: what is added to its output.
        path: of the list of layers.
        layer: one of them, under the names below it.
        count: how many there are.
        behind: norm of the last layer's output.
        image: side of a picture. [pixel]
        first: a learned row that stands before those of the patches, by name; None for none. ``behind`` is of its row
            alone then (CLIP).
        before: norm of what the first layer is given.
    """

    patches: Patches
    places: Places
    path: str
    layer: Layer
    count: int
    behind: Norm
    image: int
    first: str | None = None
    before: Norm | None = None

    @property
    def rows(self) -> int:
        """Patches of a picture, and the first row."""
        return self.places.rows

    def weights(self, indices: Tensor) -> Iterator[Tensor]:
        """All tensors of the tower, with the buffer of indices behind the table."""
        first = () if self.first is None else (Tensor(self.first, (("D", self.patches.D),), "vision"),)
        before = () if self.before is None else self.before.weights()
        parts = (
            *first, *self.patches.weights(), *self.places.weights(), indices, *before, *self.behind.weights(),
        )  # fmt: skip
        layers = (t for layer in numbered(self.path, self.layer, self.count) for t in layer.weights())
        for t in (*parts, *layers):
            role: Role = t.role if t.role == "buffer" else "vision"
            yield Tensor(t.name, t.axes, role, t.dims, None, t.alias_of, t.dtype)

    def pixels(self, tape: Tape, pictures: int) -> Value:
        """What a batch holds, in fp32 as processors make it."""
        axes: Axes = (("B", pictures), ("C", self.patches.channels), ("X", self.image), ("X", self.image))
        return tape.new("pixels", axes, "fp32")

    def forward(self, f: Forward, pixels: Value) -> Value:
        """Pictures to rows of patches (axes ``B T D``)."""
        last = through(f, self._entered(f, pixels), numbered(self.path, self.layer, self.count))
        return self.behind.forward(f, last)

    def states(self, f: Forward, pixels: Value, taken: tuple[int, ...]) -> tuple[list[Value], list[Value]]:
        """Pictures to what some of the layers make, and what else the tower's output holds until that is let go of.

        Args:
            f: the pass.
            pixels: of the pictures.
            taken: by how many layers; 0 is what the first one is given.

        The layers above run as well, for nothing: no gradient comes to them, and what they save is there until the
        model's own code is through.
        """
        x, layers = self._entered(f, pixels), list(numbered(self.path, self.layer, self.count))
        found, top, since = chosen(f, x, layers, taken)
        if self.first is None:
            top = self.behind.forward(f, top)
            kept([top, *unseen(f, since)], f.frame)
            return found, []
        kept([top, *unseen(f, since)], f.frame)
        (B, _, D), since = top.axes, len(f.tape.nodes)
        pooled = self.behind.forward(f, top.view((B, D)))
        return found, [pooled.detached(), *unseen(f, since)]

    def _entered(self, f: Forward, pixels: Value) -> Value:
        """What the first layer is given."""
        x = self.patches.forward(f, pixels, (self.image // self.patches.side) ** 2)
        x = self._with_first(f, x)
        return x if self.before is None else self.before.forward(f, x)

    def _with_first(self, f: Forward, x: Value) -> Value:
        if self.first is None:
            return self.places.added(f, x)
        (B, _, D), tape = x.axes, f.tape
        weight = tape.parameter(self.first, (D,))
        one = expanded(weight, (B, ("T", 1), D))
        # Autocast joins in the wider format.
        wide = x if tape.autocast is None else ops.cast(x, ops.promoted(x.dtype, weight.dtype))
        rows = ops.cat((one, wide), (B, ("T", self.rows), D), "rows")
        del wide
        return self.places.added(f, rows)


def chosen(f: Forward, x: Value, layers: list[Layer], taken: tuple[int, ...]) -> tuple[list[Value], Value, int]:
    """What comes out behind so many of the layers each; the last one's output, and the first step above those."""
    found: dict[int, Value] = {}
    for index, layer in enumerate(layers[: max(taken)]):
        if index in taken:
            found[index] = x
        x = through(f, x, [layer])
    found[max(taken)], since = x, len(f.tape.nodes)
    for layer in layers[max(taken) :]:
        # A checkpoint holds what it is given.
        kept([x] if f.checkpoints else [], f.frame)
        x = through(f, x, [layer])
    return [found[n] for n in taken], x, since


def unseen(f: Forward, since: int) -> list[Value]:
    """What steps have saved whose output gets no gradient, but for weights that autocast has cached; they go."""
    cached = {v.storage for v in f.tape.casts.values()}
    found = [v.detached() for node in f.tape.nodes[since:] for v in node.saved if v.storage not in cached]
    f.tape.forget(since)
    return found


def kept(values: list[Value], frame: list[Value]) -> None:
    """Have these in the frame too, each storage once."""
    for v in values:
        if all(v.storage is not other.storage for other in frame):
            frame.append(v.detached())
