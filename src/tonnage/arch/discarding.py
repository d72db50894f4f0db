"""Modules whose output is let go of as soon as the next one has run, and made again before that one's backward step.

What runs next has saved the output; its memory is emptied all the same, and when the gradient of what came of it is
there, the module runs once more, with autograd on, and lends its result's memory to the emptied tensor. Then its own
backward step needs no third run. Result and gradient are held until that step is through.

Reference: https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.0/megatron/core/tensor_parallel/random.py
(``CheckpointWithoutOutput``)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Norm
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Grads, Node, Storage, Value, needs_grad
from tonnage.tensors import Axes

if TYPE_CHECKING:
    from tonnage.arch.attention import Latent

Run = Callable[..., tuple[Value, ...]]
Discard = Callable[[Value], None]


def without_output(run: Run, *xs: Value, beside: Iterable[Value] = ()) -> tuple[tuple[Value, ...], Discard]:
    """``CheckpointWithoutOutput().checkpoint(run, *xs)``.

    Args:
        run: what is run twice; its results are no views of what it is given.
        xs: what it is given, and kept.
        beside: what it is given besides that needs no gradient.

    Returns:
        The results, and what discards them: called with the tensor before whose backward step they are made again.
    """
    tape = xs[0].tape
    if not tape.recording or not any(needs_grad(x) for x in xs):
        return run(*xs), lambda hook: None
    tape.recording = False
    ys = run(*xs)
    tape.recording = True
    kept, flows = [x.detached() for x in xs], [needs_grad(x) for x in xs]
    emptied = [y.storage for y in ys]
    leaves: list[Node | None] = []
    steps: list[Node] = []
    made: list[Value] = []
    given: list[Value] = []

    def again() -> None:
        floor = len(tape.nodes)
        leaves.extend(Node((), lambda _: (), (), 1) if flow else None for flow in flows)
        given.extend(Value(x.storage, x.axes, x.dtype, leaf) for x, leaf in zip(kept, leaves, strict=True))
        made.extend(run(*given))
        # They wait until the backward pass comes to the module.
        steps.extend(tape.nodes[floor:])
        del tape.nodes[floor:]
        for storage, y in zip(emptied, made, strict=True):
            _borrow(storage, y)

    def back(grads: list[Value | None]) -> Grads:
        floor = len(tape.nodes)
        tape.nodes.extend(steps)
        steps.clear()
        for y, g in zip(made, grads, strict=True):
            if y.node is not None and g is not None:
                y.node.pending[y.index] = g
            del g
        before, tape.rerun = tape.rerun, False
        tape.unwind(floor)
        tape.rerun = before
        made.clear()
        given.clear()
        grads.clear()
        found = tuple(leaf.pending[0] if leaf is not None else None for leaf in leaves)
        for leaf in leaves:
            if leaf is not None:
                leaf.pending = []
        return found

    tape.record(ys, xs, back, (*xs, *beside), custom=True)
    for y in ys:
        assert y.node is not None
        y.node.takes = True

    def discard(hook: Value) -> None:
        for storage in emptied:
            _empty(storage)
        if hook.node is not None:
            hook.node.before = again

    return ys, discard


def normed(f: Forward, norm: Norm, x: Value, run: Callable[[Forward, Value], Value], held: list[Value]) -> Value:
    """A block's result, whose norm's output is let go of behind it; ``held`` takes what the layer names."""
    (y,), discard = without_output(lambda x: (norm.forward(f, x),), x)
    held.append(y)
    out = run(f, y)
    discard(out)
    return out


def latent_attention(a: Latent, f: Forward, x: Value) -> Value:
    """Attention whose queries, keys and values, made of compressed ones, are let go of behind the kernel.

    Queries and keys are compressed first, as Megatron-Core does.
    """
    rows, N = x.axes[:2], ("N", a.N)
    *first, last = a.makers()
    q = x
    for part in first:
        q = part.forward(f, q)
    compressed = a.compress().forward(f, x)
    latent, k_rot = ops.split(compressed, ((*rows, ("R", a.kv_rank)), (*rows, ("K", 1), ("H", a.rope))))
    del compressed
    latent = a.latent_norm().forward(f, latent)
    tables = f.rotary[a.rotary]

    def of_heads(q: Value, latent: Value, k_rot: Value) -> tuple[Value, ...]:
        q = last.forward(f, q)
        q_pass, q_rot = ops.split(q, ((*rows, N, ("H", a.nope)), (*rows, N, ("H", a.rope))))
        q_rot, k_rot = rotate(q_rot, k_rot, *tables, a.rope, style=a.rotary_style)
        both: Axes = (rows[0], N, rows[1], ("H", a.nope + a.rope))
        queries = ops.cat((ops.cast(q_pass, q_rot.dtype), q_rot), both, "queries")
        return queries, *a.of_heads(f, latent, k_rot)

    (queries, keys, values), discard = without_output(of_heads, q, latent, k_rot, beside=tables)
    out = attend(f, a, queries, keys, values)
    discard(out)
    return a.output().forward(f, out)


def _empty(storage: Storage) -> None:
    """``untyped_storage().resize_(0)``: its memory dies, whoever shares it."""
    if storage.owners and not storage.emptied:
        storage.tape.events.append(~storage.serial)
    storage.emptied = True


def _borrow(storage: Storage, other: Value) -> None:
    """An emptied storage shows another's memory, and holds it as long as it is shared itself."""
    storage.borrowed = other.detached() if storage.owners else None
