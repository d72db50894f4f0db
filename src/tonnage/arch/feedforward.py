"""Feed-forward blocks: plain, gated, and experts with a router."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.tape import Value
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor

if TYPE_CHECKING:
    from tonnage.arch.clamps import Clamp


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
        names: the activated tensor keeps its name until the block returns (GPT).
        learned: the activation function has two learned numbers and two buffers (xIELU, arXiv:2411.13010).
        nested: what the block is given keeps its name until the activated tensor is there (BART).
        restored: what the last matrix is given is cast to the weights' format (T5, whose matrix may stay in fp32).
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
    names: bool = False
    learned: bool = False
    nested: bool = False
    restored: bool = False
    module: ClassVar[str] = "mlp"

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
        """Both matrices, and what the activation function learns."""
        for matrix in self.matrices():
            yield from matrix.weights()
        if self.learned:
            path = f"{self.name}.act_fn."
            for name in ("alpha_p", "alpha_n"):
                yield Tensor(f"{path}{name}", (("X", 1),), self.role)
            for name in ("beta", "eps"):
                yield Tensor(f"{path}{name}", (), "buffer")

    def forward(self, f: Forward, x: Value) -> Value:
        """Up, activation, down."""
        up, down = self.matrices()
        given = x if self.nested else None
        x = up.forward(f, x)
        x = self._activated(f, x)
        del given
        x = ops.dropout(x, self.inner_dropout, f.training)
        if self.restored:
            x = ops.cast(x, f.tape.form_of(down.name))
        if self.holds:
            f.local.append(x)
        named = x if self.names else None
        x = down.forward(f, x)
        x = ops.dropout(x, self.dropout, f.training)
        del named
        return x

    def _activated(self, f: Forward, x: Value) -> Value:
        if not self.learned:
            return activate(x, self.act)
        from tonnage.arch.xielu import xielu

        return xielu(f.tape, f"{self.name}.act_fn.", x)


class Gated(Record):
    """Three matrices: the activated gate times the up projection goes down (arXiv:2002.05202).

    ``fused`` names one matrix that holds gate and up; ``inner_norm`` is of the gated tensor (BitNet), ``dropout`` of
    the output (Seed-OSS), ``inner_dropout`` of the gated tensor (CPM-Ant). ``down_bias``: whether the last matrix has a
    bias where the others have none (GTE). ``restored``: what it is given is cast to the weights' format, and both
    factors keep their names until the block returns (T5). ``named``: both products have names, up's first, which stand
    until the block returns (Qwen). ``multiplied``: gate and output are multiplied by numbers (Falcon-H1). ``clamp``:
    how gate and up are clamped, as ``arch/clamps.py`` names it, every name standing until the block returns.
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
    inner_norm: Norm | None = None
    dropout: float = 0.0
    inner_dropout: float = 0.0
    down_bias: bool = False
    restored: bool = False
    named: bool = False
    multiplied: bool = False
    clamp: Clamp = ""
    module: ClassVar[str] = "mlp"

    def matrices(self) -> tuple[Linear, ...]:
        """Gate, up and down; or both in one, and down."""
        D: Axes = (("D", self.D),)
        F: Axes = (("F", self.F),)
        path = f"{self.name}." if self.name else ""
        down = Linear(f"{path}{self.down}", F, D, self.role, self.bias or self.down_bias)
        if self.fused is not None:
            return Linear(f"{path}{self.fused}", D, (("X", 2), *F), self.role, self.bias), down
        return (
            Linear(f"{path}{self.gate}", D, F, self.role, self.bias),
            Linear(f"{path}{self.up}", D, F, self.role, self.bias),
            down,
        )

    def weights(self) -> Iterator[Tensor]:
        """The matrices, and the norm between them."""
        for matrix in self.matrices():
            yield from matrix.weights()
        if self.inner_norm is not None:
            yield from self.inner_norm.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """``down(act(gate(x)) * up(x))``."""
        matrices = self.matrices()
        if self.clamp:
            return self._clamped(f, x)
        if self.fused is None:
            gate, up, down = matrices
            if self.named:
                first = up.forward(f, x)
                second = gate.forward(f, x)
                return down.forward(f, ops.mul(first, activate(second, self.act), "gated"))
            if self.multiplied:
                first = up.forward(f, x)
                product = ops.mul(first, activate(ops.scaled(gate.forward(f, x)), self.act), "gated")
                del first
                return ops.scaled(down.forward(f, product))
            factors: list[Value] = []
            x = self._inner(f, self._gated(f, gate, up, x, factors))
            x = down.forward(f, x)
            del factors
            return ops.dropout(x, self.dropout, f.training)
        fused, down = matrices
        both = fused.forward(f, x)
        half: Axes = (*both.axes[:2], ("F", self.F))
        first, second = ops.split(both, (half, half))
        del both
        if f.fused is not None and f.fused.gated:
            return down.forward(f, f.fused.product(first, second))
        second = ops.mul(second, activate(first, self.act), "gated")
        second = self._inner(f, second)
        return ops.dropout(down.forward(f, second), self.dropout, f.training)

    def _clamped(self, f: Forward, x: Value) -> Value:
        # Imported late: most blocks clamp nothing.
        from tonnage.arch.bounds import clamped
        from tonnage.arch.clamps import weighed

        *ups, down = self.matrices()
        names: list[Value] = []
        if self.fused is None:
            gate = clamped(ups[0].forward(f, x), 1)
            up = clamped(ups[1].forward(f, x))
        else:
            both = ups[0].forward(f, x)
            names.append(both)
            half: Axes = (*both.axes[:2], ("F", self.F))
            gate, up = ops.split(both, (half, half))
            gate = clamped(gate, 1)
            up = clamped(up)
            del both
        out = down.forward(f, weighed(gate, up, self.clamp, self.act, names))
        del gate, up
        return out

    def _gated(self, f: Forward, gate: Linear, up: Linear, x: Value, factors: list[Value]) -> Value:
        if f.fused is not None and f.fused.gated:
            return f.fused.product(gate.forward(f, x), up.forward(f, x))
        if self.restored:
            factors += [activate(gate.forward(f, x), self.act), up.forward(f, x)]
            return ops.mul(factors[0], factors[1], "gated")
        return ops.mul(activate(gate.forward(f, x), self.act), up.forward(f, x), "gated")

    def _inner(self, f: Forward, x: Value) -> Value:
        if self.inner_norm is not None:
            x = self.inner_norm.forward(f, x)
        x = ops.dropout(x, self.inner_dropout, f.training)
        return ops.cast(x, f.tape.form_of(self.matrices()[-1].name)) if self.restored else x
