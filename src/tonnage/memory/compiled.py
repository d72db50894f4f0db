"""What a stretch of compiled code takes: buffers of the two graphs that the partitioner leaves.

Inductor runs what fuses as one kernel, so that only what a kernel hands to another one is in memory, from the kernel
that makes it to the last one that reads it. What the backward pass reads and the forward pass did not keep is made
again inside the kernels that read it.

What inductor puts in memory beyond that is a matter of its heuristics, which three ways bound. The ``fewest`` buffers
are there where a kernel writes over what it is the last to read, and what several kernels read is made again in each.
The ``usual``: it writes anew, and such a tensor is in memory for all of them. The ``most``: sums over tokens (gradients
of scales and biases) and joins are kernels of their own, buffers wait for a later one of their size, and the gradient
of a tied head waits for the embedding's, with the gradient of the logits that it is made of.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_inductor/ (config.py ``inplace_buffers``;
scheduler.py, codegen/wrapper.py: buffers are freed behind their last use; graph.py ``realize``)

Leaves out: inductor's own order of kernels (``reorder_for_peak_memory``); CUDA graphs of ``mode="reduce-overhead"``, whose pool keeps all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from tonnage.arch.compiled import CompiledTape, Flow
from tonnage.arch.tape import Storage, Tape
from tonnage.memory.accounts import Account, Run, Span, layer_account
from tonnage.memory.partition import SMALLER, Graph, kept
from tonnage.record import Record
from tonnage.tensors import Axes

APART: Final = ("matrix", "kernel")
"""What inductor calls as a kernel of its own."""


class Compiled(Record):
    """How code is compiled.

    Args:
        within: layers, head and loss are one graph, and not each layer one of its own. It hands out the logits, whose gradient autograd makes
            of zeros where nobody has one.
        loss: the loss is one as well.
        buffers: what is in memory beside what has to be.
    """

    within: bool = False
    loss: bool = True
    buffers: Literal["fewest", "usual", "most"] = "usual"

    def tape(self) -> type[Tape]:
        """What its passes are traced on."""
        return CompiledTape

    def begin(self, tape: Tape) -> None:
        """What stands behind the layers begins."""
        assert isinstance(tape, CompiledTape)
        tape.trace(self.within)
        tape.fuses_loss = self.loss and not self.within

    def layer(self, tape: Tape, run: Run, axes: Axes, dtype: str, *, again: bool, flows: bool) -> Account:
        """Account of one layer, as ``layer_account``'s; ``again`` where it is checkpointed."""
        assert isinstance(tape, CompiledTape)
        tape.trace(True)
        account = layer_account(tape, run, axes, dtype, recompute=None, flows=flows)
        if account.flows:
            _rewritten(tape, account, tape.flows, self, again=again)
        tape.trace(False)
        return account

    def tail(self, tape: Tape, account: Account) -> list[Storage]:
        """Make the account of what stands behind the layers that of compiled code.

        Returns:
            What waits for the embedding's backward pass: the gradient of a tied head, or what it is made of.
        """
        assert isinstance(tape, CompiledTape)
        tied = tape.gradients.get(tape.tied) if tape.tied is not None else None
        own = [] if tied is None else [tied.storage]
        if not self.within:
            return own
        parts: list[Storage] = []
        if own and self.buffers == "most":
            maker = next(f for f in tape.flows if own[0] in f.outputs)
            parts = max(own, [*maker.inputs, *maker.reads], key=lambda found: sum(s.nbytes for s in found))
        found = _rewritten(tape, account, tape.flows, self, ends=True, waits=parts or own)
        account.waits = None
        tape.trace(False)
        return found if parts else own


class _Emitter:
    """Puts buffers on the tape: born, and dead behind their last use.

    Args:
        tape: where.
        buffers: how many there are, as ``Compiled`` has it.
    """

    def __init__(self, tape: Tape, buffers: str) -> None:
        self.tape = tape
        self.lean = buffers == "fewest"
        self.pools = buffers == "most"
        self.there: dict[Storage, Storage] = {}
        # What waits for a later buffer of its size.
        self.pool: dict[int, list[Storage]] = {}

    def born(self, s: Storage, *, pooled: bool = False) -> None:
        """A buffer is there: its own, or one of the same size that waited."""
        found = self.pool.get(s.nbytes) if pooled else None
        self.there[s] = found.pop() if found else Storage(self.tape, s.label, s.axes, s.dtype, s.category)

    def dies(self, s: Storage, *, pooled: bool = False) -> None:
        """A buffer is let go of, or waits."""
        made = self.there.pop(s, None)
        if made is None:
            return
        if pooled and self.pools:
            self.pool.setdefault(s.nbytes, []).append(made)
        else:
            self.tape.events.append(~made.serial)

    def ends(self) -> None:
        """The stretch is over: nothing waits any longer."""
        for found in self.pool.values():
            self.tape.events += [~made.serial for made in found]
        self.pool.clear()

    def run(self, steps: list[tuple[Flow, list[Storage], list[Storage]]], stays: set[Storage]) -> None:
        """Run kernels in order.

        Args:
            steps: operation, buffers that it makes, buffers that it reads.
            stays: what outlives them all.
        """
        last: dict[Storage, int] = {}
        own: set[Storage] = set()
        for at, (_, made, read) in enumerate(steps):
            for s in (*made, *read):
                last[s] = at
        for at, (flow, made, read) in enumerate(steps):
            ends = [s for s in read if last[s] == at and s not in stays and s in self.there]
            if self.lean and flow.kind not in APART:
                # Written over: of each size as many as are made.
                sizes = [s.nbytes for s in made]
                for s in list(ends):
                    if s.nbytes in sizes:
                        sizes.remove(s.nbytes)
                        ends.remove(s)
                        self.dies(s)
            # A kernel that is called takes memory itself.
            pooled = flow.kind != "kernel"
            for s in made:
                self.born(s, pooled=pooled and s not in stays)
            own.update(made if pooled else ())
            if flow.scratch:
                self.tape.scratch("scratch of kernels", flow.scratch)
            for s in (*ends, *(s for s in made if last[s] == at and s not in stays)):
                self.dies(s, pooled=s in own)
        self.ends()


def _rewritten(
    tape: Tape,
    account: Account,
    flows: list[Flow],
    how: Compiled,
    *,
    again: bool = False,
    ends: bool = False,
    waits: Sequence[Storage] = (),
) -> list[Storage]:
    """Make the account of a stretch that was run eagerly that of the same stretch compiled.

    Args:
        tape: that both passes are on.
        account: of the eager run, both passes.
        flows: the operations of both passes.
        how: how it is compiled.
        again: the stretch is checkpointed: nothing but its input is kept, and it runs forward again.
        ends: the stretch ends in the loss, which the loop holds.
        waits: what outlives the stretch beside its gradients, and is no part of the account.

    Returns:
        What waits, as it is on the tape.
    """
    x, y, seed = account.entered, account.left, account.seed
    assert seed is not None
    g = Graph(flows, [x], [y], within=how.within)
    keeps = kept(g)
    grads = [s for s in account.gradients if s in g.maker and s not in waits]
    results = {*grads, *waits, *([account.handed] if account.handed is not None else [])}
    first = len(tape.born)
    emit = _Emitter(tape, how.buffers)
    emit.born(x)
    # What calls a layer holds its input, which is no part of it.
    own, start = first if ends else len(tape.born), len(tape.events)
    emit.run(_forward(g, set() if again else set(keeps), y, how), {x, y} if again else {*keeps, x, y})
    account.forward = Span(tape, start, len(tape.events), own)
    account.keeps_input, account.keeps_output = again or x in keeps, y in keeps and not again and not ends
    if not account.keeps_output and not ends:
        emit.dies(y)
    if not account.keeps_input:
        emit.dies(x)
    emit.born(seed)
    account.recompute = None
    if again:
        # What only the layer's output needs is not made again.
        start = len(tape.events)
        emit.run(_forward(g, set(keeps), None, how), {*keeps, x})
        account.recompute = Span(tape, start, len(tape.events), first)
    # The loop holds the loss, and backward() the gradient that it starts from, until the pass is over.
    held = [y, seed] if ends else []
    account.saved = [emit.there[s] for s in (*(s for s in keeps if s not in (x, y)), *held) if s in emit.there]
    account.waits = [] if again else account.saved
    results.update(held)
    steps = _backward(g, set(keeps), results, how)
    start = len(tape.events)
    logits = next((f.outputs[0] for f in g.forward if f.kind == "matrix" and f.outputs[0].category == "logits"), None)
    if ends and how.within and logits is not None:
        zeros = Storage(tape, "zeros as the gradient of the logits", logits.axes, logits.dtype, "logits")
        emit.there[zeros] = zeros
        steps[0][2].append(zeros)
    read = {s for _, _, sources in steps for s in sources}
    for s in dict.fromkeys((*keeps, seed, x)):
        # What nothing reads after all is let go of at once.
        if s not in read and s not in results:
            emit.dies(s)
    emit.run(steps, results)
    account.backward = Span(tape, start, len(tape.events), first)
    account.gradients = [emit.there[s] for s in grads if s in emit.there]
    if tape.accumulated and not how.within:
        # Added into what is there as soon as the graph has run.
        for s in grads:
            emit.dies(s)
        account.gradients = []
    account.handed = emit.there.get(account.handed) if account.handed is not None else None
    account.casts = []
    found = [emit.there[s] for s in waits if s in emit.there]
    tape.events += [~made.serial for made in emit.there.values()]
    return found


def _in_memory(f: Flow, users: list[Flow], order: dict[Flow, int], flows: list[Flow], how: Compiled) -> bool:
    """Whether what an operation makes is in memory, for those that read it."""
    if f.kind in APART or any(u.kind in APART for u in users):
        return True
    if how.buffers == "most" and f.kind == "joined":
        return True
    # A kernel of its own stands between those that read it.
    at = [order[u] for u in users]
    return how.buffers != "fewest" and len(at) > 1 and any(u.kind in APART for u in flows[min(at) + 1 : max(at)])


def _forward(
    g: Graph, keeps: set[Storage], y: Storage | None, how: Compiled
) -> list[tuple[Flow, list[Storage], list[Storage]]]:
    """Kernels of the forward graph, as far as its result or what it keeps needs them."""
    there = {*keeps, *([y] if y is not None else [])}
    for f in g.forward:
        for s in f.outputs:
            users = g.users[s]
            if _in_memory(f, users, g.order, g.forward, how):
                there.add(s)
    return _needed(g, [(f, [s for s in f.outputs if s in there]) for f in g.forward], there, {*keeps, y})


def _backward(
    g: Graph, keeps: set[Storage], results: set[Storage], how: Compiled
) -> list[tuple[Flow, list[Storage], list[Storage]]]:
    """Kernels of the backward graph."""
    users: dict[Storage, list[Flow]] = {}
    for f in g.backward:
        for s in f.inputs:
            users.setdefault(s, []).append(f)
    order = {f: n for n, f in enumerate(g.backward)}
    there = {*results, *keeps}
    for f in g.backward:
        for s in f.outputs:
            own = users.get(s, [])
            if s not in results and not own:
                continue
            if _in_memory(f, own, order, g.backward, how):
                there.add(s)
        if how.buffers == "most" and f.kind == "fused":
            # Sums over tokens and over rows, each with what it is the sum of.
            sums = any(s.category == "gradients" for s in f.outputs)
            there.update(i for i in f.inputs if sums or _summed(i, f, users))
    return _needed(g, [(f, [s for s in f.outputs if s in there]) for f in g.backward], there, results)


def _summed(s: Storage, f: Flow, users: dict[Storage, list[Flow]]) -> bool:
    """Whether an operation sums a tensor that is read for something else as well."""
    small = [o.nbytes * SMALLER < s.nbytes for o in f.outputs]
    return any(small) and (len(users.get(s, ())) > 1 or not all(small))


def _needed(
    g: Graph, made: list[tuple[Flow, list[Storage]]], there: set[Storage], wanted: set[Storage | None]
) -> list[tuple[Flow, list[Storage], list[Storage]]]:
    """Kernels that what is wanted depends on, with the buffers that each reads."""
    memo: dict[Storage, tuple[Storage, ...]] = {}

    def sources(s: Storage) -> tuple[Storage, ...]:
        """The buffers that a tensor is made of, or the tensor itself where it is one."""
        maker = g.maker.get(s)
        if s in there or maker is None:
            return (s,)
        if s not in memo:
            memo[s] = _read(maker)
        return memo[s]

    def _read(f: Flow) -> tuple[Storage, ...]:
        return tuple(dict.fromkeys(b for s in (*f.inputs, *f.reads) for b in sources(s)))

    steps = [(f, outputs, list(_read(f))) for f, outputs in made if outputs]
    needed: set[Storage | None] = set(wanted)
    found = []
    for f, outputs, read in reversed(steps):
        if needed.intersection(outputs):
            needed.update(read)
            found.append((f, outputs, read))
    found.reverse()
    return found
