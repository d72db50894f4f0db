"""What a stretch of compiled code takes: the account of layers, or of head and loss, that torch.compile runs.

The stretch runs once as any other. From the graph that its tape notes follow what is kept for the backward pass
(``memory/partition.py``) and which results are in memory (``memory/buffers.py``); these are put on the tape in place of
the eager pass. With the ``most`` buffers the gradient of a tied head waits for the embedding's, with the gradient of
the logits that it is made of.

Leaves out: inductor's own order of kernels (``reorder_for_peak_memory``); CUDA graphs of ``mode="reduce-overhead"``,
whose pool keeps all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tonnage.arch.compiled import APART, CompiledTape, Flow
from tonnage.arch.tape import Storage, Tape
from tonnage.memory.accounts import Account, Run, Span, layer_account
from tonnage.memory.buffers import Buffers, Kernel, backward, forward
from tonnage.memory.partition import Graph, kept, tagged
from tonnage.memory.recompute import Recompute
from tonnage.record import Record
from tonnage.tensors import Axes


class Compiled(Record):
    """How code is compiled.

    Args:
        within: layers, head and loss are one graph, and not each layer one of its own. It hands out the logits, whose
            gradient autograd makes of zeros where nobody has one.
        loss: the loss is one as well.
        buffers: what is in memory beside what has to be.
    """

    within: bool = False
    loss: bool = True
    buffers: Buffers = "usual"

    def tape(self) -> type[Tape]:
        """What its passes are traced on."""
        return CompiledTape

    def begin(self, tape: Tape) -> None:
        """What stands behind the layers begins."""
        assert isinstance(tape, CompiledTape)
        tape.trace(self.within)
        tape.fuses_loss = self.loss and not self.within

    def layer(
        self, tape: Tape, run: Run, axes: Axes, dtype: str, *, recompute: Recompute | None, flows: bool
    ) -> Account:
        """Account of one layer, as ``layer_account``'s."""
        assert isinstance(tape, CompiledTape)
        tape.keeps = frozenset() if recompute is None else recompute.keeps
        tape.trace(True)
        account = layer_account(tape, run, axes, dtype, recompute=None, flows=flows)
        if account.flows:
            _rewritten(tape, account, tape.flows, self, again=recompute is not None, marked=frozenset(tape.tagged))
        tape.keeps = frozenset()
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

    def __init__(self, tape: Tape, buffers: Buffers) -> None:
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

    def run(self, steps: list[Kernel], stays: set[Storage]) -> None:
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
    marked: frozenset[Storage] = frozenset(),
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
        marked: results that its checkpoint keeps all the same.
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
    # What is not made again.
    given = frozenset(s for s in tagged(g, {*marked}) if s is not x) if marked else frozenset()
    lasting = {*given} if again else {*keeps}
    emit.run(forward(g, lasting, y, how.buffers), {*lasting, x, y})
    account.forward = Span(tape, start, len(tape.events), own)
    account.keeps_input, account.keeps_output = again or x in keeps, y in keeps and not again and not ends
    if not account.keeps_output and not ends:
        emit.dies(y)
    if not account.keeps_input:
        emit.dies(x)
    waiting = [emit.there[s] for s in given]
    emit.born(seed)
    account.recompute = None
    if again:
        # What only the layer's output needs is not made again.
        start = len(tape.events)
        emit.run(forward(g, set(keeps), None, how.buffers, given), {*keeps, x})
        for s in given - {*keeps}:
            emit.dies(s)
        account.recompute = Span(tape, start, len(tape.events), first)
    # The loop holds the loss, and backward() the gradient that it starts from, until the pass is over.
    held = [y, seed] if ends else []
    account.saved = [emit.there[s] for s in (*(s for s in keeps if s not in (x, y)), *held) if s in emit.there]
    account.waits = waiting if again else account.saved
    results.update(held)
    steps = backward(g, set(keeps), results, how.buffers)
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
