"""Low-rank changes whose second matrix is mixed of several that layers share, by a router (arXiv:2407.09946).

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/lily/ layer.py (Linear.forward), model.py
(_post_injection_hook)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import Parameter, Value
from tonnage.arch.tuning import matrices
from tonnage.arch.tuning.tuners import Beside, Frozen
from tonnage.record import Record
from tonnage.tensors import Axes, size

if TYPE_CHECKING:
    from tonnage.arch.layers import Linear
    from tonnage.arch.tuning.adapters import Packed

SECOND = "lily_B.weight"


class Lily(Record):
    """Each layer's own first matrix, and second ones that all layers' modules of a name share.

    Args:
        modules: names of the adapted matrices below the layer.
        dtype: of all matrices.
        rank: of the change.
        seconds: second matrices that are mixed.
    """

    modules: frozenset[str]
    dtype: str
    rank: int
    seconds: int
    early: ClassVar[tuple[str, ...]] = ()

    def bank(self, name: str) -> str:
        """The parameter that a module shares with those of other layers."""
        return f"{name}.{SECOND}"

    def second(self, outs: Axes) -> Axes:
        """Axes of the shared matrices."""
        return (("X", self.seconds * self.rank), *outs)

    def trained(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """The first matrix and the router."""
        return ("lily_A.weight", (("R", self.rank), *ins)), (
            "lily_router.weight",
            (("E", self.seconds), ("R", self.rank)),
        )

    def kept(self, name: str, outs: Axes, ins: Axes) -> tuple[Beside, ...]:
        """None."""
        return ()

    def forward(self, f: Forward, linear: Linear, x: Value, frozen: Frozen, packed: Packed | None) -> Value:
        """The frozen output with the change added."""
        tape, name, grad = f.tape, linear.name, f.tape.grad
        y = frozen(f, linear, x)
        before = y.dtype
        R, E = ("R", self.rank), ("E", self.seconds)
        first = Parameter(tape, f"{name}.lily_A.weight", (R, *linear.ins), self.dtype, grad)
        router = Parameter(tape, f"{name}.lily_router.weight", (E, R), self.dtype, grad)
        seconds = Parameter(tape, self.bank(name), self.second(linear.outs), self.dtype, grad)
        several = matrices.taken(seconds, (E, R, *linear.outs))
        x = ops.cast(x, self.dtype)
        low = ops.linear(x, first, None, len(linear.ins), (R,))
        logits = ops.linear(low, router, None, 1, (E,))
        shares = ops.softmax(logits, label="shares of matrices")
        mean = _mean(shares, (("X", 1), E))
        mixed = matrices.product(
            mean, several.view((E, ("X", size((R, *linear.outs))))), (R, *linear.outs), "mixed matrix"
        )
        change = ops.matmul(low, mixed, (*low.axes[:-1], *linear.outs), "change")
        added = [ops.scaled(change)]
        added = [ops.cast(added.pop(), before)]
        return ops.add(y, added.pop())


def _mean(x: Value, axes: Axes) -> Value:
    """The mean over all tokens."""
    tape, whole, dtype = x.tape, x.axes, x.dtype
    out = tape.new("mean shares", axes, dtype)
    tape.record((out,), (x,), lambda _: (tape.new("gradient of mean shares", whole, dtype),), ())
    return out
