"""Q-GaLore: moments of 8 bits of a matrix's projection, by a projection that is quantized, of weights that may be too.

``q-galore`` is its authors' own script with ``--weight_quant --proj_quant --stochastic_round``: matrices of seven names
lie in uint8 with a scale and a zero for 256 elements, are unpacked for each product (``arch/int8.py``) and for their
step, and packed again. ``q-galore-proj`` is axolotl's, which leaves the weights as they are.

Where the script steps in the backward pass, it does so from within the packed products: no other parameter has a step
(its hook stands in an attribute that nothing calls), nor a state, and the gradients of all others stay.

References: https://github.com/VITA-Group/Q-GaLore/blob/5bd2f1c/ q_galore_torch/q_galore_adamw8bit.py,
q_galore_projector.py and run_pretrain.py; q-galore-torch 1.0; bitsandbytes 0.43.1 and 0.49.1 optim/optimizer.py;
axolotl v0.18.0 src/axolotl/utils/optimizers/qgalore.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from tonnage.errors import InputError
from tonnage.memory.optimizers import Optimizer, Stored
from tonnage.memory.optimizers.eight_bit import SCALED, TWO, kept, maps, small
from tonnage.memory.optimizers.low_rank import RANK, SVD, projection
from tonnage.memory.steps import Group, Kind, Replaced, Trained, is_linear, is_matrix
from tonnage.tensors import Tensor

PACKED: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj")
"""Modules whose weights are packed (``target_module``)."""
PLACES: Final = ("attn", "mlp")
"""What the path of a projected matrix names: the script's, and axolotl's default."""
GROUP: Final = 256
"""Elements of a weight, or of a projection, that share a scale and a zero."""
FORMER: Final = 2048
"""Elements that shared a scale of moments up to bitsandbytes 0.44."""
SCRIPT: Final = "https://github.com/VITA-Group/Q-GaLore/blob/5bd2f1c/run_pretrain.py"
AXOLOTL: Final = "https://github.com/axolotl-ai-cloud/axolotl/blob/v0.18.0/src/axolotl/utils/optimizers/qgalore.py"

PROJECTED: Final = (
    "weights stay in their format: the projection alone is quantized, as axolotl runs q-galore-torch 1.0; its wrapper "
    "takes bitsandbytes from 0.44 to 0.49"
)


def packs(name: str) -> bool:
    """Whether the matrix of this module is packed.

    >>> packs("self_attn.q_proj"), packs("lm_head")
    (True, False)
    """
    return name.rpartition(".")[2] in PACKED


def is_packed(t: Tensor) -> bool:
    """Whether a weight is packed."""
    return is_linear(t) and packs(t.name.removesuffix(".weight"))


def _of_module(t: Tensor) -> bool:
    """The script asks modules."""
    return is_linear(t) and any(place in t.name for place in PLACES)


def _of_name(t: Tensor) -> bool:
    """axolotl asks parameters with two dimensions: matrices of routers as well."""
    return is_matrix(t) and any(place in t.name for place in PLACES)


def _state(rank: int, projects: Kind, scaled: int) -> Callable[[Tensor], Iterator[Stored]]:
    """Moments of the projection; the projection in a byte an element, with scales and zeros, and its first vector.

    Its 4 bits are stored in bytes.
    """
    moments = kept(*TWO, bits=8, in_full=small, scaled=scaled)

    def state(t: Tensor) -> Iterator[Stored]:
        if projects(t):
            narrow = min(rank, *t.shape)
            yield "projector", (("X", narrow), ("X", min(t.shape))), "uint8"
            for name in ("scales", "zeros"):
                yield f"projector {name}", (("X", narrow * min(t.shape) // GROUP),), None
            yield "past_ortho_vector", (("X", min(t.shape)),), None
        yield from moments(projection(t, rank) if projects(t) else t)

    return state


def _fitted(made: Callable[[], Optimizer], rank: int, projects: Kind) -> Callable[[Iterable[Tensor]], Optimizer]:
    """The same for a model, whose matrices have to be divided into groups."""

    def fitted(weights: Iterable[Tensor]) -> Optimizer:
        found = [t for t in weights if projects(t)]
        own = made()
        if not found or (own.packs is not None and not any(own.packs(t) for t in found)):
            raise InputError(
                f"optimizer = {own.name} takes matrices whose path names {' or '.join(PLACES)}"
                f"{'' if own.packs is None else f', of modules {PACKED[0]} and the like'}, and the model has none",
                key="optimizer", value=own.name, hint="--optimizer galore",
            )  # fmt: skip
        for t in found:
            narrow = min(rank, *t.shape)
            if narrow * min(t.shape) % GROUP or (own.packs is not None and own.packs(t) and t.numel % GROUP):
                raise InputError(
                    f"optimizer = {own.name}: {t.name} of {' x '.join(map(str, t.shape))} at rank {narrow} is not "
                    f"divided into groups of {GROUP} elements, as q-galore-torch asserts", key="optimizer",
                    value=own.name, hint="--optimizer-rank of a power of two, or --optimizer galore",
                )  # fmt: skip
        return own

    return fitted


def _projecting(rank: int, projects: Kind) -> Callable[[Trained], Group]:
    """Matrices as they are, each stepped in its projection's place."""

    def step(trained: Trained) -> Group:
        for t, width, _ in trained:
            if projects(t):
                yield from _turn(t, width, rank, [])

    return step


def _turn(t: Tensor, width: int, rank: int, held: list[int]) -> Group:
    """A matrix' step: the projection is unpacked twice, and the weights' clone takes their place."""
    low = projection(t, rank).numel * width
    n, unpacked = t.numel * width, min(rank, *t.shape) * min(t.shape) * width
    yield [*held, unpacked, unpacked]
    yield [*held, unpacked, low]
    yield [*held, low, n, low]
    yield Replaced(n, low)
    yield [*held, low, unpacked, n, n]


def _packing(rank: int, *, alone: bool) -> Callable[[Trained], Group]:
    """Packed matrices: unpacked, stepped, and packed again with what rounds at random.

    Names of one turn live until the next one binds them, unless each matrix has a step ``alone``.
    """

    def step(trained: Trained) -> Group:
        # float_weight and saved_data.
        wide = saved = 0
        for t, width, _ in trained:
            if not _of_module(t):
                continue
            if not is_packed(t):
                yield from _turn(t, width, rank, [wide, saved])
                continue
            n = t.numel * width
            # What the parameter takes beyond its bytes while it is not packed.
            more = n - t.numel
            before, wide = wide, n
            yield [before, saved, wide]
            yield [saved, wide, n]
            yield [saved, wide, more, n]
            yield from _turn(t, width, rank, [saved, wide, more])
            yield [saved, wide, more, n]
            saved = n
            # Smallest and largest values, scales and zeros; then quotients, both ways of rounding, how near, a number.
            rounding = [wide, saved, more, *[t.numel // GROUP * width] * 4, *[n] * 5]
            yield [*rounding, n, n, n]
            yield [*rounding, n, t.numel]
            if alone:
                wide = saved = 0

    return step


def _of_q_galore(rank: int) -> Optimizer:
    def state(t: Tensor) -> Iterator[Stored]:
        if is_packed(t):
            yield from states(t)

    def within() -> Optimizer:
        return made().but(
            state=state, step=_packing(rank, alone=True), leaves=lambda name: not packs(name.removesuffix(".weight")),
            layerwise=None,
            once=maps(lambda t: not is_packed(t) or small(projection(t, rank)), 2),
        )  # fmt: skip

    states = _state(rank, _of_module, FORMER)

    def made() -> Optimizer:
        return Optimizer(
            "q-galore",
            states,
            _packing(rank, alone=False),
            f"two moments of a byte an element, of each layer's matrices at rank {rank}, and packed projections",
            SCRIPT,
            rough=SVD,
            once=maps(lambda t: small(projection(t, rank) if _of_module(t) else t), 2),
            shrinks=True,
            at_rank=_of_q_galore,
            fitted=_fitted(made, rank, _of_module),
            packs=is_packed,
            layerwise=within,
        )

    return made()


def _of_q_galore_proj(rank: int) -> Optimizer:
    def made() -> Optimizer:
        return Optimizer(
            "q-galore-proj",
            _state(rank, _of_name, SCALED),
            _projecting(rank, _of_name),
            f"two moments of a byte an element, of each layer's matrices at rank {rank}, and packed projections",
            AXOLOTL,
            rough=SVD,
            once=maps(lambda t: small(projection(t, rank) if _of_name(t) else t), 2),
            shrinks=True,
            at_rank=_of_q_galore_proj,
            told=PROJECTED,
            fitted=_fitted(made, rank, _of_name),
        )

    return made()


OPTIMIZERS: Final = (_of_q_galore(RANK), _of_q_galore_proj(RANK))
