"""Optimizer state as a map over the parameters, and what the step itself takes.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/adamw.py, adam.py, sgd.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Final

from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.memory.passes import blocks
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
GALORE_RANK: Final = 128
"""Rank of GaLore's projections in its own examples."""

Stored = tuple[str, Axes, str | None]
"""Name of a state, its axes, and its format; None for the format of the parameter."""
Trained = Iterable[tuple[Tensor, int, int]]
"""Parameters in the order of the model, each with the bytes of an element and how often it stands."""
Group = Iterator[list[int]]
"""What a step holds at once for a moment: sizes, one group after the other. [byte]"""


class Optimizer(Record):
    """What an optimizer keeps for each parameter, and what its step takes for a moment.

    Args:
        name: as the command line takes it.
        state: tensors on the device for one parameter.
        step: what one step holds beside them.
        why: the state in words.
        source: the code that is followed.
        paged: the state lies in memory that host and device share, outside the caching allocator.
        rough: what is left out of the step, where something is.
    """

    name: str
    state: Callable[[Tensor], Iterator[Stored]]
    step: Callable[[Trained], Group]
    why: str
    source: str = TORCH
    paged: bool = False
    rough: str | None = None

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
        yield "step", (), "fp32"

    return state


def _muon(t: Tensor) -> Iterator[Stored]:
    if len(t.shape) == 2 and t.role not in ("embedding", "position", "head"):
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


def _low_rank(t: Tensor) -> Iterator[Stored]:
    """GaLore: moments of a matrix's projection to 128 rows or columns, and the projection."""
    if len(t.shape) != 2 or t.role in ("embedding", "position", "head"):
        yield from _like("exp_avg", "exp_avg_sq")(t)
        return
    rows, columns = t.shape
    rank = min(GALORE_RANK, rows, columns)
    longer, shorter = max(rows, columns), min(rows, columns)
    yield "projector", (("X", rank), ("X", shorter)), None
    for name in ("exp_avg", "exp_avg_sq"):
        yield name, (("X", longer), ("X", rank)), None


def _none(t: Tensor) -> Iterator[Stored]:
    yield from ()


def _nothing(trained: Trained) -> Group:
    yield from ()


def _all_at_once(sets: int) -> Callable[[Trained], Group]:
    """A foreach step: so many tensors of every parameter's size at the same time."""

    def step(trained: Trained) -> Group:
        yield [t.numel * width for t, width, times in trained for _ in range(times * sets)]

    return step


def _one_by_one(trained: Trained) -> Group:
    """A root and a quotient for each parameter in turn; the last quotient lives until the next is bound.

    Tensors that stand as often are those of one layer, which follow each other layer by layer.
    """
    before = 0
    for times, run in groupby(trained, lambda entry: entry[2]):
        sizes = [t.numel * width for t, width, _ in run]
        for n in sizes * times:
            yield [before, n, n]
            before = n


def _each(wide: int, narrow: int, *, copies: int = 0) -> Callable[[Trained], Group]:
    """One parameter after the other: tensors in fp32, tensors in its own format, and fp32 copies of 16-bit ones."""

    def step(trained: Trained) -> Group:
        for t, width, _ in trained:
            n = t.numel
            yield [4 * n] * (wide + (copies if width < 4 else 0)) + [n * width] * narrow

    return step


def _orthogonal(trained: Trained) -> Group:
    """Newton-Schulz in bf16: the update, and the products of its shorter side with itself."""
    for t, width, _ in trained:
        if len(t.shape) == 2 and t.role not in ("embedding", "position", "head"):
            n, short = t.numel, min(t.shape)
            copies = 3 if width == 2 else 4
            yield [n * width, *[2 * n] * copies, 2 * short * short, 2 * short * short]


OPTIMIZERS: Final[dict[str, Optimizer]] = {
    o.name: o
    for o in (
        Optimizer("adamw-fused", _adam_fused, _nothing, "two moments in the parameters' format and a counter each"),
        Optimizer(
            "adamw-foreach", _like("exp_avg", "exp_avg_sq"), _all_at_once(1), "two moments in the parameters' format"
        ),
        Optimizer("adamw-loop", _like("exp_avg", "exp_avg_sq"), _one_by_one, "two moments in the parameters' format"),
        Optimizer(
            "adamw-amsgrad",
            _like("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
            _all_at_once(1),
            "two moments and the largest second one",
        ),
        Optimizer("sgd-momentum", _like("momentum_buffer"), _nothing, "one momentum in the parameters' format"),
        Optimizer("sgd", _none, _nothing, "no state"),
        Optimizer("rmsprop", _like("square_avg"), _all_at_once(1), "one second moment in the parameters' format"),
        Optimizer("adagrad", _like("sum"), _all_at_once(2), "one sum of squares in the parameters' format"),
        Optimizer("nadam", _like("exp_avg", "exp_avg_sq"), _all_at_once(1), "two moments in the parameters' format"),
        Optimizer("adafactor", _adafactor, _each(2, 0, copies=2), "sums of squares over rows and columns, in fp32", HF),
        Optimizer("adafactor-torch", _adafactor_torch, _all_at_once(1), "sums of squares over rows and columns"),
        Optimizer(
            "adamw-8bit",
            _eight_bit("state1", "state2"),
            _nothing,
            "two moments of a byte an element, tables and small tensors in fp32",
            BNB,
        ),
        Optimizer(
            "paged-adamw-8bit",
            _eight_bit("state1", "state2"),
            _nothing,
            "two moments of a byte an element, in paged memory",
            BNB,
            paged=True,
        ),
        Optimizer(
            "paged-adamw",
            _like("state1", "state2", form="fp32"),
            _nothing,
            "two moments in fp32, in paged memory",
            BNB,
            paged=True,
        ),
        Optimizer(
            "lion-8bit",
            _eight_bit("state1"),
            _nothing,
            "one moment of a byte an element, tables and small tensors in fp32",
            BNB,
        ),
        Optimizer(
            "adamw-8bit-ao",
            _low_bit(8, 256, 256, "uint8"),
            _nothing,
            "two moments of a byte an element",
            AO,
            rough=COMPILED,
        ),
        Optimizer(
            "adamw-4bit-ao",
            _low_bit(4, 128, 16, "uint8"),
            _nothing,
            "two moments of half a byte an element",
            AO,
            rough=COMPILED,
        ),
        Optimizer("adamw-fp8-ao", _low_bit(8, 256, 0, "fp8_e4m3"), _nothing, "two moments in fp8", AO, rough=COMPILED),
        Optimizer(
            "lion",
            _like("exp_avg"),
            _each(0, 2),
            "one moment in the parameters' format",
            "https://pypi.org/project/lion-pytorch/0.2.5/",
        ),
        Optimizer(
            "came",
            _came,
            _each(4, 0, copies=1),
            "one moment and factored sums, in fp32",
            "https://pypi.org/project/came-pytorch/0.1.3/",
        ),
        Optimizer(
            "schedule-free",
            _like("z", "exp_avg_sq"),
            _all_at_once(1),
            "a second copy of the weights and one moment",
            "https://pypi.org/project/schedulefree/1.4.1/",
        ),
        Optimizer("muon", _muon, _orthogonal, "one momentum of each matrix in a layer, AdamW for the rest"),
        Optimizer(
            "soap",
            _soap,
            _each(0, 2),
            "two moments, and two square matrices for each side of a matrix up to 10,000",
            PO,
            rough=EIGEN,
        ),
        Optimizer(
            "galore",
            _low_rank,
            _each(0, 4),
            "two moments of each layer's matrices at rank 128, and the projections",
            "https://pypi.org/project/galore-torch/1.0/",
            rough=SVD,
        ),
    )
}

NAMED_ONLY: Final = ("lamb", "sophia", "shampoo", "adam-mini", "apollo", "q-galore", "lomo", "adalomo", "ademamix")


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
