"""A training step played to an allocator: every allocation and free in order, layer after layer.

The accounts of ``memory/passes.py`` hold a different layer's pass once, as events of a tape. Here it is played wherever
the layer stands, each time with storages of its own; what one layer hands to the next is one storage on both tapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.allocator.blocks import Block
from tonnage.allocator.caching import Allocator
from tonnage.estimate.playing import Joints, Own, Playing, Shared
from tonnage.estimate.recipe import COPIED
from tonnage.estimate.resident import beside, resident
from tonnage.estimate.training import Step
from tonnage.memory.passes import Account, Pass
from tonnage.memory.steps import Replaced, clipped

if TYPE_CHECKING:
    from tonnage.arch.tape import Storage
    from tonnage.estimate.loading import Loading


COPIES: Final = 1
"""The stream in which what was offloaded comes back."""


class Player(Playing):
    """Plays a step's stretches to an allocator.

    Args:
        step: what is run.
        allocator: that gets its events.
        loading: how the weights came there; None where they were allocated one after the other.
        passes: of the step's passes the one that is played; None for its own.
    """

    # Whether hidden states, keys and values are handed out, and named by the caller.
    hands = False

    def __init__(
        self, step: Step, allocator: Allocator, loading: Loading | None = None, passes: Pass | None = None
    ) -> None:
        self.passes = passes or step.passes
        super().__init__(allocator, self.passes.tape, step.recipe.workspace, {t.name for t, _ in step.recipe.beside})
        self.run = step
        self.loading = loading
        self.stages = [self.passes.stem, *self.passes.layers, self.passes.tail]
        # What the loop's variable will hold.
        self.named = [] if step.taped else self.passes.loss[:1]
        # Keys and values that layers will find in their cache, and what of theirs the model's output alone holds.
        self.found: list[list[Block]] = []
        self.cached: list[Block] = []
        self.handed: list[Shared] = []
        # What products with packed matrices were given: their functions hold it until the next loss is there.
        self.lingering: list[Shared] = []
        self.told: list[Block] = []
        self.shared: Own = {}
        self.rebound: list[Block] = []
        # The loop's variable holds a step's loss until the next one's is there.
        self.loss: list[Block] = []
        # So does what the caller holds of a pass.
        self.outputs: list[Block] = []
        # So do logits of what was written, until the next are there.
        self.scores: list[Block] = []

    def load(self) -> None:
        """Weights, adapters and buffers: in the order of the modules, or as ``from_pretrained`` brings them."""
        if self.loading is not None and self.loading.placed:
            # Imported late: most models are moved as a whole.
            from tonnage.estimate.loading import place

            place(self, self.loading)
            sizes = beside(self.run)
        else:
            sizes = resident(self.run)
        for n in sizes:
            if n:
                self.take(n)
        for _, n in self.run.resident:
            self.take(n)
        for other in self.run.recipe.others:
            for n in other.sizes:
                if n:
                    self.take(n)
        for n, times in self.run.recipe.scales:
            for _ in range(times):
                self.take(n)
        rollout = self.run.recipe.rollout
        if rollout is not None and not rollout.sleeps:
            self.outside(rollout.engine)
        if self.run.recipe.averaged:
            for n in (*resident(self.run), 8):
                if n:
                    self.take(n)
        if self.run.recipe.master:
            for t in self.run.in_order():
                for _ in range(2):
                    self.take(4 * t.numel)

    def step(self, *, first: bool) -> None:
        """One optimizer step; the first makes the optimizer's state."""
        r, p = self.run.recipe, self.passes
        inputs = [self.take(s.nbytes) for s in p.inputs if s.nbytes]
        self.ahead()
        before = len(self.instants)
        if self.passes.tape.accumulated and not self.grads and not r.master:
            # The first pass of several leaves what the others' gradients are added into.
            self.fresh = True
            self.backward(*self.forward())
            self.fresh = False
            del self.instants[before:]
        if not first or r.first_step or not r.keep_gradients:
            if r.rollout is not None and not r.rollout.first:
                self.roll()
            self.backward(*self.forward())
        self.optimize(first=first)
        self.free(inputs)
        if r.evaluates is not None:
            # Imported late: most answers are of the step alone.
            from tonnage.estimate.player_beside import evaluate

            evaluate(self)

    def ahead(self) -> None:
        """What comes before the first pass of a step."""
        if self.run.recipe.rollout is not None and self.run.recipe.rollout.first:
            self.roll()

    def roll(self) -> None:
        """What is trained on is written and scored."""
        # Imported late: most texts are there.
        from tonnage.estimate.player_rollout import rolled

        assert self.run.recipe.rollout is not None
        rolled(self, self.run.recipe.rollout)

    def forward(self) -> tuple[list[tuple[Own, Joints]], list[Shared]]:
        """Stem, layers, tail: what each left on its own tape, and the residual stream between them."""
        last = len(self.stages) - 1
        left: list[tuple[Own, Joints]] = []
        streams: list[Shared] = []
        casts: list[Block] = []
        frame: list[Shared] = []
        around: list[Shared] = []
        carried: list[Block] = []
        lingering, self.lingering = self.lingering, []
        self.empty("start")
        self.thread(0)
        for i, a in enumerate(self.stages):
            own: Own = {}
            joints: Joints = {}
            self.begin()
            if i:
                streams[-1].holders += 1
                joints[a.entered.serial] = streams[-1]
            if self.run.recipe.offloads and 0 < i < last:
                self.copied(left[1:], COPIED - 1)
            if i == last:
                # The model lets go of the last layer's output when the norm has taken it.
                self.drop(streams[-1])
            start, closing = a.forward.start, self.passes.closing
            if i == last:
                self.free(self.rebound)
                if closing is not None:
                    # The last norm runs while the model's code still has its names.
                    start = closing.stop
                    self.play(a.forward.start, start, own, joints)
                    self.end("last norm")
                if self.run.recipe.offloads:
                    # The last norm saves more than are copied at once.
                    self.copied(left[1:], 0)
                for held in frame:
                    self.drop(held)
                self.free(carried)
                self.forget_shared()
                self.begin()
            if a.found:
                own |= zip((s.serial for s in a.found), self.found.pop(0), strict=True)
                start += len(a.found)
            if i == last:
                start = self.pause(start, own, joints, casts)
            self.play(start, a.forward.stop, own, joints)
            if not i and self.loading is not None and self.loading.rotates:
                # Cosines and sines came from a product of matrices.
                self.workspace()
            self.end("loss" if i == last else f"forward layer {i - 1}" if i else "forward embedding")
            recomputes = a.recompute is not None
            if i < last and a.left is a.entered:
                # The pass went by the layer.
                streams[-1].holders += 1
                streams.append(streams[-1])
            elif i < last:
                streams.append(Shared(own.pop(a.left.serial), 1 + (a.keeps_output and not recomputes)))
            if not i:
                # What the code around the model made before the pass.
                own |= {s.serial: self.take(s.nbytes) for s in (*a.saved, *self.passes.around) if s.position < start}
                frame, around = self.settle_shared(own, streams[0])
                self.found = [[own.pop(s.serial) for s in pair] for pair in self.passes.prefixes]
            casts += [own.pop(s.serial) for s in a.casts if s.serial in own]
            self.cached += [own.pop(s.serial) for s in a.apart() if a.caches and s.serial in own]
            if self.hands:
                self.hand(a, own, joints)
            if not recomputes:
                self.linger(a, own, joints)
            self.settle(a, own, joints, away=0 < i < last and self.run.away(i - 1))
            left.append((own, joints))
            before, carried = carried, [self.take(s.nbytes) for s in a.carried]
            self.free(before if i < last else ())
            # Behind what no layer before it lets go of any more.
            own |= {s.serial: self.take(s.nbytes) for s in a.called}
            if a.loan is not None:
                self.shared |= {s.serial: self.take(s.nbytes) for s in a.loan.lent}
            if 0 < i < last:
                if self.hands:
                    self.handed.append(streams[i - 1])
                elif i > 1 and self.passes.stack.keeps:
                    frame.append(streams[i - 1])
                else:
                    self.drop(streams[i - 1])
        self.workspace()
        self.free([*casts, *self.loss, *self.outputs])
        self.outputs = []
        # The caller's output holds what was seen and cached as well.
        seen = [held.block for held in around if held.holders == 1] if self.passes.told else []
        self.told = seen + self.cached if self.passes.outputs else []
        if not self.passes.outputs:
            self.free(self.cached)
        self.cached = []
        self.loss = [left[last][0].pop(s.serial) for s in self.named if s.serial in left[last][0]]
        for held in (*around, *lingering):
            if held.block not in self.told:
                self.drop(held)
        self.empty("forward")
        return left, streams

    def pause(self, start: int, own: Own, joints: Joints, casts: list[Block]) -> int:
        """Play up to where the model is left and others run, and those; returns where the pass goes on."""
        if self.run.recipe.others or len(self.passes.leaving) > 1:
            from tonnage.estimate.player_beside import paused

            return paused(self, start, own, joints, casts)
        return start

    def settle_shared(self, own: Own, stream: Shared) -> tuple[list[Shared], list[Shared]]:
        """Set apart what the layers share.

        Returns what the model's code names until they are through, and what code around it does until the loss.
        """
        p = self.passes
        self.shared = {s.serial: own.pop(s.serial) for s in p.shared if s.serial in own}
        self.shared |= {s.serial: self.take(s.nbytes) for s in p.shared if s.serial not in self.shared and s.nbytes}
        self.rebound = [own.pop(s.serial) for s in p.rebound if s.serial in own]
        frame = [Shared(own.pop(s.serial)) for s in p.frame if s.serial in own]
        if any(s is p.stem.left for s in p.frame):
            stream.holders += 1
            frame.append(stream)
        around = [Shared(own.pop(s.serial)) for s in p.around if s.serial in own]
        if any(s is p.stem.left for s in p.around):
            stream.holders += 1
            around.append(stream)
        return frame, around

    def hand(self, a: Account, own: Own, joints: Joints) -> None:
        """What a layer has cached is the caller's as well; the graph may hold it besides."""
        kept = {s.serial for s in a.left_behind()}
        for s in a.cached:
            # The graph may have let go of it, or hold a cast.
            block = own.pop(s.serial) if s.serial in own else self.take(s.nbytes)
            held = Shared(block, 1 + (s.serial in kept))
            self.handed.append(held)
            if s.serial in kept:
                joints[s.serial] = held

    def linger(self, a: Account, own: Own, joints: Joints) -> None:
        """Functions of packed products hold what they were given beyond the backward pass."""
        for s in a.lingering:
            if s.serial in own:
                joints[s.serial] = Shared(own.pop(s.serial))
            joints[s.serial].holders += 1
            self.lingering.append(joints[s.serial])

    def settle(self, a: Account, own: Own, joints: Joints, *, away: bool) -> None:
        """Let go of what a stretch does not keep: of all of it where it runs again, of an input that goes ``away``."""
        keeps = {s.serial for s in a.left_behind()}
        self.free([own.pop(n) for n in list(own) if n not in keeps])
        if (away or not a.keeps_input) and a.entered.serial in joints:
            self.drop(joints.pop(a.entered.serial))

    def copied(self, left: list[tuple[Own, Joints]], but: int) -> None:
        """Inputs of the layers are on the host by now, ``but`` those of the last ones."""
        for a, (_, joints) in list(zip(self.passes.layers, left, strict=False))[: max(len(left) - but, 0)]:
            if a.entered.serial in joints:
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
        gradient: Block | None = self.begun(seed)
        # What it starts from is the caller's until all of it is through, and attributes of steps the graph's.
        began: list[Block] = []
        held: list[Shared] = []
        if self.fresh or not self.passes.tape.accumulated:
            early = self.passes.tape.early
            self.grads += [self.take(self.run.bytes_of(t)) for t in self.run.in_order() if t.name.endswith(early)]
        tied: Own = {}
        # What the steps before the layers are given by them.
        summed: list[Block] = []
        # Gradients of keys and values that layers share, and what the checkpoints hold of those that were made again.
        lent: dict[str, list[Block]] = {}
        again: list[Shared] = []
        self.thread(1)
        for i in range(last, -1, -1):
            a, (own, joints) = self.stages[i], left[i]
            if not a.flows and i < last:
                if i and self.stages[0].flows:
                    continue
                break
            self.begin()
            if a.loan is not None:
                own.update(zip((s.serial for s in a.loan.due), lent.pop(a.loan.name, ()), strict=True))
            if a.seed is not None and gradient is not None:
                own[a.seed.serial] = gradient
            if a.recompute is not None:
                if a.entered.serial in joints:
                    joints[a.input.serial] = joints.pop(a.entered.serial)
                elif self.run.recipe.offloads:
                    # It comes back in another stream; else into a buffer that stays.
                    own[a.input.serial] = self.allocator.malloc(a.input.nbytes, COPIES)
                self.play(a.recompute.start, a.recompute.stop, own, joints)
                self.unwind(a.recompute.stop, a.backward.start, own)
                self.linger(a, own, joints)
            elif a.keeps_output and i < last:
                joints[a.output.serial] = streams[i]
            if not i:
                own.update(zip((s.serial for s in p.given), summed, strict=True))
                # The embedding's own is added to what the tied head left.
                own.update(tied)
                tied.clear()
            self.play(a.backward.start, a.backward.stop, own, joints)
            if a.loan is not None:
                lent[a.loan.name] = [own.pop(s.serial) for s in a.loan.back]
                again += [Shared(own.pop(s.serial)) for s in a.loan.stays if s.serial in own]
                if a.loan.holds_input:
                    # It came back from the host, where inputs go there.
                    came = own.pop(a.input.serial, None)
                    again.append(joints.pop(a.input.serial) if came is None else Shared(came))
            self.end("loss backward" if i == last else f"backward layer {i - 1}" if i else "backward embedding")
            gradient = own.pop(a.handed.serial, None) if a.handed is not None else None
            self.grads += [own.pop(s.serial) for s in a.gradients if s.serial in own]
            summed += [own.pop(s.serial) for s in (*(p.summed if i - 1 == p.begins else ()), *a.awaited)]
            if i == last:
                tied = {s.serial: own.pop(s.serial) for s in p.waiting if s.serial in own}
                self.outputs = [own.pop(s.serial) for s in p.outputs if s.serial in own] + self.told
                began = [own.pop(s.serial) for s in p.loss[1:2] if s.serial in own]
                # The graph of the loss holds some of its own for as long.
                self.loss += [own.pop(s.serial) for s in p.context if s.serial in own]
            elif p.outputs and a.caches:
                self.outputs += [own.pop(s.serial) for s in a.cached if s.serial in own]
            # What a nested checkpoint was called with is the graph's as well.
            called = a.called if self.run.nests else []
            if self.fresh:
                stays = self.stays(p.tape)
                self.grads += [own.pop(n) for n in list(own) if n in stays]
            held += [Shared(own.pop(s.serial)) for s in (*a.held, *called) if s.serial in own]
            if a.holds_input and a.input.serial in joints:
                held.append(joints.pop(a.input.serial))
            self.free(own.values())
            for joint in joints.values():
                self.drop(joint)
            if i - 1 <= p.lowest:
                while again:
                    self.drop(again.pop())
            below = {s.serial for layer in p.layers[: max(i - 1, 0)] for s in layer.shares}
            ending = a.shares & p.placed if self.run.nests else a.shares
            gone = [s.serial for s in ending if s.serial not in below]
            self.free([self.shared.pop(n) for n in gone if n in self.shared])
        self.workspace()
        for attribute in held:
            self.drop(attribute)
        self.free([*began, *([gradient] if gradient is not None else [])])
        self.grads += tied.values()
        self.free(self.shared.values())
        self.shared = {}
        self.let_go()

    def begun(self, seed: Storage) -> Block:
        """The gradient that the backward pass starts from."""
        return self.take(seed.nbytes)

    def empty(self, where: str) -> None:
        """A trainer may give the cache back here."""
        if where in self.run.recipe.empties:
            self.allocator.empty_cache()

    def let_go(self) -> None:
        """The backward pass is over: of the output, what the caller does not hold through the step."""
        if self.run.recipe.keep_step:
            # They are what the pass has just let go of.
            self.outputs += [self.take(s.nbytes) for s in self.passes.graph]
        else:
            self.free(self.outputs)
            self.outputs = []
        self.empty("backward")

    def optimize(self, *, first: bool) -> None:
        """The step's own tensors, its state where there is none yet, and the end of the gradients."""
        run = self.run
        if run.recipe.clips:
            self.begin()
            for group in clipped(run.one_by_one()):
                self.free([self.take(n) for n in group if not isinstance(group, Replaced)])
            self.end("gradient clipping")
        self.begin()
        if first:
            for n in run.tables():
                self.take(n)
            for t in run.in_order():
                for _, n in run.state_of(t, run.recipe.optimizer.resident):
                    if n:
                        self.take(n)
        if not run.recipe.in_backward:
            for group in run.recipe.optimizer.step(run.one_by_one()):
                if isinstance(group, Replaced):
                    self.replace(group)
                else:
                    self.free([self.take(n) for n in group if n])
            self.end("optimizer step")
        if not run.recipe.keep_last:
            self.free(self.outputs)
            self.outputs = []
        if not run.recipe.keep_gradients:
            self.free(self.grads)
            self.grads.clear()

    def replace(self, given: Replaced) -> None:
        """A gradient gives way to another tensor: of equal ones, that of the lowest layer, which came last."""
        at = max(i for i, block in enumerate(self.grads) if block.requested == given.was)
        block, self.grads[at] = self.grads[at], self.take(given.now)
        self.allocator.free(block)
