"""Experts that are modules of their own and run one after the other, each with no more tokens than its capacity.

A token goes to one expert; those of a sequence that come when its expert is full go through none. An expert that no
token goes to has no gradient in that step. What a router chooses is said by ``Shares``.

Leaves out: what ``nonzero`` takes for itself on a device; the sort of indices by which gradients are put together.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/switch_transformers/
modeling_switch_transformers.py (SwitchTransformersTop1Router, SwitchTransformersExperts, SwitchTransformersSparseMLP)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from tonnage.arch import ops
from tonnage.arch.experts_loop import onto, rows_of
from tonnage.arch.feedforward import Plain
from tonnage.arch.forward import Forward
from tonnage.arch.model import Model
from tonnage.arch.parts import Separate
from tonnage.arch.routing import highest, taken
from tonnage.arch.stacks.stated import restated
from tonnage.arch.tape import Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Shares(Record):
    """How a router spreads tokens.

    Args:
        imbalance: tokens of the fullest expert over the mean, before those over its capacity are dropped.
        fills: an expert is sent no more than it takes.
        spares: every other expert has a token at least, as far as there are tokens.
        upward: the fullest experts are the first ones, which the backward pass comes to last.
    """

    imbalance: float = 1.0
    fills: bool = False
    spares: bool = False
    upward: bool = False

    def counts(self, sequences: int, tokens: int, experts: int, capacity: int) -> list[list[int]]:
        """Tokens that each expert takes, by sequence.

        >>> Shares().counts(2, 5, 4, 9)
        [[2, 1, 1, 1], [1, 2, 1, 1]]
        >>> Shares(imbalance=4).counts(1, 9, 4, 6), Shares(imbalance=4, fills=True, spares=True).counts(1, 9, 4, 5)
        ([[0, 0, 0, 6]], [[1, 1, 2, 5]])
        """
        if self.imbalance <= 1:
            found = [_even(b * tokens, tokens, experts) for b in range(sequences)]
        else:
            most = max(min(tokens, round(self.imbalance * tokens / experts)), -(-tokens // experts))
            most = max(min(most, capacity), 1) if self.fills else most
            order = range(experts) if self.upward else range(experts - 1, -1, -1)
            found = [self._filled(b * tokens, tokens, experts, most, order) for b in range(sequences)]
        return [[min(n, capacity) for n in row] for row in found]

    def _filled(self, first: int, tokens: int, experts: int, most: int, order: Iterable[int]) -> list[int]:
        """One sequence: experts in this order have as many as ``most``; ``first`` tokens came before it."""
        spare = min(max(experts - first, 0), tokens) if self.spares else 0
        found = [int(first <= e < first + spare) for e in range(experts)]
        left = tokens - spare
        for e in order:
            more = min(most - found[e], left)
            found[e] += more
            left -= more
        return found


def _even(first: int, tokens: int, experts: int) -> list[int]:
    """One sequence of tokens that go round all experts, in which ``first`` came before it."""
    each, more = divmod(tokens, experts)
    return [each + ((e - first) % experts < more) for e in range(experts)]


class Capped(Record):
    """Switch Transformers' experts: a token goes to the likeliest one, with others of its sequence up to ``capacity``.

    Args:
        name: path of the module below its layer.
        D: residual width.
        E: experts.
        capacity: tokens of a sequence that an expert takes.
        block: one expert, without its path.
        bias: the router has one.
        router_dtype: format that the router's weight is cast to, for good, when it first runs.
        jitter: tokens are multiplied by random numbers before they are scored, in training.
        token_dropout: of what experts make, in training (NLLB-MoE).
        shares: how tokens are spread.
    """

    name: str
    D: int
    E: int
    capacity: int
    block: Plain
    bias: bool = False
    router_dtype: str = "fp32"
    jitter: bool = False
    token_dropout: float = 0.0
    shares: Shares = Shares()

    module: ClassVar[str] = "moe"

    @property
    def used(self) -> int:
        """Experts of a token."""
        return 1

    def _router(self) -> tuple[tuple[str, Axes], ...]:
        path, E = f"{self.name}.router.classifier", ("Er", self.E)
        weight: tuple[str, Axes] = (f"{path}.weight", (E, ("D", self.D)))
        return (weight, (f"{path}.bias", (E,))) if self.bias else (weight,)

    def _separate(self) -> Separate:
        return Separate(path=f"{self.name}.experts.expert_", E=self.E, used=self.used, block=self.block)

    def weights(self) -> Iterator[Tensor]:
        """The router, and every expert's matrices."""
        for name, axes in self._router():
            yield Tensor(name, axes, "router", dtype=self.router_dtype)
        yield from self._separate().weights()

    def unused(self) -> int:
        """Parameters of experts that a token does not use."""
        return self._separate().unused()

    def hit(self, sequences: int, tokens: int) -> list[tuple[int, int]]:
        """Experts that have tokens, with how many."""
        by_sequence = self.shares.counts(sequences, tokens, self.E, self.capacity)
        return [(e, n) for e, n in enumerate(map(sum, zip(*by_sequence, strict=True))) if n]

    def logits(self, f: Forward, x: Value) -> Value:
        """The router's scores, in its own format unless autocast has its way."""
        given = [f.tape.parameter(name, axes) for name, axes in self._router()]
        for p in given:
            p.dtype = self.router_dtype
        weight, bias = (*given, None)[:2]
        assert isinstance(weight, Parameter)
        return ops.linear(x, weight, bias, 1, (("Er", self.E),))

    def forward(self, f: Forward, x: Value) -> Value:
        """Every token through the expert that the router chose for it, if that has room."""
        B, T, _ = x.axes
        choices, weights, logits = self._routed(f, x)
        out = self.through(f, rows_of(x), choices, weights, self.hit(B[1], T[1]))
        del logits
        return out

    def _routed(self, f: Forward, x: Value) -> tuple[Value, Value, Value]:
        """Choices with room, one hot; their probability; the logits."""
        tape, E, before = f.tape, ("E", self.E), x.dtype
        x = ops.cast(x, self.router_dtype)
        if self.jitter and f.training:
            shaken(x)
        logits = self.logits(f, x)
        scores = ops.cast(ops.softmax(logits, dtype=self.router_dtype, label="routing scores"), before)
        choices = tape.new("chosen experts", x.axes[:2], "int64")
        choices = tape.new("chosen, one hot", (*x.axes[:2], E), "int64")
        order = tape.new("order of an expert's tokens", choices.axes, "int64")
        fits = tape.new("within the capacity", choices.axes, "bool")
        choices = tape.new("chosen and within the capacity", choices.axes, "int64")
        scores = highest(scores, x.axes[:2])[0]
        del order, fits
        return choices, scores, logits

    def through(
        self, f: Forward, flat: Value, choices: Value, weights: Value, hit: list[tuple[int, int]], *, wide: int = 1
    ) -> Value:
        """Zeros, to which the weighed output of every expert that has tokens is added.

        ``wide``: columns of what is searched for an expert's tokens.
        """
        tape, (B, T, D) = f.tape, flat.axes
        out = tape.new("sum over experts", flat.axes, flat.dtype)
        mask = self.searched(f, choices)
        counts = tape.new("tokens of each expert", (("E", self.E),), "int64")
        some = tape.new("experts that have tokens", (("E", self.E),), "bool")
        del counts
        listed = tape.new("experts that have tokens", (("E", len(hit)),), "int64")
        del some
        # What the turn before named lives until this one's takes its name.
        names: list[Value] = []
        for expert, n in hit:
            # A view by expert is laid out anew to be searched.
            tape.scratch("one expert's choices", 8 * B[1] * T[1] * wide)
            places = tape.new("places", (("N", n), ("X", 2)), "int64")
            names[:1] = [places]
            state = taken(flat, places, (("N", n), D), viewed=True)
            names[1:2] = [state]
            del state
            names[2:] = [self._weighed(f, expert, names[1], weights, places)]
            names[2:] = [ops.dropout(names[2], self.token_dropout, f.training)]
            out = onto(out, ops.cast(names[2], out.dtype), places)
            del places
        del listed, choices, mask
        return out

    def searched(self, f: Forward, choices: Value) -> Value | None:
        """What is searched for an expert's tokens, where that is not what the router made."""
        return None

    def _weighed(self, f: Forward, expert: int, state: Value, weights: Value, places: Value) -> Value:
        made = self.block.but(name=f"{self.name}.experts.expert_{expert}").forward(f, state)
        weight = taken(weights, places, (*state.axes[:1], ("X", 1)), viewed=True)
        return ops.mul(made, weight, "weighed expert output")


def shaken(x: Value) -> None:
    """``x *= noise``, in place: whoever names ``x`` has the product, and the noise is saved."""
    tape, axes, dtype = x.tape, x.axes, x.dtype
    noise = tape.new("random numbers", axes, dtype)
    tape.record((x,), (x,), lambda g: (tape.new("gradient before the noise", axes, dtype),), (noise,))


def capped(model: Model) -> list[Capped]:
    """The blocks whose experts have a capacity."""
    blocks = (s.block for stack in model.stacks for layer, _ in stack.distinct() for s in layer.sublayers)
    return [b for b in blocks if isinstance(b, Capped)]


def spread(model: Model, shares: Shares) -> Model:
    """The model whose routers spread tokens so."""

    def block(b: Any) -> Any:
        return b.but(shares=shares) if isinstance(b, Capped) else b

    return restated(model, block=block, norm=lambda n: n)
