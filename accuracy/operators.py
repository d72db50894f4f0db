"""One operator alone, forward and backward, as Liger's benchmarks run it: the most that is allocated.

The benchmark calls it ten times: gradients of earlier calls stay, and new ones are added into them. It keeps the graph
(``retain_graph``) of norms, feed-forward blocks and rotary embeddings.

Source: https://github.com/linkedin/Liger-Kernel/blob/v0.4.2/benchmark/scripts/ (benchmark_*.py, utils.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.feedforward import Gated
from tonnage.arch.forward import Forward
from tonnage.arch.fused import Fused
from tonnage.arch.layers import Norm
from tonnage.arch.loss import cross_entropy
from tonnage.arch.objectives.losses import FusedLinear, InPlace, chunk_size
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Tape, Value
from tonnage.errors import UnsupportedError
from tonnage.memory.overhead import cublas_workspace
from tonnage.memory.passes import Span, blocks
from tonnage.tensors import Axes

Made = tuple[Value, ...]
Config = Mapping[str, Any]

PROCESSORS: Final = {"sm_80": 108, "sm_90": 132}


class Bench:
    """One call of the benchmarked function, the tensors that were there before it, and its peak. [byte]"""

    def __init__(self, *, provider: str, release: str, architecture: str, weights: str) -> None:
        self.tape = Tape(grad=True, weights=weights)
        self.tape.accumulated = True
        self.workspace = cublas_workspace(architecture)
        minor, patch = (int(part) for part in release.split(".")[1:])
        self.release = (minor, patch)
        self.liger = provider == "liger"
        self.fused = Fused(
            release=self.release, norms="in place", rope=True, gated=True, processors=PROCESSORS[architecture]
        )  # fmt: skip
        self.f = Forward(self.tape, "flash", fused=self.fused if self.liger else None)
        self.there = 0

    def resident(self, axes: Axes, width: int, times: int = 1) -> None:
        """Something that lies there before the call and behind it: a weight, the gradient of an earlier call."""
        self.there += times * blocks(width * _numel(axes))

    def given(self, label: str, axes: Axes, dtype: str) -> Value:
        """An input that needs a gradient."""
        return self.tape.leaf(label, axes, dtype)

    def peak(self, run: Callable[[], Made], grads: Callable[[Made], Made], *, retain: bool, threads: int) -> int:
        """The most that is allocated.

        Args:
            run: the forward pass, given nothing and giving its outputs, whose names stand until the call returns.
            grads: the gradients that the backward pass starts from.
            retain: the graph is kept.
            threads: how many of them multiply matrices, in the runs that are timed before as well: those of every
                provider, in the same process.
        """
        tape = self.tape
        outputs = run()
        kept = [value for node in tape.nodes for value in node.saved] if retain else []
        for output, grad in zip(outputs, grads(outputs), strict=True):
            assert output.node is not None
            output.node.pending[output.index] = grad.view(output.axes)
        last = outputs[-1].node
        assert last is not None
        tape.backward((last, outputs[-1].index), self._last(last.pending, outputs[-1].index), 0)
        span = Span(tape, 0, len(tape.events), 0)
        del kept
        return self.there + threads * blocks(self.workspace) + span.peak.allocated

    @staticmethod
    def _last(pending: list[Value | None], index: int) -> Value:
        found = pending[index]
        assert found is not None
        return found


def _numel(axes: Axes) -> int:
    total = 1
    for _, n in axes:
        total *= n
    return total


def _like(outputs: Made) -> Made:
    """Gradients made by the call: ``randn_like``, or the one that ``backward()`` starts a scalar from."""
    return tuple(y.tape.new("incoming gradient", y.axes, y.dtype) for y in outputs)


def feed_forward(b: Bench, c: Config) -> int:
    """``LlamaMLP`` or Liger's in its place."""
    batch = c["B"] if "B" in c else c["bsz"]
    D, F = c["hidden_size"], c["intermediate_size"]
    axes: Axes = (("B", batch), ("T", c["T"]), ("D", D))
    x = b.given("x", axes, "bf16")
    b.resident((("D", D), ("F", F)), 2, 3 * 2)
    b.resident(axes, 2)
    block = Gated(name="mlp", D=D, F=F, act=c["hidden_act"])
    return b.peak(lambda: (block.forward(b.f, x),), _like, retain=True, threads=2)


def rms_norm(b: Bench, c: Config) -> int:
    """A norm of 16-bit rows with a weight in fp32."""
    axes: Axes = (("B", 1), ("T", c["M"]), ("D", c["H"]))
    x, given = b.given("x", axes, "bf16"), b.tape.new("dy", axes, "bf16")
    # Both providers' weights, and the gradient of one.
    b.resident((("D", c["H"]),), 4, 3)
    if not b.liger:
        # The gradient of x. Liger's is a view of dy, which its kernel writes over and autograd takes as it is.
        b.resident(axes, 2)

    def grads(outputs: Made) -> Made:
        return tuple(given if y.dtype == given.dtype else b.tape.new("dy, cast", axes, y.dtype) for y in outputs)

    norm = Norm("norm", (("D", c["H"]),))
    return b.peak(lambda: (norm.forward(b.f, x),), grads, retain=True, threads=0)


def rope(b: Bench, c: Config) -> int:
    """Rotary embedding of queries and keys, whose gradients are given."""
    T, N, K = c["T"], c["num_q_heads"], c["num_kv_heads"]
    H = c["hidden_size"] // N
    shapes: tuple[Axes, Axes] = (
        (("B", 1), ("T", T), ("N", N), ("H", H)),
        (("B", 1), ("T", T), ("K", K), ("H", H)),
    )
    given = [b.given("q or k", axes, "bf16") for axes in shapes]
    taken = tuple(b.tape.new("dq or dk", axes, "bf16") for axes in shapes)
    tables = [b.tape.new("table", (("T", T), ("X", H)), "bf16") for _ in range(2)]
    b.resident((("T", T),), 8)
    b.resident((("X", H // 2),), 4, 2)

    def run() -> Made:
        if b.liger:
            return b.fused.rotate(given[0], given[1], tables[0], tables[1])
        return rotate(given[0], given[1], tables[0], tables[1], H)

    return b.peak(run, lambda _: taken, retain=True, threads=1)


def plain_loss(b: Bench, c: Config) -> int:
    """Cross entropy of logits in fp32."""
    rows, V = c["B"] * c["T"], ("V", c["V"])
    axes: Axes = (("B", 1), ("T", rows), V)
    logits = b.given("logits", axes, "fp32")
    if not b.liger:
        # The gradient of an earlier call; Liger's is the logits themselves.
        b.resident(axes, 4)
    labels = b.tape.new("labels", (("B", 1), ("T", rows)), "int64")

    def run() -> Made:
        return (InPlace.of_logits(logits) if b.liger else cross_entropy(logits, labels, causal=False, wide=False),)

    return b.peak(run, _like, retain=False, threads=0)


def linear_loss(b: Bench, c: Config) -> int:
    """The head's product and the cross entropy of its rows; both providers' heads are there."""
    D, V = c["H"], c["V"]
    axes: Axes = (("B", 1), ("T", c["BT"]), ("D", D))
    x = b.given("x", axes, "bf16")
    labels = b.tape.new("labels", (("B", 1), ("T", c["BT"])), "int64")
    b.resident((("V", V), ("D", D)), 2, 3)
    b.resident(axes, 2)
    head = Head("head", D, V)

    def run() -> Made:
        if b.liger:
            return (FusedLinear(release=b.release, shifts=False).forward(b.f, head, x, labels),)
        return (cross_entropy(head.forward(b.f, x), labels, causal=False, wide=False),)

    return b.peak(run, _like, retain=False, threads=2)


def linear_divergence(b: Bench, c: Config) -> int:
    """``fused_linear_jsd_forward``: both heads' products and Jensen and Shannon's divergence, rows by rows.

    Source: https://github.com/linkedin/Liger-Kernel/blob/ff6650bb/src/liger_kernel/ops/fused_linear_jsd.py (released
    with 0.4.0; the figures were taken before, under the number of 0.3.1).
    """
    if not b.liger:
        raise UnsupportedError("of fused_linear_jsd, Liger's own is modelled", key="provider")
    D, V, rows, tape = ("D", c["H"]), ("V", c["V"]), c["BT"], b.tape
    axes: Axes = (("B", 1), ("T", rows), D)
    x = b.given("student's states", axes, "bf16")
    weight = tape.parameter("student", (V, D))
    # Both heads, the gradient of the student's, the teacher's states, the gradient of the student's.
    b.resident((V, D), 2, 3)
    b.resident(axes, 2, 2)

    def run() -> Made:
        makes = (tape.new("gradient of the head", (V, D), "bf16"), tape.new("gradient of states", axes, "bf16"))
        lost = tape.new("divergence of every word", (("T", rows), V), "fp32")
        n = chunk_size(rows, c["H"], c["V"])
        some: Axes = (("T", n), V)

        def table(label: str) -> Value:
            return tape.new(label, some, "bf16")

        student = teacher = likely = taught = None
        for _ in range(-(-rows // n)):
            student, teacher = table("student's logits"), table("teacher's logits")
            student, teacher = table("student over temperature"), table("teacher over temperature")
            likely, taught = table("student's log probabilities"), table("teacher's log probabilities")
            share = table("student's probabilities")
            pulled = table("probabilities times the gradient")
            del share
            apart = table("gradient less those")
            del pulled
            student = table("gradient of logits")
            del apart
            tape.new("gradient of states, some rows", (("T", n), D), "bf16")
        loss = tape.new("loss", (), "bf16")
        kept = tuple(m.detached() for m in makes)
        tape.record((loss,), (x, weight), lambda g: (kept[1], kept[0]), kept, custom=True)
        del student, teacher, likely, taught, lost
        return (loss,)

    return b.peak(run, _like, retain=False, threads=2)


OPERATORS: Final[Mapping[str, Callable[[Bench, Config], int]]] = {
    "swiglu": feed_forward,
    "geglu": feed_forward,
    "rms_norm": rms_norm,
    "rope": rope,
    "cross_entropy": plain_loss,
    "fused_linear_cross_entropy": linear_loss,
    "fused_linear_jsd": linear_divergence,
}


def measured(operator: str, *, provider: str, release: str, architecture: str, config: Config) -> int:
    """The peak of one call of an operator. [byte]

    Raises:
        UnsupportedError: an operator that the tool does not state.
    """
    if operator not in OPERATORS:
        raise UnsupportedError(f"the operator {operator} is not modelled", key="operator", value=operator)
    weights = "fp32" if operator == "rms_norm" else "bf16"
    bench = Bench(provider=provider, release=release, architecture=architecture, weights=weights)
    return OPERATORS[operator](bench, config)
