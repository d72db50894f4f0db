"""Lightning attention: linear attention with one fixed decay a head.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/minimax/modeling_minimax.py
(MiniMaxLightningAttention, MiniMaxCache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.eager import tokens_first
from tonnage.arch.forward import Forward
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.tape import Tape, Value
from tonnage.arch.untraced import untold
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Lightning(Record):
    """Lightning attention (arXiv:2401.04658): a state of one matrix a head, and fixed decays as buffers.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        H: width of a head.
        block: tokens that are worked through at once.
        act: of queries, keys and values.
    """

    name: str
    D: int
    N: int
    H: int
    block: int
    act: str = "silu"
    remark: ClassVar[str] = (
        "lightning attention runs in operations of torch, as transformers has it; kernels that run it at once are not "
        "modelled, and would keep less"
    )

    def weights(self) -> Iterator[Tensor]:
        """Projections, output gate and norm; decays of every head within a block."""
        for part in self._parts():
            yield from part.weights()
        one, tokens = ("X", 1), ("X", self.block)
        buffers: dict[str, Axes] = {
            "slope_rate": (("N", self.N), one, one),
            "query_decay": (("N", self.N), tokens, one),
            "key_decay": (("N", self.N), tokens, one),
            "diagonal_decay": (one, ("N", self.N), tokens, tokens),
        }
        for name, axes in buffers.items():
            yield Tensor(f"{self.name}.{name}", axes, "buffer")

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """A matrix a head, for any ``S``, in the format of the decays: the one that the model is loaded in."""
        axes: Axes = (("B", B), ("N", self.N), ("H", self.H), ("X", self.H))
        yield Tensor("linear_cache", axes, "state")

    def _parts(self) -> tuple[Linear, Linear, Norm, Linear]:
        """What makes queries, keys and values, the output's gate, its norm, the output."""
        D: Axes = (("D", self.D),)
        heads: Axes = (("N", self.N), ("H", self.H))
        return (
            Linear(f"{self.name}.qkv_proj", D, (("N", self.N), ("X", 3), ("H", self.H)), "mixer"),
            Linear(f"{self.name}.output_gate", D, heads, "mixer"),
            Norm(f"{self.name}.norm", heads),
            Linear(f"{self.name}.out_proj", heads, D, "mixer"),
        )

    def forward(self, f: Forward, x: Value) -> Value:
        """Block after block: within it by scores, before it by a state; every name of the code stands to its end."""
        if f.mixer is None:
            raise untold("lightning attention outside of a training step on the next token")
        tape, (B, T), N, H = f.tape, x.axes[:2], ("N", self.N), ("H", self.H)
        packed, gated, norm, last = self._parts()
        qkv = activate(packed.forward(f, x), self.act)
        q, k, v = ops.split(qkv.view((B, T, N, ("X", 3), H)), ((B, T, N, H),) * 3)
        state = tape.new("state", (B, N, H, ("X", self.H)), v.dtype)
        outs: list[Value] = []
        since = 0
        for start in range(0, T[1], self.block):
            t = ("T", min(self.block, T[1] - start))
            queries, keys, values = (ops.narrow(part, (B, t, N, H)) for part in (q, k, v))
            fading = self._fading(tape)
            rows: Axes = (B, N, t, H)
            scores = ops.matmul(_by_heads(queries), _by_heads(keys), (B, N, t, ("S", t[1])), "scores")
            intra = ops.matmul(_decayed(scores, scores.axes[1:]), _by_heads(values), rows, "output of the block")
            inter = ops.matmul(_by_heads(_decayed(queries, (N, t))), state, rows, "output of the state")
            out = ops.add(inter, intra, "output")
            outs.append(out)
            since = len(tape.nodes)
            new = ops.matmul(_by_heads(_decayed(keys, (N, t))), _by_heads(values), state.axes, "update of the state")
            state = ops.add(ops.mul(state, fading, "faded state"), new, "state")
        # The layer names the last state, which no other tensor is made of, and with it what its steps saved.
        tape.forget(since)
        f.weights.append(state)
        joined = ops.cat(tuple(outs), (B, N, T, H), "output of all blocks")
        outs.clear()
        y = tokens_first(joined)
        del joined
        y = norm.forward(f, y)
        y = ops.mul(ops.unary(gated.forward(f, x), "sigmoid", saves="output"), y, "gated output")
        return last.forward(f, y)

    def _fading(self, tape: Tape) -> Value:
        """``exp(-slope * tokens)``: a number a head, which autocast takes in fp32."""
        axes: Axes = (("N", self.N),)
        negated = tape.new("negated slopes", axes, tape.buffers)
        slopes = tape.new("slopes of a block", axes, tape.buffers)
        del negated
        slopes = ops.raised(slopes)
        fading = tape.new("fading of a block", axes, slopes.dtype)
        del slopes
        return fading


def _decayed(x: Value, axes: Axes) -> Value:
    """``x`` times a part of a buffer."""
    buffer = x.tape.new("part of a buffer", (("X", 0),), x.tape.buffers).view(axes)
    return ops.mul(x, buffer, "decayed")


def _by_heads(x: Value) -> Value:
    """What a product takes as a batch: of several sequences a copy, whose gradient is a view."""
    x = ops.lowered(x)
    B, T, N, H = x.axes
    axes: Axes = (B, N, T, H)
    return x.view(axes) if 1 in (B[1], N[1]) or N[0] != "N" else ops.copy(x, axes, "heads first")
