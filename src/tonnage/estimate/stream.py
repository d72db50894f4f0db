"""A training step as the caching allocator sees it: every allocation and free in order, layer after layer.

The accounts of ``memory/passes.py`` hold a different layer's pass once, as events of a tape. Here it is played wherever
the layer stands, each time with storages of its own; what one layer hands to the next is one storage on both tapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from tonnage.allocator.blocks import Block
from tonnage.allocator.caching import Allocator
from tonnage.allocator.settings import parse
from tonnage.estimate.lines import ALLOCATOR
from tonnage.estimate.training import Step
from tonnage.evidence import DERIVED
from tonnage.formats import FORMATS
from tonnage.memory.passes import Account
from tonnage.memory.weights import is_buffer
from tonnage.record import Record
from tonnage.timeline import Component, Instant, exact, ranged

Own = dict[int, Block]
"""Blocks of one stretch's storages, by their serial on the tape."""
Joints = dict[int, "Shared"]
"""Those that it shares with its neighbours: its input and output, the gradient that it is given."""


class Shared:
    """A block with several holders: freed when the last lets go."""

    __slots__ = ("block", "holders")

    def __init__(self, block: Block, holders: int = 1) -> None:
        self.block = block
        self.holders = holders


RESERVED: Final = (-0.04, 0.11)
"""Share by which measured peaks of reserved memory lay below and above the replay, at most, on 41 runs.

LoRA and QLoRA on a T4 (fitcheck-llm 0.3.1): accuracy/cases/reserved.jsonl.
"""
BASIS: Final = (
    "the step's allocations replayed through a model of the caching allocator, from an empty cache; 41 measured runs "
    "lay 4 % below to 11 % above"
)


class Replay(Record):
    """What the allocator held in the last step that was played.

    Args:
        static: between the steps. [byte]
        instants: the most that was allocated at each.
        reserved: at most, from the device. [byte]
    """

    static: int
    instants: tuple[Instant, ...]
    reserved: int

    def tiers(self, components: list[Component]) -> list[Component]:
        """The lines of the peak, with what was played in place of what was assumed."""
        allocated = max(i.bytes for i in self.instants)
        kept = [c for c in components if c.name not in ("rounding", "fragmentation")]
        rounding = allocated - sum(c.bytes for c in kept if c.tier in ("requested", "allocated"))
        words = "blocks of 512 B, and remainders up to 1 MiB that are not split off"
        lines = [exact("rounding", rounding, words, ALLOCATOR, tier="allocated", trust=DERIVED)]
        fragments = self.reserved - allocated
        low, high = (round(share * self.reserved) for share in RESERVED)
        around = (max(fragments + low, 0), fragments, fragments + high)
        lines.append(ranged("fragmentation", *around, BASIS, ALLOCATOR, tier="reserved", trust=DERIVED))
        at = next((i for i, c in enumerate(kept) if c.tier == "device"), len(kept))
        return [*kept[:at], *lines, *kept[at:]]


def replayed(step: Step, conf: str | None = None) -> Replay:
    """Play a run through an allocator: two steps, since the state of the optimizer is there from the second on.

    Args:
        step: what is run.
        conf: settings of the allocator, as ``PYTORCH_ALLOC_CONF`` has them.

    Raises:
        InputError: the settings are none of torch's.

    Leaves out: what loading the weights left in the cache, and other work between the steps.
    """
    allocator = Allocator(parse(conf) if conf else None)
    player = Player(step, allocator)
    player.load()
    if not step.recipe.first_step:
        player.step(first=True)
        player.instants.clear()
    static = allocator.allocated
    allocator.peak_reserved = allocator.reserved
    player.step(first=step.recipe.first_step)
    return Replay(static=static, instants=tuple(player.instants), reserved=allocator.peak_reserved)


class Player:
    """Plays a step's stretches to an allocator."""

    def __init__(self, step: Step, allocator: Allocator) -> None:
        self.run = step
        self.passes = step.passes
        self.stages = [self.passes.stem, *self.passes.layers, self.passes.tail]
        self.allocator = allocator
        self.events = step.passes.tape.events
        self.sizes = [s.nbytes for s in step.passes.tape.born]
        self.grads: list[Block] = []
        self.shared: Own = {}
        # Whether this thread has not multiplied yet; the program's own goes forward, the engine's back.
        self.due = False
        self.threads = 0
        # The loop's variable holds a step's loss until the next one's is there.
        self.loss: list[Block] = []
        self.instants: list[Instant] = []

    def thread(self, number: int) -> None:
        """This one runs from now on."""
        self.due = bool(self.run.recipe.workspace) and number >= self.threads
        self.threads = max(self.threads, number + 1)

    def begin(self) -> None:
        """An instant begins."""
        self.allocator.peak_allocated = self.allocator.allocated

    def end(self, name: str) -> None:
        """It is over: the most that was allocated."""
        self.instants.append(Instant(name, self.allocator.peak_allocated))

    def take(self, nbytes: int) -> Block:
        """A block."""
        return self.allocator.malloc(nbytes)

    def drop(self, held: Shared) -> None:
        """One holder lets go."""
        held.holders -= 1
        if not held.holders:
            self.allocator.free(held.block)

    def free(self, blocks: Iterable[Block]) -> None:
        """Give blocks back."""
        for block in blocks:
            self.allocator.free(block)

    def workspace(self) -> None:
        """What a thread takes at its first matrix product, and keeps."""
        if self.due:
            self.due = False
            self.take(self.run.recipe.workspace)

    def load(self) -> None:
        """Weights, adapters and buffers in the order of the modules."""
        for n in resident(self.run):
            if n:
                self.take(n)
        if self.run.recipe.averaged:
            for n in (*resident(self.run), 8):
                if n:
                    self.take(n)
        if self.run.recipe.master:
            for t in self.run.in_order():
                for _ in range(2):
                    self.take(4 * t.numel)

    def play(self, start: int, stop: int, own: Own, joints: Joints) -> None:
        """Events of the tape, for one instance of its storages."""
        malloc, free, sizes = self.allocator.malloc, self.allocator.free, self.sizes
        products = self.passes.tape.products if self.due else frozenset()
        for event in self.events[start:stop]:
            if event >= 0:
                if n := sizes[event]:
                    own[event] = malloc(n)
                    if event in products:
                        self.workspace()
            elif (block := own.pop(~event, None)) is not None:
                free(block)
            elif ~event in joints:
                self.drop(joints.pop(~event))

    def unwind(self, start: int, stop: int, own: Own) -> None:
        """What a pass that was cut short lets go of: its deaths without its births."""
        for event in self.events[start:stop]:
            if event < 0 and (block := own.pop(~event, None)) is not None:
                self.allocator.free(block)

    def step(self, *, first: bool) -> None:
        """One optimizer step; the first makes the optimizer's state."""
        r, p = self.run.recipe, self.passes
        if (r.keep_gradients or r.accumulate > 1) and not self.grads and not r.master:
            # Of an earlier pass, into which this one's are added.
            self.grads = [self.take(self.run.bytes_of(t)) for t in self.run.in_order()]
        inputs = [self.take(s.nbytes) for s in p.inputs if s.nbytes]
        self.backward(*self.forward())
        self.optimize(first=first)
        self.free(inputs)

    def forward(self) -> tuple[list[tuple[Own, Joints]], list[Shared]]:
        """Stem, layers, tail: what each left on its own tape, and the residual stream between them."""
        last = len(self.stages) - 1
        left: list[tuple[Own, Joints]] = []
        streams: list[Shared] = []
        casts: list[Block] = []
        frame: list[Shared] = []
        around: list[Shared] = []
        self.thread(0)
        for i, a in enumerate(self.stages):
            own: Own = {}
            joints: Joints = {}
            self.begin()
            if i:
                streams[-1].holders += 1
                joints[a.entered.serial] = streams[-1]
            if i == last:
                # The model lets go of the last layer's output when the norm has taken it.
                self.drop(streams[-1])
            start, closing = a.forward.start, self.passes.closing
            if i == last:
                if closing is not None:
                    # The last norm runs while the model's code still has its names.
                    start = closing.stop
                    self.play(a.forward.start, start, own, joints)
                    self.end("last norm")
                for held in frame:
                    self.drop(held)
                self.forget_shared()
                self.begin()
            self.play(start, a.forward.stop, own, joints)
            self.end("loss" if i == last else f"forward layer {i - 1}" if i else "forward embedding")
            recomputes = a.recompute is not None
            if i < last:
                streams.append(Shared(own.pop(a.left.serial), 1 + (a.keeps_output and not recomputes)))
            if not i:
                frame, around = self.settle_shared(own, streams[0])
            casts += [own.pop(s.serial) for s in a.casts if s.serial in own]
            self.settle(a, own, joints)
            left.append((own, joints))
            if 0 < i < last:
                if i > 1 and self.passes.stack.keeps:
                    frame.append(streams[i - 1])
                else:
                    self.drop(streams[i - 1])
        self.workspace()
        self.free([*casts, *self.loss])
        self.loss = [left[last][0].pop(s.serial) for s in self.passes.loss[:1] if s.serial in left[last][0]]
        for held in around:
            self.drop(held)
        return left, streams

    def settle_shared(self, own: Own, stream: Shared) -> tuple[list[Shared], list[Shared]]:
        """Set apart what the layers share.

        Returns what the model's code names until they are through, and what code around it does until the loss.
        """
        p = self.passes
        self.shared = {s.serial: own.pop(s.serial) for s in p.shared if s.serial in own}
        self.shared |= {s.serial: self.take(s.nbytes) for s in p.shared if s.serial not in self.shared and s.nbytes}
        frame = [Shared(own.pop(s.serial)) for s in p.frame if s.serial in own]
        if any(s is p.stem.left for s in p.frame):
            stream.holders += 1
            frame.append(stream)
        around = [Shared(own.pop(s.serial)) for s in p.around if s.serial in own]
        if any(s is p.stem.left for s in p.around):
            stream.holders += 1
            around.append(stream)
        return frame, around

    def settle(self, a: Account, own: Own, joints: Joints) -> None:
        """Let go of what a stretch does not keep: of all of it where it runs again."""
        keeps = {s.serial for s in a.left_behind()}
        self.free([own.pop(n) for n in list(own) if n not in keeps])
        if not a.keeps_input and a.entered.serial in joints:
            self.drop(joints.pop(a.entered.serial))

    def forget_shared(self) -> None:
        """What the layers shared and no graph keeps is gone when the model returns."""
        wanted = {s.serial for a in self.passes.layers for s in a.shares}
        self.free([self.shared.pop(n) for n in list(self.shared) if n not in wanted])

    def backward(self, left: list[tuple[Own, Joints]], streams: list[Shared]) -> None:
        """From the loss down; gradients of what is trained stay."""
        p, last = self.passes, len(self.stages) - 1
        seed = self.stages[last].seed
        assert seed is not None
        gradient: Block | None = self.take(seed.nbytes)
        # What it starts from is the caller's until all of it is through.
        began: list[Block] = []
        if not (self.run.recipe.accumulate > 1 or self.run.recipe.keep_gradients):
            early = self.passes.tape.early
            self.grads += [self.take(self.run.bytes_of(t)) for t in self.run.in_order() if t.name.endswith(early)]
        waiting: list[Block] = []
        tied: Own = {}
        summed: list[Block] = []
        self.thread(1)
        for i in range(last, -1, -1):
            a, (own, joints) = self.stages[i], left[i]
            if not a.flows and i < last:
                break
            self.begin()
            if a.recompute is not None:
                joints[a.input.serial] = joints.pop(a.entered.serial)
                self.play(a.recompute.start, a.recompute.stop, own, joints)
                self.unwind(a.recompute.stop, a.backward.start, own)
            elif a.keeps_output and i < last:
                joints[a.output.serial] = streams[i]
            if a.seed is not None and gradient is not None:
                own[a.seed.serial] = gradient
            if not i:
                own.update(zip((s.serial for s in p.given), summed, strict=True))
                # The embedding's own is added to what the tied head left.
                own.update(tied)
                tied.clear()
            self.play(a.backward.start, a.backward.stop, own, joints)
            self.end("loss backward" if i == last else f"backward layer {i - 1}" if i else "backward embedding")
            gradient = own.pop(a.handed.serial, None) if a.handed is not None else None
            self.grads += [own.pop(s.serial) for s in a.gradients if s.serial in own]
            if i == last - 1:
                summed = [own.pop(s.serial) for s in p.summed]
            if i == last:
                tied = {s.serial: own.pop(s.serial) for s in p.waiting if s.serial in own}
                waiting = [own.pop(s.serial) for s in p.outputs if s.serial in own]
                began = [own.pop(s.serial) for s in p.loss[1:] if s.serial in own]
            self.free(own.values())
            for held in joints.values():
                self.drop(held)
            below = {s.serial for layer in p.layers[: max(i - 1, 0)] for s in layer.shares}
            self.free(
                [self.shared.pop(s.serial) for s in a.shares if s.serial not in below and s.serial in self.shared]
            )
        self.workspace()
        self.free([*waiting, *began, *([gradient] if gradient is not None else [])])
        self.grads += tied.values()

    def optimize(self, *, first: bool) -> None:
        """The step's own tensors, its state where there is none yet, and the end of the gradients."""
        run = self.run
        self.begin()
        if first:
            o = run.recipe.optimizer
            for n in o.tables(run.in_order()):
                self.take(n)
            for t in run.in_order():
                for _, n in run.state_of(t, o.resident):
                    self.take(n)
        if not run.recipe.in_backward:
            for group in run.recipe.optimizer.step((t, run.stepped_form(t).bytes, 1) for t in run.in_order()):
                self.free([self.take(n) for n in group if n])
            self.end("optimizer step")
        if not run.recipe.keep_gradients:
            self.free(self.grads)
            self.grads.clear()


def resident(run: Step) -> Iterator[int]:
    """Bytes of the tensors that lie on the device before the first step: weights by module, then buffers."""
    model, form = run.model, run.form
    packing = run.recipe.packing
    if packing is not None:
        from tonnage import quant

        for _, t, _ in quant.stored(model, packing.but(by_layer=True)):
            if t.alias_of is None:
                yield (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
    else:
        inventories = [*(t for stack in model.stacks for t in stack.weights()), *model.extra]
        tensors = [*inventories, *(model.head.weights() if model.head is not None else ())]
        for t in sorted(tensors, key=is_buffer):
            if t.alias_of is None:
                yield (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
    if run.recipe.tuning is not None:
        for t, times in (*run.recipe.adapters, *run.recipe.beside):
            for _ in range(times):
                yield run.bytes_of(t)
