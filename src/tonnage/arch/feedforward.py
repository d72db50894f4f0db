"""Feed-forward blocks: plain, gated, and experts with a router."""

from __future__ import annotations

from collections.abc import Iterator

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor


class Plain(Record):
    """Two matrices and an activation function between them.

    Args:
        name: path of the module below its layer.
        D: residual width.
        F: inner width.
        act: activation function, as ``hidden_act`` names it.
        up, down: names of the matrices.
        bias_apart: biases are added by an operation of their own (Falcon).
        holds: the activated tensor keeps its name until the residual is added (BERT, BLOOM).
        inner_dropout: of the activated tensor (T5).
    """

    name: str
    D: int
    F: int
    act: str
    up: str = "fc1"
    down: str = "fc2"
    bias: bool = True
    transposed: bool = False
    dropout: float = 0.0
    role: Role = "feed_forward"
    bias_apart: bool = False
    holds: bool = False
    inner_dropout: float = 0.0

    def matrices(self) -> tuple[Linear, Linear]:
        """Up and down."""
        D: Axes = (("D", self.D),)
        F: Axes = (("F", self.F),)
        path = f"{self.name}." if self.name else ""
        return (
            Linear(f"{path}{self.up}", D, F, self.role, self.bias, self.transposed, self.bias_apart),
            Linear(f"{path}{self.down}", F, D, self.role, self.bias, self.transposed, self.bias_apart),
        )

    def weights(self) -> Iterator[Tensor]:
        """Both matrices."""
        for matrix in self.matrices():
            yield from matrix.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Up, activation, down."""
        up, down = self.matrices()
        x = up.forward(f, x)
        x = activate(x, self.act)
        x = ops.dropout(x, self.inner_dropout, f.training)
        if self.holds:
            f.local.append(x)
        x = down.forward(f, x)
        return ops.dropout(x, self.dropout, f.training)


class Gated(Record):
    """Three matrices: the activated gate times the up projection goes down (arXiv:2002.05202).

    ``fused`` names one matrix that holds gate and up.
    """

    name: str
    D: int
    F: int
    act: str = "silu"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    fused: str | None = None
    bias: bool = False
    role: Role = "feed_forward"

    def matrices(self) -> tuple[Linear, ...]:
        """Gate, up and down; or both in one, and down."""
        D: Axes = (("D", self.D),)
        F: Axes = (("F", self.F),)
        path = f"{self.name}." if self.name else ""
        down = Linear(f"{path}{self.down}", F, D, self.role, self.bias)
        if self.fused is not None:
            return Linear(f"{path}{self.fused}", D, (("X", 2), *F), self.role, self.bias), down
        return (
            Linear(f"{path}{self.gate}", D, F, self.role, self.bias),
            Linear(f"{path}{self.up}", D, F, self.role, self.bias),
            down,
        )

    def weights(self) -> Iterator[Tensor]:
        """The matrices."""
        for matrix in self.matrices():
            yield from matrix.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """``down(act(gate(x)) * up(x))``."""
        matrices = self.matrices()
        if self.fused is None:
            gate, up, down = matrices
            return down.forward(f, ops.mul(activate(gate.forward(f, x), self.act), up.forward(f, x), "gated"))
        fused, down = matrices
        both = fused.forward(f, x)
        half: Axes = (*both.axes[:2], ("F", self.F))
        first, second = ops.split(both, (half, half))
        del both
        second = ops.mul(second, activate(first, self.act), "gated")
        return down.forward(f, second)
