"""Optimizer state as a map over the parameters, and what the step itself takes.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/adamw.py, adam.py, sgd.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.memory import steps
from tonnage.memory.passes import blocks
from tonnage.memory.steps import Group, Trained
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor, size
from tonnage.timeline import Level

TORCH: Final = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/"
HF: Final = "https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/optimization.py"
BNB: Final = "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/optim/optimizer.py"
AO: Final = "https://github.com/pytorch/ao/blob/v0.16.0/torchao/optim/"
PO: Final = "https://pypi.org/project/pytorch-optimizer/4.1.0/"

COMPILED: Final = "what the optimizer's compiled step takes for a moment"
EIGEN: Final = "the eigenvectors that the optimizer finds every few steps, and what their making takes"
SVD: Final = "the decompositions of gradients that the optimizer makes every few hundred steps"

LEAST_8BIT: Final = 4096
"""Tensors with fewer elements keep states in full (``min_8bit_size``; torchao's condition is the same)."""
SCALED: Final = 256
"""Elements that share a scale in bitsandbytes."""
LARGEST_SQUARE: Final = 10_000
"""Longest side that SOAP makes a square matrix for (``max_precondition_dim``)."""
LEAST_PAGED: Final = 100_000
"""Tensors with fewer elements keep paged states on the device (``get_state_buffer``)."""
MAP: Final = 1024
"""A map of 256 values, by which 8 bits are read: one for each state of the optimizer. [byte]"""

Stored = tuple[str, Axes, str | None]
"""Name of a state, its axes, and its format; None for the format of the parameter."""


class Optimizer(Record):
    """What an optimizer keeps for each parameter, and what its step takes for a moment.

    Args:
        name: as the command line takes it.
        state: tensors on the device for one parameter.
        step: what one step holds beside them.
        why: the state in words.
        source: the code that is followed.
        paged: what is large of the state lies in memory that host and device share, outside the caching allocator.
        maps: made once, where the first tensor is kept in 8 bits.
        rough: what is left out of the step, where something is.
        in_fp32: tensors on the device for a parameter in fp32, where they are others.
    """

    name: str
    state: Callable[[Tensor], Iterator[Stored]]
    step: Callable[[Trained], Group]
    why: str
    source: str = TORCH
    paged: bool = False
    maps: int = 0
    rough: str | None = None
    in_fp32: Callable[[Tensor], Iterator[Stored]] | None = None

    def resident(self, t: Tensor, form: str) -> Iterator[Stored]:
        """The part of the state that lies on the device, for a parameter in this format."""
        state = self.in_fp32 if self.in_fp32 is not None and form == "fp32" else self.state
        return (s for s in state(t) if not self._out(t, s[0]))

    def outside(self, t: Tensor, form: str) -> Iterator[Stored]:
        """The part that host and device share."""
        return (s for s in self.state(t) if self._out(t, s[0]))

    def _out(self, t: Tensor, name: str) -> bool:
        return self.paged and name.startswith("state") and t.numel >= LEAST_PAGED

    def tables(self, trained: Iterable[Tensor]) -> list[int]:
        """What the optimizer keeps once. [byte]"""
        packs = self.maps and any(form == "uint8" for t in trained for _, _, form in self.state(t))
        return [MAP] * self.maps if packs else []

    def highest(self, trained: Trained) -> Level:
        """The most that a step holds for a moment."""
        best = Level()
        for group in self.step(trained):
            level = Level(sum(group), sum(blocks(n) for n in group))
            best = level if level.allocated > best.allocated else best
        return best


def _like(*names: str, form: str | None = None) -> Callable[[Tensor], Iterator[Stored]]:
    """Tensors of the parameter's own shape."""

    def state(t: Tensor) -> Iterator[Stored]:
        for name in names:
            yield name, t.axes, form

    return state


def _adam_fused(t: Tensor) -> Iterator[Stored]:
    # Only the fused step counts on the device; the others keep their counters on the host.
    yield "step", (), "fp32"
    yield from _like("exp_avg", "exp_avg_sq")(t)


def _factors(t: Tensor, name: str, form: str | None) -> Iterator[Stored]:
    """Sums over rows and over columns of a matrix; all of a vector."""
    *outer, rows, columns = (1, 1, *t.shape)
    lead: Axes = tuple(("X", n) for n in outer[2:]) if len(t.shape) > 1 else ()
    if len(t.shape) > 1:
        yield f"{name}_row", (*lead, ("X", rows)), form
        yield f"{name}_col", (*lead, ("X", columns)), form
    else:
        yield name, t.axes, form


def _adafactor(t: Tensor) -> Iterator[Stored]:
    yield from _factors(t, "exp_avg_sq", "fp32")
    yield "RMS", (), "fp32"


def _adafactor_torch(t: Tensor) -> Iterator[Stored]:
    yield from _factors(t, "var", None)


def _came(t: Tensor) -> Iterator[Stored]:
    yield "exp_avg", t.axes, "fp32"
    yield from _factors(t, "exp_avg_sq", "fp32")
    if len(t.shape) > 1:
        yield from _factors(t, "exp_avg_res", "fp32")
    yield "RMS", (), None


def _eight_bit(*names: str, tables: bool = True) -> Callable[[Tensor], Iterator[Stored]]:
    """bitsandbytes: a byte an element with a scale for 256; small tensors and, as the Trainer asks, tables in fp32."""

    def state(t: Tensor) -> Iterator[Stored]:
        n = t.numel
        for i, name in enumerate(names, 1):
            if n < LEAST_8BIT or (tables and t.role in ("embedding", "position")):
                yield name, t.axes, "fp32"
            else:
                yield name, t.axes, "uint8"
                yield f"absmax{i}", (("X", -(-n // SCALED)),), "fp32"

    return state


def _low_bit(bits: int, block: int, map_entries: int, form: str) -> Callable[[Tensor], Iterator[Stored]]:
    """torchao: codes, a scale for every block, and a map of its own for each state; others as the parameter is."""

    def state(t: Tensor) -> Iterator[Stored]:
        n = t.numel
        for name in ("exp_avg", "exp_avg_sq"):
            if n < LEAST_8BIT or n % block:
                yield name, t.axes, None
                continue
            yield f"{name}.codes", (("X", n * bits // 8),), form
            yield f"{name}.scale", (("X", n // block),), "fp32"
            if map_entries:
                yield f"{name}.qmap", (("X", map_entries),), "fp32"

    return state


def _muon(t: Tensor) -> Iterator[Stored]:
    if steps.is_matrix(t):
        yield "momentum_buffer", t.axes, None
    else:
        yield from _adam_fused(t)


def _preconditioned(t: Tensor, *, inverse: str, moments: tuple[str, ...]) -> Iterator[Stored]:
    """A square matrix, and what is made of it, for every dimension of a matrix."""
    for name in moments:
        yield name, t.axes, None
    if len(t.shape) > 1:
        for i, n in enumerate(t.shape):
            if n <= LARGEST_SQUARE:
                yield f"{inverse}[{i}]", (("X", n), ("X", n)), None
                yield f"Q[{i}]", (("X", n), ("X", n)), None


def _soap(t: Tensor) -> Iterator[Stored]:
    yield from _preconditioned(t, inverse="GG", moments=("exp_avg", "exp_avg_sq"))


def _galore(t: Tensor) -> Iterator[Stored]:
    """Moments of a matrix's projection to 128 rows or columns, and the projection."""
    yield from _low_rank(t, min(steps.GALORE_RANK, *t.shape))


def _galore_fp32(t: Tensor) -> Iterator[Stored]:
    """Nothing is cast: the projection is a part of the decomposition's factor, all of which stays."""
    for name, axes, form in _galore(t):
        yield name, (axes[1], axes[1]) if name == "projector" else axes, form


def _apollo(t: Tensor) -> Iterator[Stored]:
    """The same with a random projection, and the norm of the last update."""
    yield from _low_rank(t, steps.GALORE_RANK)
    if steps.is_linear(t):
        yield "scaled_grad", (), None


def _low_rank(t: Tensor, rank: int) -> Iterator[Stored]:
    if not steps.is_linear(t):
        yield from _like("exp_avg", "exp_avg_sq")(t)
        return
    yield "projector", (("X", rank), ("X", min(t.shape))), None
    for name in ("exp_avg", "exp_avg_sq"):
        yield name, (("X", max(t.shape)), ("X", rank)), None


def _none(t: Tensor) -> Iterator[Stored]:
    yield from ()


OPTIMIZERS: Final[dict[str, Optimizer]] = {
    o.name: o
    for o in (
        Optimizer(
            "adamw-fused", _adam_fused, steps.nothing, "two moments in the parameters' format and a counter each"
        ),
        Optimizer(
            "adamw-foreach",
            _like("exp_avg", "exp_avg_sq"),
            steps.all_at_once(1),
            "two moments in the parameters' format",
        ),
        Optimizer(
            "adamw-loop",
            _like("exp_avg", "exp_avg_sq"),
            steps.looped(steps.adamw),
            "two moments in the parameters' format",
        ),
        Optimizer(
            "adamw-amsgrad",
            _like("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
            steps.all_at_once(1),
            "two moments and the largest second one",
        ),
        Optimizer("sgd-momentum", _like("momentum_buffer"), steps.nothing, "one momentum in the parameters' format"),
        Optimizer("sgd", _none, steps.nothing, "no state"),
        Optimizer("rmsprop", _like("square_avg"), steps.all_at_once(1), "one second moment in the parameters' format"),
        Optimizer("adagrad", _like("sum"), steps.all_at_once(2), "one sum of squares in the parameters' format"),
        Optimizer(
            "nadam", _like("exp_avg", "exp_avg_sq"), steps.all_at_once(1), "two moments in the parameters' format"
        ),
        Optimizer(
            "adafactor", _adafactor, steps.looped(steps.adafactor), "sums of squares over rows and columns, in fp32", HF
        ),
        Optimizer(
            "adafactor-torch",
            _adafactor_torch,
            steps.looped(steps.adafactor_torch),
            "sums of squares over rows and columns",
        ),
        Optimizer(
            "adamw-8bit",
            _eight_bit("state1", "state2"),
            steps.nothing,
            "two moments of a byte an element, tables and small tensors in fp32",
            BNB,
            maps=2,
        ),
        Optimizer(
            "paged-adamw-8bit",
            _eight_bit("state1", "state2"),
            steps.nothing,
            "two moments of a byte an element, large ones in paged memory",
            BNB,
            paged=True,
            maps=2,
        ),
        Optimizer(
            "paged-adamw",
            _like("state1", "state2", form="fp32"),
            steps.nothing,
            "two moments in fp32, large ones in paged memory",
            BNB,
            paged=True,
        ),
        Optimizer(
            "lion-8bit",
            _eight_bit("state1"),
            steps.nothing,
            "one moment of a byte an element, tables and small tensors in fp32",
            BNB,
            maps=1,
        ),
        Optimizer(
            "adamw-8bit-ao",
            _low_bit(8, 256, 256, "uint8"),
            steps.nothing,
            "two moments of a byte an element",
            AO,
            rough=COMPILED,
        ),
        Optimizer(
            "adamw-4bit-ao",
            _low_bit(4, 128, 16, "uint8"),
            steps.nothing,
            "two moments of half a byte an element",
            AO,
            rough=COMPILED,
        ),
        Optimizer(
            "adamw-fp8-ao", _low_bit(8, 256, 0, "fp8_e4m3"), steps.nothing, "two moments in fp8", AO, rough=COMPILED
        ),
        Optimizer(
            "lion",
            _like("exp_avg"),
            steps.each(2),
            "one moment in the parameters' format",
            "https://pypi.org/project/lion-pytorch/0.2.5/",
        ),
        Optimizer(
            "came",
            _came,
            steps.looped(steps.came),
            "one moment and factored sums, in fp32",
            "https://pypi.org/project/came-pytorch/0.1.3/",
        ),
        Optimizer(
            "schedule-free",
            _like("z", "exp_avg_sq"),
            steps.all_at_once(1),
            "a second copy of the weights and one moment",
            "https://pypi.org/project/schedulefree/1.4.1/",
        ),
        Optimizer(
            "muon",
            _muon,
            steps.looped(steps.muon, only=steps.is_matrix),
            "one momentum of each matrix in a layer, AdamW for the rest",
        ),
        Optimizer(
            "soap",
            _soap,
            steps.each(2),
            "two moments, and two square matrices for each side of a matrix up to 10,000",
            PO,
            rough=EIGEN,
        ),
        Optimizer(
            "galore",
            _galore,
            steps.looped(steps.galore, last=steps.is_linear),
            "two moments of each layer's matrices at rank 128, and the projections",
            "https://pypi.org/project/galore-torch/1.0/",
            rough=SVD,
            in_fp32=_galore_fp32,
        ),
        Optimizer(
            "apollo",
            _apollo,
            steps.looped(steps.apollo, last=steps.is_linear),
            "two moments of each layer's matrices at rank 128, and random projections",
            "https://pypi.org/project/apollo-torch/1.0.3/",
        ),
    )
}

NAMED_ONLY: Final = ("lamb", "sophia", "shampoo", "adam-mini", "q-galore", "lomo", "adalomo", "ademamix")


def optimizer(name: str) -> Optimizer:
    """The optimizer of that name.

    Raises:
        UnsupportedError: known, and not modelled yet.
        InputError: not known.
    """
    found = OPTIMIZERS.get(name)
    if found is not None:
        return found
    if name in NAMED_ONLY:
        raise UnsupportedError(
            f"the optimizer {name} is not modelled yet",
            key="optimizer",
            value=name,
            hint=f"one of {', '.join(OPTIMIZERS)}",
        )
    raise InputError(
        f"unknown optimizer {name!r}",
        key="optimizer",
        value=name,
        nearest=nearest(name, (*OPTIMIZERS, "adamw", *NAMED_ONLY)),
    )


def state(o: Optimizer, parameters: Iterable[Tensor]) -> Iterator[tuple[Tensor, str | None]]:
    """The optimizer's tensors for a list of parameters, with the format where it is not the parameter's."""
    for t in parameters:
        for name, axes, form in o.state(t):
            yield Tensor(f"{t.name}.{name}", axes, "optimizer", layer=t.layer), form


def numel(axes: Axes) -> int:
    """Elements of a state."""
    return size(axes)
