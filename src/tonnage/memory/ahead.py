"""A forward pass without autograd and without a cache: of a reference, a teacher, a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, cast

from tonnage.arch.ends import Head
from tonnage.arch.forward import AttentionKernel, Forward
from tonnage.arch.masks import make_masks
from tonnage.arch.model import Model
from tonnage.arch.tape import Storage, Tape, Value
from tonnage.memory.accounts import Account, Span, ahead, level, only_cached, stored
from tonnage.memory.entering import position_ids, windows
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.fused import Fused
    from tonnage.arch.tuning.adapters import Tuning

Ends = Callable[[Forward, Head, Value, Value], list[Value]]
"""What is made of the last hidden states, which are handed over, and the token ids; what it returns stays."""


class Reached:
    """A stretch of the pass, and what is alive beside it: ``(component, words, storages)``."""

    __slots__ = ("beside", "span")

    def __init__(self, beside: list[tuple[str, str, list[Storage]]], span: Span) -> None:
        self.beside = beside
        self.span = span

    @property
    def level(self) -> Level:
        """The highest point above what was there when the pass began."""
        return sum((level(s) for _, _, s in self.beside), self.span.peak)


class Ahead:
    """The pass: ``highest`` is where most is allocated, ``left`` what it leaves.

    Args:
        model: a model with one stack.
        batch, tokens: of the ids, which are there already.
        kernel: what computes attention.
        weights, autocast: formats.
        casts: autocast keeps casts of the weights, since these could be trained.
        tuning: matrices that are packed or have adapters.
        fused: kernels that stand for several operations.
        makes_mask: attention is handed a mask even where its kernel could do without.
        ends: what follows the layers and the norm.
        hands: all hidden states are handed out, and named until it is over.
        store: what becomes of keys and values; None where they are not cached.
    """

    def __init__(
        self,
        model: Model,
        ends: Ends,
        *,
        batch: int,
        tokens: int,
        kernel: AttentionKernel,
        weights: str,
        autocast: str | None,
        casts: bool,
        tuning: Tuning | None = None,
        fused: Fused | None = None,
        makes_mask: bool = False,
        hands: bool = False,
        store: Callable[[tuple[Value, ...], int | None], tuple[Value, ...]] | None = None,
    ) -> None:
        stack = self.stack = model.decoder
        self.tape = tape = Tape(
            grad=True, weights=weights, autocast=autocast, trained=None if casts else lambda name: False
        )
        tape.recording = False
        named: list[Value] = []

        def keep(new: tuple[Value, ...], window: int | None) -> tuple[Value, ...]:
            assert store is not None
            named[:] = store(new, window)
            return tuple(named)

        f = Forward(tape, kernel, tuning=tuning, fused=fused, store=keep if store is not None else None)
        self.hands = hands
        B, T = ("B", batch), ("T", tokens)
        ids = tape.new("token ids", (B, T), "int64")
        self.given = [ids.storage]
        self.stem = Account()
        ahead(tape, lambda ids: stack.stem.forward(f, ids), ids, self.stem)
        form = f.embedded or self.stem.output.dtype
        make_masks(f, windows(stack, tokens), batch, tokens, tokens, form, always=makes_mask)
        places = position_ids(tape, stack.stem, B, T)
        self.shared = [v.storage for v in (*f.shared(), *places)]
        self.names_first = any(v.storage is self.stem.output for v in f.frame)
        framed = [v.storage for v in f.frame if v.storage is not self.stem.output]
        self.shared += [s for s in dict.fromkeys(framed) if s not in self.shared]
        axes = stack.stem.stream(B, T)
        dtype = self.stem.output.dtype
        found: dict[tuple[int, str], Account] = {}
        self.layers: list[Account] = []
        # Keys and values that the model's code names for later layers, by the account of the one that made them.
        self.lent: dict[int, list[Storage]] = {}
        for layer in stack.layers:
            key = id(layer), dtype
            if key not in found:
                account = found[key] = Account()
                ahead(tape, partial(layer.forward, f), tape.new("layer input", axes, dtype), account)
                account.casts = only_cached(tape)
                tape.casts.clear()
                account.cached = [] if store is None else stored(tape, account)
                named.clear()
                made = {v.storage for pair in f.lent.values() for v in pair}
                here = [s for s in found[key].saved if s in made and s not in found[key].cached]
                self.lent[id(found[key])] = here
            self.layers.append(found[key])
            dtype = found[key].output.dtype
        self.kernels = f.ran
        self.tail, self.beyond, self.left = self._tail(model, f, ends, ids, tape.new("layer input", axes, dtype))
        places.clear()
        for held in (f.frame, f.rotary, f.masks, f.around, f.lent):
            held.clear()
        self.highest = max(self._stretches(), key=lambda r: r.level.allocated)

    def _tail(self, model: Model, f: Forward, ends: Ends, ids: Value, x: Value) -> tuple[Span, Span, list[Storage]]:
        """Up to where autocast's copies are gone, from there on, and what is left."""
        tape, hand = self.tape, [x]
        first, start = x.storage.serial, x.storage.position
        del x
        if self.stack.norm is not None:
            hand = [self.stack.norm.forward(f, hand.pop())]
        left = ends(f, cast("Head", model.head), hand.pop(), ids)
        tape.casts.clear()
        within = Span(tape, start, tape.outside or len(tape.events), first)
        beyond = Span(tape, within.stop, len(tape.events), first, within.end)
        return within, beyond, [v.storage for v in left]

    def _stretches(self) -> Iterator[Reached]:
        """Every stretch in order."""
        yield Reached([], self.stem.forward)
        there = [("activations", "shared by the layers", self.shared)]
        stream = self.stem.output
        casts: list[Storage] = []
        for i, a in enumerate(self.layers):
            held = [("activations", "autocast's copies of weights", list(casts))] if casts else []
            yield Reached([*there, *held, ("activations", "layer inputs", [stream])], a.forward)
            casts += a.casts
            if self.lent[id(a)]:
                there[0] = (*there[0][:2], [*there[0][2], *self.lent[id(a)]])
            if a.cached:
                there.append(("kv_cache", "keys and values that are cached", a.cached))
            if not i and self.names_first:
                there.append(("activations", "named by the model's code", [stream]))
            elif self.hands or (i and self.stack.keeps):
                there.append(("activations", "outputs of earlier layers", [stream]))
            stream = a.output
        held = [("activations", "autocast's copies of weights", casts)] if casts else []
        yield Reached([*(there[1:] if self.hands else ()), *held], self.tail)
        yield Reached(there[1:] if self.hands else [], self.beyond)
