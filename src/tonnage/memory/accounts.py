"""Accounts of a pass over one layer, or over what stands before and behind the layers.

A stretch of a tape is counted once: what it leaves saved, how high it reaches above the level at which it started, and
what its backward pass takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final

from tonnage.arch.tape import Node, Storage, Tape, Value
from tonnage.tensors import Axes
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.memory.caching import Caching
    from tonnage.memory.lending import Loan
    from tonnage.memory.prefixed import Prefixed
    from tonnage.memory.recompute import Recompute

BLOCK = 512
"""The caching allocator hands out multiples of this. torch v2.13.0 c10/cuda/CUDACachingAllocator.h, kMinBlockSize."""


NOTHING: Final = Level()


def blocks(nbytes: int) -> int:
    """Bytes that the caching allocator counts for a request. [byte]

    Leaves out: what a block that is not split keeps over.

    >>> blocks(1), blocks(512), blocks(513)
    (512, 512, 1024)
    """
    return -(-nbytes // BLOCK) * BLOCK


def level(storages: Iterable[Storage]) -> Level:
    """Bytes of these storages. Scratch of kernels is allocated but no tensor."""
    requested = allocated = 0
    for s in storages:
        if s.category != "workspace":
            requested += s.nbytes
        allocated += blocks(s.nbytes)
    return Level(requested, allocated)


def summed(sizes: Iterable[tuple[int, int]]) -> Level:
    """Bytes of tensors of these sizes, each with how often it stands."""
    requested = allocated = 0
    for n, times in sizes:
        requested += times * n
        allocated += times * blocks(n)
    return Level(requested, allocated)


class Span:
    """A stretch of a tape: its highest point above its start, its end, and what was alive there.

    ``peak`` is where most is allocated; ``highest`` is the most that tensors alone take at any point, as a trace of
    operations sees it, to which scratch of kernels is hidden. [byte]

    Args:
        tape: the events.
        start: first event.
        stop: one past the last.
        first: storages born before this serial do not count, even when they die here.
        base: what is there at the start, above the level that is counted from.
        held: storages that somebody else holds beyond the stretch, though the tape lets go of them.
    """

    __slots__ = ("_at", "_first", "_tape", "end", "highest", "peak", "start", "stop")

    def __init__(
        self, tape: Tape, start: int, stop: int, first: int, base: Level = NOTHING, held: Collection[Storage] = ()
    ) -> None:
        self._tape = tape
        self._first = first
        self._at = start
        self.start = start
        self.stop = stop
        born = tape.born
        requested, allocated = base.requested, base.allocated
        highest = requested
        top = (requested, allocated)
        for position in range(start, stop):
            event = tape.events[position]
            storage = born[event if event >= 0 else ~event]
            if storage.serial < first or (event < 0 and storage in held):
                continue
            sign = 1 if event >= 0 else -1
            allocated += sign * blocks(storage.nbytes)
            if storage.category != "workspace":
                requested += sign * storage.nbytes
                if requested > highest:
                    highest = requested
            if allocated > top[1]:
                top = (requested, allocated)
                self._at = position + 1
        self.peak = Level(*top)
        self.highest = highest
        self.end = Level(requested, allocated)

    def holding(self, held: Collection[Storage]) -> Span:
        """The same stretch, where these stay."""
        return Span(self._tape, self.start, self.stop, self._first, held=held)

    def before_products(self, workspace: int) -> bool:
        """Whether the peak lies before the first product of matrices, for which so much is taken and kept. [byte]"""
        tape, positions = self._tape, range(self.start, self.stop)
        first = next((i for i in positions if tape.events[i] in tape.products), self.stop)
        start = Span(tape, self.start, first, self._first).end
        return self._at <= first and (
            Span(tape, first, self.stop, self._first, start).peak.allocated + workspace <= self.peak.allocated
        )

    def alive(self) -> list[Storage]:
        """What was born on this tape since the span's ``first`` and is alive at the peak."""
        born = self._tape.born
        there: dict[int, Storage] = {}
        for event in self._tape.events[: self._at]:
            if event >= self._first:
                there[event] = born[event]
            elif event < 0:
                there.pop(~event, None)
        return list(there.values())


class Account:
    """What one stretch of the model takes in a training step.

    ``forward`` and ``backward`` are counted from the level at which they start; the input is not part of the first,
    the incoming gradient and what is saved are not part of the second, which there is only where ``flows``.
    """

    __slots__ = (
        "awaited", "backward", "cached", "caches", "called", "carried", "casts", "copied", "entered", "flows",
        "forward", "found", "gradients", "handed", "held", "holds_input", "input", "keeps_input", "keeps_output",
        "left", "lingering", "loan", "output", "recompute", "saved", "seed", "shares", "waits",
    )  # fmt: skip

    def __init__(self) -> None:
        self.forward: Span
        self.recompute: Span | None = None
        self.backward: Span
        self.flows = False
        # What a stretch is given and hands on, as its own tape names it: going forward, running again, going back.
        self.entered: Storage
        self.left: Storage
        self.input: Storage
        self.seed: Storage | None = None
        self.handed: Storage | None = None
        # What is there when the backward pass begins, and what of it was there since the forward pass.
        self.saved: list[Storage] = []
        self.waits: list[Storage] | None = None
        self.output: Storage
        self.gradients: list[Storage] = []
        self.casts: list[Storage] = []
        # Keys and values that it cached, of which the graph may hold some; whether the model's output holds them.
        self.cached: list[Storage] = []
        self.caches = False
        # Attention weights that it hands back and the graph does not hold: they live until the next one has returned.
        self.carried: list[Storage] = []
        # What its checkpoint holds beside its input, of what the layer was called with and no other layer is.
        self.called: list[Storage] = []
        # Those that were in its cache before.
        self.found: list[Storage] = []
        # Gradients of what it was handed by the steps before all layers, which take them when these are through.
        self.awaited: list[Storage] = []
        self.shares: frozenset[Storage] = frozenset()
        # Its part in keys and values that layers share.
        self.loan: Loan | None = None
        # What functions of its pass hold as long as the loss is there.
        self.lingering: list[Storage] = []
        self.keeps_input = False
        self.keeps_output = False
        # Of what is saved, and whether of the input, what the graph holds until all of the backward pass is through.
        self.held: list[Storage] = []
        self.holds_input = False
        # What was handed to products that hold it, once for each of them: to the end, or while the layer runs back.
        self.copied = 0, 0

    def kept(self) -> Level:
        """What the backward pass begins with, input and output left out."""
        return level(self.saved)

    def left_behind(self) -> list[Storage]:
        """What of it the forward pass leaves: not what is computed again."""
        return self.saved if self.waits is None else self.waits

    def apart(self) -> list[Storage]:
        """Of what it cached, what the graph does not hold."""
        return [s for s in self.cached if s not in self.left_behind()]

    def grown(self) -> Level:
        """Gradients of parameters that the backward pass leaves behind."""
        return level(self.gradients)

    def holds(self, tape: Tape) -> None:
        """Note the attributes of its steps, which the tape holds on to but for the input."""
        self.copied = handed(tape), 0
        there = dict.fromkeys(v.storage for v in tape.attributes)
        self.holds_input = self.entered in there
        self.held = [s for s in there if s is not self.entered]
        tape.attributes = [v for v in tape.attributes if v.storage is not self.entered]


def handed(tape: Tape) -> int:
    """What products were handed that hold it, once for each of them. [byte]"""
    return sum(v.storage.nbytes for v in tape.attributes)


Run = Callable[[Value], Value]


def ahead(tape: Tape, run: Run, x: Value, account: Account) -> tuple[Node, int] | None:
    """Run forward from ``x``, which the caller goes on holding; returns where the backward pass starts."""
    first, start = len(tape.born), len(tape.events)
    y = run(x)
    account.forward = Span(tape, start, len(tape.events), first)
    return noted(tape, account, first, y, x.storage, 1)


def noted(tape: Tape, account: Account, first: int, y: Value, source: Storage, holders: int) -> tuple[Node, int] | None:
    """Note what a forward run left behind."""
    account.output = account.left = y.storage
    account.input = account.entered = source
    account.keeps_output = y.storage.owners > 1
    account.keeps_input = source.owners > holders
    casts = set(only_cached(tape))
    account.saved = [
        s
        for s in tape.born[first:]
        if s.owners and not s.emptied and s is not y.storage and s is not source and s not in casts
    ]
    return None if y.node is None else (y.node, y.index)


def stored(tape: Tape, account: Account) -> list[Storage]:
    """Keys and values that the stretch cached."""
    return [s for s in tape.born[account.entered.serial : account.left.serial] if s.category == "kv_cache"]


def only_cached(tape: Tape) -> list[Storage]:
    """Casts of weights that autocast's cache alone still holds: until the forward pass is over."""
    return [v.storage for v in tape.casts.values() if v.storage.owners == 1]


def back(
    tape: Tape, root: tuple[Node, int] | None, hand: list[Value], floor: int, first: int, account: Account
) -> None:
    """Run the backward pass from ``root`` down to the ``floor`` of the tape's nodes.

    ``hand`` holds the gradient that it starts from, and is emptied: nobody else may keep it alive. Without a root it
    starts from the gradients that wait.
    """
    # The gradient of a tied weight, with which this one's is summed, is another account's where older ones stay.
    others = set(tape.gradients) if tape.accumulated or tape.stepping is not None else set[str]()
    start = len(tape.events)
    if root is None:
        tape.unwind(floor)
    else:
        account.seed = hand[0].storage
        tape.backward(root, hand.pop(), floor)
    if tape.stepping is not None:
        tape.stepping.settle(tape)
    account.backward = Span(tape, start, len(tape.events), first)
    account.gradients = [v.storage for name, v in tape.gradients.items() if name not in others]


def layer_account(
    tape: Tape,
    run: Run,
    axes: Axes,
    dtype: str,
    *,
    recompute: Recompute | None,
    flows: bool = True,
    viewed: bool = False,
    cache: Prefixed | Caching | None = None,
    loan: Loan | None = None,
    leaf: bool = False,
) -> Account:
    """Account of one layer.

    Args:
        tape: the model's.
        run: the layer's forward pass.
        axes: of its input.
        dtype: of its input.
        recompute: what is saved beside the input, and the forward pass runs again before the backward pass; None where
            all is saved that the backward pass asks for.
        flows: whether its input needs a gradient.
        viewed: the gradient that it is given is a view.
        cache: where it keeps keys and values; None where it keeps none.
        loan: its part in keys and values that layers share; None where it has none.
        leaf: autograd accumulates into its input.
    """
    account, keeper, nested = Account(), None, None
    account.loan = loan
    first = len(tape.born)
    if recompute is not None:
        # Checkpointing runs the layer with autograd on but saves nothing, so autocast's cache still fills.
        keeper = recompute.keeper()
        tape.recording, tape.keeper, tape.stepless = False, keeper, recompute.reentrant
        if recompute.reentrant:
            # Imported late: most checkpoints are not.
            from tonnage.memory.reentrant import Nested

            nested = Nested(tape, run)
        given = [tape.new("layer input", axes, dtype)]
        tape.accumulates = given[0].storage if leaf else None
        ahead(tape, run if nested is None else nested.ahead, given.pop(), account)
        tape.recording, tape.stepless = True, False
        plain, account.casts = account.forward, [v.storage for v in tape.casts.values()]
        entered, left = account.entered, account.left
        tape.casts.clear()
        account.holds(tape)
        account.waits = [s for s in account.saved if s not in account.casts]
    # With recomputation the gradient is there already while the forward pass runs again.
    waiting = [] if recompute is None else [tape.new("gradient of layer output", axes, account.output.dtype)]
    x = tape.leaf("layer input", axes, dtype) if flows else tape.new("layer input", axes, dtype)
    tape.accumulates = x.storage if leaf or nested is not None else None
    if nested is not None:
        return nested.back(x, waiting, account, first)
    if loan is not None and recompute is not None:
        loan.wait(tape, again=True)
    node, floor, start = x.node, len(tape.nodes), len(tape.events)
    tape.cut = start
    if keeper is not None:
        keeper.restart()
    tape.rerun, tape.asked = recompute is not None, None
    root = ahead(tape, run if recompute is None else _forgetting(tape, run), x, account)
    if cache is not None:
        account.cached, account.found, account.caches = cache.let_go(), cache.found, True
        account.saved = [s for s in account.saved if s.owners]
    if recompute is None:
        account.casts = only_cached(tape)
        account.waits = account.saved
    tape.casts.clear()
    if root is None:
        tape.rerun, tape.keeper, account.held, account.holds_input = False, None, [], False
        tape.attributes.clear()
        if loan is not None:
            loan.settle(tape, [*account.left_behind(), *account.cached], account.input)
        return account
    account.flows = True
    if recompute is not None:
        # The second forward pass stops where the last tensor is saved: what follows is not needed.
        if keeper is not None:
            keeper.stop(tape.cut)
        account.saved += [s for s in account.left_behind() if s.owners and s not in account.saved]
        account.forward, account.entered, account.left = plain, entered, left
        account.keeps_input = True
    else:
        account.holds(tape)
        waiting.append(tape.new("gradient of layer output", axes, account.output.dtype))
        if loan is not None:
            loan.wait(tape, again=False)
    waiting[0].storage.viewed = viewed
    if recompute is not None:
        # A checkpoint holds the layer's input until the last node has asked for what it saved.
        lowest = next(node for node in tape.nodes[floor:] if node.saved)
        lowest.called = (x.detached(),)
        del lowest
    if account.holds_input:
        tape.attributes.append(x.detached())
    del x
    if loan is not None:
        loan.begin(tape, floor, first)
    cut, began = tape.cut, len(tape.events)
    back(tape, root, waiting, floor, first, account)
    if recompute is not None:
        _again(tape, account, start, cut, began, first)
    tape.rerun, tape.keeper = False, None
    if keeper is not None:
        keeper.clear()
    if node is not None:
        account.handed = node.pending[0].storage if node.pending and node.pending[0] is not None else None
        node.pending = []
    if cache is not None:
        account.awaited = cache.awaited()
    if loan is not None:
        loan.settle(tape, [*account.left_behind(), *account.cached], account.input)
    tape.gradients.clear()
    tape.attributes.clear()
    return account


def _forgetting(tape: Tape, run: Run) -> Run:
    """What runs again, and whose steps nobody holds when it is over."""

    def again(x: Value) -> Value:
        y = run(x)
        tape.second.clear()
        return y

    return again


def _again(tape: Tape, account: Account, start: int, cut: int, began: int, first: int) -> None:
    """Put the second forward pass where the backward pass first asks for what was saved.

    On the tape it ran before the backward pass began, whose first steps may ask for nothing: a sum, a cast.

    Args:
        tape: both passes.
        account: of the layer.
        start: of the second forward pass.
        cut: where it stops.
        began: the backward pass.
        first: storages born before this serial do not count.
    """
    asked, stop = began if tape.asked is None else tape.asked, len(tape.events)
    before = Span(tape, began, asked, first).end
    tape.events[start:asked] = tape.events[began:asked] + tape.events[start:began]
    account.recompute = Span(tape, start, cut + asked - began, first)
    account.backward = Span(tape, asked, stop, first, before)
