"""What is trained beside a frozen matrix, each way of doing it as peft's own forward pass writes it.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/ lora/layer.py, lora/bnb.py, lora/dora.py,
lora/variants.py, vera/layer.py, ia3/layer.py, ia3/bnb.py (forward)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Grads, Parameter, Value, needs_grad
from tonnage.record import Record
from tonnage.tensors import Axes, Role, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed
    from tonnage.arch.tuning.merged import Merge

Frozen = Callable[[Forward, "Linear", Value], Value]
"""The product with the frozen matrix."""

Beside = tuple[str, Axes] | tuple[str, Axes, str] | tuple[str, Axes, str, Role]
"""Name below the module, and axes, of a tensor beside a matrix; its format where that is not the adapters', and its
role where that is not the matrix's."""


class Method(Protocol):
    """A way to train something small beside frozen matrices.

    ``early`` are ends of names of parameters that a term of the loss is about, so that their gradients come first.
    """

    early: ClassVar[tuple[str, ...]]

    @property
    def modules(self) -> frozenset[str]:
        """Names of the adapted matrices below the layer."""
        ...

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The adapted product.

        Args:
            f: the pass.
            linear: the frozen matrix.
            x: what it is given.
            frozen: the product with it.
            packed: how it is packed; None where it is not.
        """
        ...

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The trained tensors beside a matrix."""
        ...

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Tensors beside a matrix that are not trained."""
        ...


class LoRA(Record):
    """Low-rank adapters (arXiv:2106.09685): ``y + s B(A(x))``.

    rsLoRA (arXiv:2312.03732) differs in the number ``s`` alone.

    Args:
        modules: names of the adapted matrices below the layer.
        rank: of the adapters.
        dropout: of their input.
        dtype: their format.
        half: the first matrix stays as it was drawn (LoRA-FA, arXiv:2308.03303).
        stacked: of stacked experts and their router, which are no modules, how many matrices lie in one side by side.
    """

    modules: frozenset[str]
    rank: int
    dropout: float
    dtype: str
    half: bool = False
    stacked: Mapping[str, int] = {}
    early: ClassVar[tuple[str, ...]] = ()

    def merged(self, f: Forward, tensors: Sequence[tuple[str, Axes]]) -> dict[str, Merge]:
        """What stands for stacked matrices that have adapters."""
        from tonnage.arch.tuning.merged import merges

        return merges(f, tensors, {name: self.rank * n for name, n in self.stacked.items()}, self.dtype)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both matrices, or the second."""
        second: Beside = ("lora_B.weight", (*outs, ("R", self.rank)))
        return (second,) if self.half else (("lora_A.weight", (("R", self.rank), *ins)), second)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The first matrix where it is not trained."""
        return (("lora_A.weight", (("R", self.rank), *ins)),) if self.half else ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen matrix's output with the adapter's added.

        The adapter's output is cast before they are added where the matrix is packed, and the frozen output is copied
        first where it is of 4 bit.
        """
        if linear.name in self.stacked:
            from tonnage.arch.tuning.merged import plain, product

            weight = plain(f, linear.name, linear.outs, linear.ins, self.rank, self.dtype)
            return product(x, weight, len(linear.ins), linear.outs)
        y = frozen(f, linear, x)
        before = y.dtype
        if packed is not None and packed.copies:
            y = ops.copy(y)
        converts = packed is None or x.tape.autocast is None
        if converts:
            x = ops.cast(x, self.dtype)
        a, b = pair(f, linear, self.rank, self.dtype, half=self.half)
        low = ops.linear(ops.dropout(x, self.dropout, f.training), a, None, len(linear.ins), a.axes[:1])
        added = ops.linear(low, b, None, 1, linear.outs)
        del low
        added = ops.scaled(added)
        if packed is not None and converts:
            added = ops.cast(added, before)
        y = ops.add(y, added)
        if packed is not None:
            return y
        del added
        return ops.cast(y, before)


def pair(f: Forward, linear: Linear, rank: int, dtype: str, *, half: bool = False) -> tuple[Parameter, Parameter]:
    """The two low-rank matrices beside one."""
    inner: Axes = (("R", rank),)
    grad = f.tape.grad
    a = Parameter(f.tape, f"{linear.name}.lora_A.weight", inner + linear.ins, dtype, grad and not half)
    return a, Parameter(f.tape, f"{linear.name}.lora_B.weight", linear.outs + inner, dtype, grad)


class DoRA(Record):
    """Weight-decomposed adapters (arXiv:2402.09353): direction by LoRA, and a trained magnitude for every output.

    The norm of the adapted matrix is made anew in every pass, from a copy of the frozen matrix in the adapter's format.

    Args:
        modules: names of the adapted matrices below the layer.
        rank: of the adapters.
        dropout: of their input. With any, the frozen product is made a second time, and its matrix's copy is kept.
        dtype: their format.
        stored: format of the frozen matrices as they were before they were packed.
    """

    modules: frozenset[str]
    rank: int
    dropout: float
    dtype: str
    stored: str
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """Both matrices and the magnitudes."""
        inner = ("R", self.rank)
        first: Beside = ("lora_A.weight", (inner, *ins))
        return first, ("lora_B.weight", (*outs, inner)), ("lora_magnitude_vector.weight", outs)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the change of direction and magnitude added."""
        y = frozen(f, linear, x)
        before = y.dtype
        if packed is not None and packed.copies:
            y = ops.copy(y)
        converts = packed is None or x.tape.autocast is None
        if converts:
            x = ops.cast(x, self.dtype)
        drops = bool(self.dropout) and f.training
        # The caller's code still names what it had cast.
        change = self._change(f, linear, ops.dropout(x, self.dropout, f.training), None if drops else y, packed)
        y = ops.add(y, change)
        del change
        return ops.cast(y, before) if converts else y

    def _change(self, f: Forward, linear: Linear, x: Value, base: Value | None, packed: Packed | None) -> Value:
        a, b = pair(f, linear, self.rank, self.dtype)
        direction = self._direction(f, linear, a, b)
        direction = _forgotten(ops.cast(direction, x.dtype))
        weight = self._weight(f, linear, x, packed)
        norm = _norm(linear, weight, direction)
        magnitude = Parameter(f.tape, f"{linear.name}.lora_magnitude_vector.weight", linear.outs, self.dtype, b.trained)
        scale = _over(magnitude, norm)
        result = ops.linear(ops.linear(x, a, None, len(linear.ins), a.axes[:1]), b, None, 1, linear.outs)
        if base is None:
            base = _against(x, weight, linear)
        elif linear.bias:
            base = ops.add(base, f.tape.parameter(f"{linear.name}.bias", linear.outs), "without bias")
        moved = ops.mul(ops.shifted(scale), base, "change of magnitude")
        turned = ops.scaled(ops.mul(scale, result, "scaled change"))
        return ops.add(moved, turned)

    def _direction(self, f: Forward, linear: Linear, a: Parameter, b: Parameter) -> Value:
        """``B(A(I))``, whose graph lives as long as it does."""
        inner: Axes = (("X", size(linear.ins)),)
        identity = f.tape.new("identity", inner + linear.ins, self.dtype)
        low = _forgotten(ops.linear(identity, a, None, len(linear.ins), a.axes[:1]))
        return _forgotten(ops.linear(low, b, None, 1, linear.outs))

    def _weight(self, f: Forward, linear: Linear, x: Value, packed: Packed | None) -> Value | Parameter:
        """The frozen matrix in the format of ``x``."""
        if packed is not None:
            return ops.cast(packed.whole(f, linear, self.stored), x.dtype, "matrix cast")
        weight = f.tape.parameter(f"{linear.name}.weight", linear.outs + linear.ins)
        return weight if weight.dtype == x.dtype else f.tape.new("matrix cast", weight.axes, x.dtype)


def _forgotten(v: Value) -> Value:
    """A value whose step the backward pass never comes to: what it saved goes when the value does."""
    nodes = v.tape.nodes
    if nodes and nodes[-1] is v.node:
        nodes.pop()
    return v


def _norm(linear: Linear, weight: Value | Parameter, direction: Value) -> Value:
    """The length of every row of the adapted matrix, outside the graph."""
    tape, whole = direction.tape, linear.outs + linear.ins
    multiple = tape.new("scaled direction", whole, direction.dtype)
    summed = tape.new("adapted matrix", whole, weight.dtype)
    del multiple
    norm = tape.new("length of rows", linear.outs, "fp32" if tape.autocast is not None else summed.dtype)
    del summed
    return ops.cast(norm, weight.dtype)


def _over(magnitude: Parameter, norm: Value) -> Value:
    """``magnitude / norm``, of which the divisor is kept."""
    tape, axes, dtype = norm.tape, norm.axes, magnitude.dtype
    out = tape.new("magnitude over length", axes, dtype)
    tape.record((out,), (magnitude,), lambda g: (tape.new("gradient of magnitude", axes, dtype),), (norm,))
    return out


def _against(x: Value, weight: Value | Parameter, linear: Linear) -> Value:
    """The product with a frozen matrix, of which a copy is kept where it is one."""
    if isinstance(weight, Parameter):
        return ops.linear(x, weight, None, len(linear.ins), linear.outs)
    x, w = ops.lowered(x), ops.lowered(weight)
    tape, inner, form = x.tape, x.axes, x.dtype
    out = tape.new("frozen product", inner[: len(inner) - len(linear.ins)] + linear.outs, form)

    def back(g: Value) -> Grads:
        return (tape.new("input gradient", inner, form),)

    tape.record((out,), (x,), back, (w,) if needs_grad(x) else ())
    return out


class VeRA(Record):
    """Two frozen matrices for the whole model, scaled by a trained vector behind each (arXiv:2310.11454).

    Args:
        modules: names of the adapted matrices below the layer.
        rank: of the shared matrices.
        dropout: of their input.
        dtype: their format.
    """

    modules: frozenset[str]
    rank: int
    dropout: float
    dtype: str
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The two vectors."""
        return ("vera_lambda_b", outs), ("vera_lambda_d", (("R", self.rank),))

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None of its own: what is shared stands once."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the scaled projections added."""
        previous = x.dtype
        y = frozen(f, linear, x)
        before = y.dtype
        if packed is not None and packed.copies:
            y = ops.copy(y)
        inner: Axes = (("R", self.rank),)
        tape, name, dtype = x.tape, linear.name, self.dtype
        a = Parameter(tape, f"{name}.vera_A", inner + linear.ins, dtype, False)
        b = Parameter(tape, f"{name}.vera_B", linear.outs + inner, dtype, False)
        d = Parameter(tape, f"{name}.vera_lambda_d", inner, dtype, tape.grad)
        out = Parameter(tape, f"{name}.vera_lambda_b", linear.outs, dtype, tape.grad)
        x = ops.cast(x, dtype)
        low = [ops.linear(ops.dropout(x, self.dropout, f.training), a, None, len(linear.ins), inner)]
        added = ops.linear(ops.mul(d, low.pop(), "scaled projection"), b, None, 1, linear.outs)
        added = ops.mul(out, added, "scaled product")
        y = ops.add(y, added)
        del added
        return ops.cast(ops.cast(y, before), previous)


class IA3(Record):
    """Outputs, or the inputs of feed-forward matrices, times a trained vector (arXiv:2205.05638).

    Args:
        modules: names of the adapted matrices below the layer.
        inputs: of which of them the input is scaled.
        dtype: format of the vectors.
    """

    modules: frozenset[str]
    inputs: frozenset[str]
    dtype: str
    early: ClassVar[tuple[str, ...]] = ()

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """One vector over the outputs, or the inputs."""
        return (("ia3_l", ins if name in self.inputs else outs),)

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen product of a scaled input, or scaled itself."""
        first = linear.name in self.inputs
        before = x.dtype
        axes = linear.ins if first else linear.outs
        scale = _once(Parameter(x.tape, f"{linear.name}.ia3_l", axes, self.dtype, x.tape.grad))
        if packed is not None:
            if x.tape.autocast is None:
                x = ops.cast(x, "fp32")
            y = frozen(f, linear, ops.mul(x, scale)) if first else ops.mul(frozen(f, linear, x), scale)
            return ops.copy(y)
        if first:
            x = ops.cast(x, self.dtype)
            interm = ops.cast(ops.mul(x, scale, "scaled input"), before)
            return frozen(f, linear, interm)
        y = frozen(f, linear, x)
        return ops.cast(ops.mul(y, scale, "scaled output"), y.dtype)


def _once(weight: Parameter) -> Value:
    """``1 * weight``: a copy, whose gradient is one too."""
    tape, axes, dtype = weight.tape, weight.axes, weight.dtype
    out = tape.new("scale", axes, dtype)
    tape.record((out,), (weight,), lambda g: (tape.new("gradient of scale", axes, dtype),), ())
    return out
