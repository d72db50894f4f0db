"""Passes of other models as the caching allocator sees them, played where the step pauses for them."""

from __future__ import annotations

from tonnage.allocator.blocks import Block
from tonnage.estimate.player import Player
from tonnage.estimate.playing import Joints, Own, Shared
from tonnage.memory.ahead import Ahead


def paused(player: Player, start: int, own: Own, joints: Joints, casts: list[Block]) -> int:
    """Play the step from ``start`` up to where other models run, and those; returns where it goes on.

    What autocast has cached, ``casts``, is gone when the model is left.
    """
    ends = [at for at, _ in player.tape.pauses[:1]] + [beyond.start for beyond in player.passes.leaving[1:]]
    leaves = max(start, min(ends, default=start))
    player.play(start, leaves, own, joints)
    start = leaves
    if ends:
        player.free(casts)
        casts.clear()
    others = [o for o in player.run.recipe.others if o.reading is not None]
    for (at, _), other in zip(player.tape.pauses, others, strict=False):
        player.play(start, at, own, joints)
        start, before = at, player.allocator.peak_allocated
        player.begin()
        assert other.reading is not None
        read(player, other.reading)
        player.end(f"{other.what} forward")
        player.allocator.peak_allocated = before
    return start


def evaluate(player: Player) -> None:
    """Play the evaluation step behind a step, and the moment when a checkpoint is saved."""
    from tonnage.estimate.evaluation import read as evaluated

    reading = evaluated(player.run)
    texts = [player.take(s.nbytes) for s in reading.given]
    player.begin()
    read(player, reading)
    player.end("evaluation step")
    player.free(texts)
    player.begin()
    player.end("checkpoint save")


def read(player: Player, reading: Ahead) -> None:
    """Another model's forward pass, of which nothing stays."""
    tape, own = reading.tape, dict[int, Block]()
    player.play(reading.stem.forward.start, reading.stem.forward.stop, own, {}, tape)
    stream = Shared(own.pop(reading.stem.output.serial), 1 + reading.names_first)
    first = stream
    shared = [own.pop(s.serial) if s.serial in own else player.take(s.nbytes) for s in reading.shared if s.nbytes]
    casts: list[Block] = []
    # What the model's code names until its layers are through, and what it hands out.
    named, handed = list[Shared](), list[Shared]()
    for i, a in enumerate(reading.layers):
        player.free(own.values())
        own = {}
        player.play(a.forward.start, a.forward.stop, own, {a.entered.serial: stream}, tape)
        if reading.hands:
            handed.append(stream)
        elif i and reading.stack.keeps:
            named.append(stream)
        else:
            player.drop(stream)
        stream = Shared(own.pop(a.left.serial))
        handed += [Shared(own.pop(s.serial)) for s in a.cached if s.serial in own]
        casts += [own.pop(s.serial) for s in a.casts if s.serial in own]
        named += [Shared(own.pop(s.serial)) for s in reading.lent[id(a)] if s.serial in own]
    player.free([*own.values(), *shared])
    for held in (*named, *([first] if reading.names_first else [])):
        player.drop(held)
    own, start = {}, reading.tail.start
    # The span begins where its input is born, which here is the last layer's output.
    joints = {tape.events[start]: stream}
    player.play(start + 1, reading.tail.stop, own, joints, tape)
    player.free(casts)
    player.play(reading.beyond.start, reading.beyond.stop, own, joints, tape)
    player.free(own.values())
    for held in handed:
        player.drop(held)
