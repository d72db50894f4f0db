"""What comes before an update of a policy, played to an allocator: completions are written, and scored.

``generate`` takes in every step keys and values anew, longer by a token, before it lets go of those before: what that
leaves in the allocator's cache is played step by step. Tensors that live within a layer and are small enough for the
pool of small ones are played in the first step and the last alone: every step between takes the same segments.

References: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py (``DynamicLayer``),
generation/utils.py (``_sample``); https://github.com/huggingface/trl/blob/v1.12.0/trl/experimental/ppo/ppo_trainer.py
(``generate``, ``batch_generation``, and where ``train`` empties the cache);
https://github.com/huggingface/trl/blob/v1.16.0/trl/generation/vllm_generation.py (``sync_weights`` empties it before an
engine wakes, whose memory is none of the cache's)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from tonnage.allocator.caching import SMALL
from tonnage.estimate.player_beside import read
from tonnage.estimate.serving import Reading
from tonnage.formats import FORMATS
from tonnage.memory.cache import states
from tonnage.tensors import size

if TYPE_CHECKING:
    from tonnage.allocator.blocks import Block
    from tonnage.estimate.player import Player
    from tonnage.estimate.playing import Own, Playing
    from tonnage.estimate.rollout import Rollout
    from tonnage.estimate.serving import Run


def rolled(player: Player, rollout: Rollout) -> None:
    """Play all that comes before the update."""
    if rollout.run is not None:
        _written(player, rollout.run, rollout)
    elif rollout.engine:
        if rollout.sleeps:
            player.allocator.empty_cache()
        player.begin()
        awake = rollout.engine if rollout.sleeps else 0
        player.outside(awake)
        player.end("generation")
        player.outside(-awake)
    if rollout.empties:
        player.allocator.empty_cache()
    scored = [player.take(rollout.scoring.requested)] if rollout.scoring.requested else []
    for number, (name, reading) in enumerate(rollout.readings):
        player.begin()
        read(player, reading)
        player.end(f"{name} forward")
        if rollout.empties and number in (0, len(rollout.readings) - 1):
            player.allocator.empty_cache()
    player.free(scored)


def _written(player: Player, run: Run, rollout: Rollout) -> None:
    """Every turn of writing, and what is made of the logits that are kept."""
    phases = {phase: _largest(run, phase) for phase in ("prefill", "decode")}
    joined: list[Block] = []
    for turn in range(rollout.turns):
        last = turn == rollout.turns - 1
        writer = Writer(player, run, rollout.table)
        player.begin()
        writer.prefill()
        if last and phases["prefill"]:
            player.end(f"generation: {phases['prefill']}")
        player.begin()
        writer.decode()
        if last and phases["decode"]:
            player.end(f"generation: {phases['decode']}")
        player.begin()
        if rollout.table:
            joined.append(player.take(rollout.joined.requested))
            if last:
                player.end("generation: scores")
        writer.done()
    if rollout.table:
        player.begin()
        whole = player.take(rollout.scores.requested)
        player.end("generation: joined")
        player.free([*joined, *player.scores])
        player.scores = [whole]


def _largest(run: Run, phase: str) -> str:
    """The instant of a phase at which most is allocated, by name."""
    found = [m for m in run.moments() if m.name.startswith(phase)]
    return max(found, key=lambda m: m.level.allocated).name if found else ""


class Layer(NamedTuple):
    """One layer of a pass: its events, and by serial what it finds, caches, hands on and carries."""

    events: list[int]
    found: list[int]
    cached: list[int]
    left: int
    carried: list[int]


class Turn:
    """One pass of a stretch of steps, as it is played: events before the layers, of every layer, behind them.

    Args:
        reading: the pass.
        sizes: of its storages, with the longest cache of the stretch; None to play all of them, else those alone that
            last, or are too large for the pool of small ones. [byte]
    """

    __slots__ = ("head", "layers", "reading", "stem")

    def __init__(self, reading: Reading, sizes: list[int] | None = None) -> None:
        tape, kept = reading.tape, None
        if sizes is not None:
            kept = {s.serial for a in reading.layers.values() for s in (*a.found, *a.cached)}
            kept |= {n for n, size in enumerate(sizes) if size > SMALL}

        def events(start: int, stop: int) -> list[int]:
            found = tape.events[start:stop]
            return found if kept is None else [e for e in found if (e if e >= 0 else ~e) in kept]

        self.reading = reading
        self.stem = events(reading.embedding.start, reading.begun)
        layers = {
            n: Layer(
                events(a.forward.start, a.forward.stop), [s.serial for s in a.found], [s.serial for s in a.cached],
                a.left.serial, [s.serial for s in a.carried],
            )
            for n, a in reading.layers.items()
        }  # fmt: skip
        self.layers = [layers[id(layer)] for layer in reading.order]
        self.head = events(reading.head.forward.start, reading.head.forward.stop)


class Writer:
    """One call of ``generate``.

    Args:
        player: that plays it.
        run: its passes.
        table: of logits of one token, where these stay. [byte]
    """

    def __init__(self, player: Playing, run: Run, table: int) -> None:
        self.player, self.run, self.table = player, run, table
        self.layers = run.model.decoder.layers
        s = run.session
        # Keys and values by layer, what does not grow, and the logits that stay.
        self.cached: list[list[Block]] = [[] for _ in self.layers]
        self.held: list[Block] = []
        self.scores: list[Block] = []
        for layer in self.layers:
            for t, _ in states(layer, s.sequences, s.context, latent=s.latent):
                if t.role == "state":
                    form = run.form if t.dtype is None else FORMATS[t.dtype]
                    self.held.append(player.take(form.nbytes(size(t.axes))))
            if any(window is not None for _, window in states(layer, 1, 1)):
                self.held.append(player.take(8))

    def prefill(self) -> None:
        """The prompt is read."""
        player, reading = self.player, self.run.prefill
        assert reading is not None
        player.thread(0)
        self._read(Turn(reading), [s.nbytes for s in reading.tape.born])
        player.workspace()

    def decode(self) -> None:
        """Token after token is written."""
        s = self.run.session
        if self.run.decode is not None:
            for whole, brief, at, sizes in self._steps(s.prompt, s.context - 1):
                self._read(brief if s.prompt < at < s.context - 1 else whole, sizes)

    def done(self) -> None:
        """It returns: the caches go, and the logits of single tokens."""
        for blocks in self.cached:
            self.player.free(blocks)
        self.player.free([*self.held, *self.scores])

    def _steps(self, low: int, high: int) -> Iterator[tuple[Turn, Turn, int, list[int]]]:
        """Steps from ``low`` tokens in the cache to ``high``: the pass, what of it is played between, and sizes."""
        first, last = self._reading(low), self._reading(high)
        span, middle = high - low, (low + high) // 2
        start, stop = ([s.nbytes for s in r.tape.born] for r in (first, last))
        if span > 1 and not _in_line(first, self._reading(middle), last, middle - low, span):
            # A window begins between, or something is rounded up: either half by itself.
            yield from self._steps(low, middle)
            yield from self._steps(middle + 1, high)
            return
        whole, brief = Turn(first), Turn(first, [*map(max, start, stop)])
        slopes = [(n - m) // max(span, 1) for m, n in zip(start, stop, strict=True)]
        for step in range(span + 1):
            yield whole, brief, low + step, [n + step * slope for n, slope in zip(start, slopes, strict=True)]

    def _reading(self, cached: int) -> Reading:
        """The pass over one token after so many."""
        if cached == self.run.session.context - 1 and self.run.decode is not None:
            return self.run.decode
        return Reading(self.run.model, self.run.session, 1, cached)

    def _read(self, turn: Turn, sizes: list[int]) -> None:
        """One pass over what is new, which lengthens the cache."""
        player, reading, keeps = self.player, turn.reading, self.run.model.decoder.keeps
        products = reading.tape.products
        ids = [player.take(sizes[s.serial]) for s in reading.inputs if sizes[s.serial]]
        own: Own = {}
        player.run_events(turn.stem, sizes, own, {}, products)
        stream = own.pop(reading.hidden.serial, None)
        # What is named until the layers are through, and what until the pass is over.
        named, casts = list(own.values()), list["Block"]()
        carried: list[Block] = []
        for i, layer in enumerate(turn.layers):
            casts += self._cast(i)
            own = dict(zip(layer.found, self.cached[i], strict=False))
            player.run_events(layer.events, sizes, own, {}, products)
            self.cached[i] = [own.pop(n) for n in layer.cached if n in own]
            if stream is not None:
                if keeps if i else reading.names_first:
                    named.append(stream)
                else:
                    player.free([stream])
            stream = own.pop(layer.left, None)
            if carried or layer.carried:
                before, carried = carried, [own.pop(n) for n in layer.carried if n in own]
                player.free(before)
            if own:
                # Tuples of keys and values of the pass before are named until this one's are whole.
                (casts.extend if reading.tupled else player.free)(own.values())
        player.free([*named, *carried])
        casts += self._cast(len(self.layers))
        own = {} if stream is None else {reading.head.entered.serial: stream}
        player.run_events(turn.head, sizes, own, {}, products)
        if self.table:
            self.scores.append(player.take(self.table))
        player.free([*own.values(), *casts, *ids])

    def _cast(self, index: int) -> list[Block]:
        """Autocast's copies of a layer's weights, or of the head's."""
        casts = self.run.session.casts
        return [self.player.take(n) for n in casts[index]] if casts else []


def _in_line(first: Reading, middle: Reading, last: Reading, part: int, span: int) -> bool:
    """Whether three passes are alike but for sizes, and these grow by as much with every token."""
    if not first.tape.events == middle.tape.events == last.tape.events:
        return False
    return all(
        not (c.nbytes - a.nbytes) % span and (b.nbytes - a.nbytes) * span == (c.nbytes - a.nbytes) * part
        for a, b, c in zip(first.tape.born, middle.tape.born, last.tape.born, strict=True)
    )
