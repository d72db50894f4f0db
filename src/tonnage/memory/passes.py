"""Accounts of a pass over one layer, or over what stands before and behind the layers.

A model's layers repeat. Each different one is run once on a tape; what it leaves saved, how high it reaches above the
level at which it started, and what its backward pass takes are then placed wherever that layer stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tonnage.arch.ends import Stem
from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.loss import cross_entropy
from tonnage.arch.masks import make_masks
from tonnage.arch.model import Model, Stack
from tonnage.arch.tape import Node, Storage, Tape, Value
from tonnage.tensors import Axes, Axis
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.adapters import Tuning

BLOCK = 512
"""The caching allocator hands out multiples of this. torch v2.13.0 c10/cuda/CUDACachingAllocator.h, kMinBlockSize."""


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


class Span:
    """A stretch of a tape: its highest point above its start, its end, and what was alive there.

    ``peak`` is where most is allocated; ``highest`` is the most that tensors alone take at any point, as a trace of
    operations sees it, to which scratch of kernels is hidden. [byte]

    Args:
        tape: the events.
        start: first event.
        stop: one past the last.
        first: storages born before this serial do not count, even when they die here.
    """

    __slots__ = ("_at", "_first", "_tape", "end", "highest", "peak", "start", "stop")

    def __init__(self, tape: Tape, start: int, stop: int, first: int) -> None:
        self._tape = tape
        self._first = first
        self._at = start
        self.start = start
        self.stop = stop
        born = tape.born
        requested = allocated = 0
        highest = 0
        top = (0, 0)
        for position in range(start, stop):
            event = tape.events[position]
            storage = born[event if event >= 0 else ~event]
            if storage.serial < first:
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
        "backward", "casts", "entered", "flows", "forward", "gradients", "handed", "input", "keeps_input",
        "keeps_output", "left", "output", "recompute", "saved", "seed", "shares",
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
        self.saved: list[Storage] = []
        self.output: Storage
        self.gradients: list[Storage] = []
        self.casts: list[Storage] = []
        self.shares: frozenset[Storage] = frozenset()
        self.keeps_input = False
        self.keeps_output = False

    def kept(self) -> Level:
        """What waits for the backward pass, input and output left out."""
        return level(self.saved)

    def grown(self) -> Level:
        """Gradients of parameters that the backward pass leaves behind."""
        return level(self.gradients)


Run = Callable[[Value], Value]


def ahead(tape: Tape, run: Run, x: Value, account: Account) -> tuple[Node, int] | None:
    """Run forward from ``x``, which the caller goes on holding; returns where the backward pass starts."""
    first, start = len(tape.born), len(tape.events)
    y = run(x)
    account.forward = Span(tape, start, len(tape.events), first)
    return _noted(tape, account, first, y, x.storage, 1)


def _noted(
    tape: Tape, account: Account, first: int, y: Value, source: Storage, holders: int
) -> tuple[Node, int] | None:
    """Note what a forward run left behind."""
    account.output = account.left = y.storage
    account.input = account.entered = source
    account.keeps_output = y.storage.owners > 1
    account.keeps_input = source.owners > holders
    casts = set(_only_cached(tape))
    account.saved = [
        s for s in tape.born[first:] if s.owners and s is not y.storage and s is not source and s not in casts
    ]
    return None if y.node is None else (y.node, y.index)


def _only_cached(tape: Tape) -> list[Storage]:
    """Casts of weights that autocast's cache alone still holds: until the forward pass is over."""
    return [v.storage for v in tape.casts.values() if v.storage.owners == 1]


def back(tape: Tape, root: tuple[Node, int], hand: list[Value], floor: int, first: int, account: Account) -> None:
    """Run the backward pass from ``root`` down to the ``floor`` of the tape's nodes.

    ``hand`` holds the gradient that it starts from, and is emptied: nobody else may keep it alive.
    """
    before = set(tape.gradients)
    start = len(tape.events)
    account.seed = hand[0].storage
    tape.backward(root, hand.pop(), floor)
    account.backward = Span(tape, start, len(tape.events), first)
    account.gradients = [v.storage for name, v in tape.gradients.items() if name not in before]


def layer_account(tape: Tape, run: Run, axes: Axes, dtype: str, *, recompute: bool, flows: bool = True) -> Account:
    """Account of one layer.

    Args:
        tape: the model's.
        run: the layer's forward pass.
        axes: of its input.
        dtype: of its input.
        recompute: nothing is saved but the input, and the forward pass runs again before the backward pass.
        flows: whether its input needs a gradient.
    """
    account = Account()
    if recompute:
        # Checkpointing runs the layer with autograd on but saves nothing, so autocast's cache still fills.
        tape.recording = False
        ahead(tape, run, tape.new("layer input", axes, dtype), account)
        tape.recording = True
        plain, account.casts = account.forward, [v.storage for v in tape.casts.values()]
        entered, left = account.entered, account.left
        tape.casts.clear()
    first = len(tape.born)
    # With recomputation the gradient is there already while the forward pass runs again.
    waiting = [tape.new("gradient of layer output", axes, account.output.dtype)] if recompute else []
    x = tape.leaf("layer input", axes, dtype) if flows else tape.new("layer input", axes, dtype)
    leaf, floor, start = x.node, len(tape.nodes), len(tape.events)
    root = ahead(tape, run, x, account)
    if not recompute:
        account.casts = _only_cached(tape)
    tape.casts.clear()
    if root is None:
        return account
    account.flows = True
    if recompute:
        # The second forward pass stops where the last tensor is saved: what follows is not needed.
        account.recompute = Span(tape, start, tape.cut, first)
        account.forward, account.entered, account.left = plain, entered, left
        account.keeps_input = True
    else:
        waiting.append(tape.new("gradient of layer output", axes, account.output.dtype))
    # A checkpoint holds the layer's input until its backward pass is over.
    held = [x] if recompute else []
    del x
    tape.rerun = recompute
    back(tape, root, waiting, floor, first, account)
    tape.rerun = False
    held.clear()
    if leaf is not None:
        account.handed = leaf.pending[0].storage if leaf.pending and leaf.pending[0] is not None else None
        leaf.pending = []
    tape.gradients.clear()
    return account


class Pass:
    """The accounts of a model's forward and backward pass: stem, each different layer, tail.

    Args:
        model: a model with one stack.
        batch: sequences.
        tokens: tokens a sequence.
        kernel: what computes attention.
        weights: format of the weights.
        autocast: format that autocast casts to, or None.
        recompute: whether layers are checkpointed.
        accumulated: gradients of an earlier pass are there, so that new ones are added into them.
        keep_logits: the caller holds the model's output through the backward pass.
        makes_mask: attention is handed a mask even where its kernel could do without.
        tuning: matrices that are packed or have adapters; with it, nothing but the adapters is trained.
        input_grads: the embedding's output needs a gradient although nothing before it is trained.
    """

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        tokens: int,
        kernel: AttentionKernel,
        weights: str,
        autocast: str | None,
        recompute: bool,
        accumulated: bool = False,
        keep_logits: bool = False,
        makes_mask: bool = False,
        tuning: Tuning | None = None,
        input_grads: bool = False,
    ) -> None:
        stack = model.decoder
        self.stack = stack
        self.tape = tape = Tape(
            grad=True, weights=weights, autocast=autocast, trained=None if tuning is None else _frozen
        )
        tape.accumulated = accumulated
        tape.tied = None if model.head is None else model.head.alias_of
        f = Forward(tape, kernel, training=True, tuning=tuning, input_grads=input_grads)
        B, T = ("B", batch), ("T", tokens)
        tape.category = "inputs"
        ids = tape.new("token ids", (B, T), "int64")
        self.inputs = [ids.storage]
        tape.category = "activations"
        self.stem = Account()
        first = len(tape.born)
        root = ahead(tape, lambda ids: stack.stem.forward(f, ids), ids, self.stem)
        make_masks(f, windows(stack), batch, tokens, tokens, self.stem.output.dtype, always=makes_mask)
        dtype = self.stem.output.dtype
        framed = {v.storage for v in f.frame if v.storage.owners == 1}
        self.stem.saved = [s for s in self.stem.saved if s not in {*framed, *(v.storage for v in f.shared())}]
        handed = position_ids(tape, stack.stem, B, T)
        self.shared = [v.storage for v in (*f.shared(), *handed)]
        # What the model's own code names until its layers are through, and the graph does not keep.
        saved = {*self.stem.saved, *self.shared}
        self.frame = [v.storage for v in f.frame if v.storage not in saved]
        always = {v.storage for v in handed} | ({f.bias.storage} if f.bias is not None else set())
        axes = (B, T, ("D", stack.stem.D))
        # The residual stream may change its format in the first layer, so an account is for a layer and a format.
        accounts: dict[tuple[int, str, bool], Account] = {}
        self.layers: list[Account] = []
        self.stem.flows = flows = root is not None
        for layer in stack.layers:
            account = accounts.get((id(layer), dtype, flows))
            if account is None:
                f.taken.clear()
                watched = _Watched(layer.forward, f, self.shared)
                account = layer_account(tape, watched, axes, dtype, recompute=recompute, flows=flows)
                # A checkpoint holds all that the layer was called with; the graph, only what it saved.
                account.shares = frozenset(f.taken | always) if recompute else frozenset(watched.kept)
                accounts[id(layer), dtype, flows] = account
            self.layers.append(account)
            dtype, flows = account.output.dtype, flows or account.flows
        self.dtype = dtype
        self.tied: Value | None = None
        self.waiting: list[Storage] = []
        self.tail = self._tail(model, f, ids, axes, keep_logits)
        # What the layers shared is gone by the time the embedding's backward pass runs.
        handed.clear()
        self.kernels = f.ran
        f.frame.clear()
        f.rotary.clear()
        f.masks.clear()
        f.bias = None
        if root is not None:
            if self.tied is not None and tape.tied is not None:
                tape.gradients[tape.tied] = self.tied
                self.tied = None
            seed = [tape.new("gradient of embedding output", axes, self.stem.output.dtype)]
            back(tape, root, seed, 0, first, self.stem)

    def _tail(self, model: Model, f: Forward, ids: Value, axes: Axes, keep_logits: bool) -> Account:
        tape, account, held, loss = self.tape, Account(), list[Value](), list[Value]()

        def run(x: Value) -> Value:
            if self.stack.norm is not None:
                x = self.stack.norm.forward(f, x)
            assert model.head is not None
            held.append(model.head.forward(f, x))
            loss.append(cross_entropy(held[0], ids, causal=model.causal))
            return loss[0]

        first = len(tape.born)
        hand = [tape.leaf("layer input", axes, self.dtype)]
        leaf = hand[0].node
        source, floor, start = hand[0].storage, len(tape.nodes), len(tape.events)
        tape.category = "activations"
        # The model lets go of the last layer's output when the norm has taken it.
        y = run(hand.pop())
        account.forward = Span(tape, start, len(tape.events), first)
        root = _noted(tape, account, first, y, source, 0)
        del y
        tape.casts.clear()
        self.outputs = [held[0].storage] if keep_logits else []
        if not keep_logits:
            held.clear()
            account.saved = [s for s in account.saved if s.owners]
        tape.category = "loss"
        # The loop holds the loss, and backward() the gradient that it starts from, until the pass is over.
        seed = tape.new("gradient of loss", account.output.axes, account.output.dtype)
        self.loss = [account.output, seed.storage]
        account.saved += self.loss
        tape.category = "activations"
        assert root is not None
        back(tape, root, [seed.view(seed.axes)], floor, first, account)
        assert leaf is not None
        account.handed = leaf.pending[0].storage if leaf.pending and leaf.pending[0] is not None else None
        # The gradient of a tied weight waits for the embedding's.
        self.tied = tape.gradients.get(tape.tied) if tape.tied is not None else None
        self.waiting = [] if self.tied is None else [self.tied.storage]
        account.gradients = [s for s in account.gradients if s not in self.waiting]
        tape.gradients.clear()
        return account


def position_ids(tape: Tape, stem: Stem, B: Axis, T: Axis, cached: int = 0) -> list[Value]:
    """The position ids that the model hands to every layer; OPT's are a view of those of all that is cached."""
    if stem.position_ids == "batch":
        return [tape.new("position ids", (B, ("S", cached + T[1])), "int64")]
    return [tape.new("position ids", (T,), "int64")] if stem.rotary or stem.position_ids == "row" else []


def windows(stack: Stack) -> set[int | None]:
    """The windows of a stack's attention blocks, and those for which the model makes masks in any case."""
    found: set[int | None] = set(stack.masks)
    for layer, _ in stack.distinct():
        for sub in layer.sublayers:
            if hasattr(sub.block, "window") and getattr(sub.block, "causal", True):
                found.add(sub.block.window)
    return found


def _frozen(name: str) -> bool:
    """No weight of the model itself is trained."""
    return False


class _Watched:
    """A layer's forward pass that notes which shared storages its graph keeps."""

    def __init__(self, run: Callable[[Forward, Value], Value], f: Forward, shared: list[Storage]) -> None:
        self.run = run
        self.f = f
        self.owners = {s: s.owners for s in shared}
        self.kept: set[Storage] = set()

    def __call__(self, x: Value) -> Value:
        y = self.run(self.f, x)
        self.kept.update(s for s, n in self.owners.items() if s.owners > n)
        return y
