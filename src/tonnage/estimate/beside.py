"""Models that lie beside the one that is trained, and what their passes take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.estimate.settle import quantization
from tonnage.formats import FORMATS, Format
from tonnage.memory.weights import Share, bytes_of, is_buffer, is_parameter, total
from tonnage.record import Record
from tonnage.timeline import Level

if TYPE_CHECKING:
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.memory.ahead import Ahead


class Beside(Record):
    """A model that is not trained.

    Args:
        what: it is to the training: reference, teacher, reward model, critic.
        weights: what its parameters take; nothing where they are the trained model's own. [byte]
        buffers: and its buffers. [byte]
        why: its parameters in words.
        sizes: bytes of its tensors, in the order of the modules.
        reading: its forward pass; None where it makes none.
    """

    what: str
    weights: Level = Level()
    buffers: Level = Level()
    why: str = ""
    sizes: tuple[int, ...] = ()
    reading: Ahead | None = None


def as_packed(
    what: str, model: Model, asked: str | None, form: str, compute: str
) -> tuple[Tuning | None, tuple[Share, ...]]:
    """How a model beside is packed: what its products are made with, and its weights by part; nothing where it is not.

    Args:
        what: the key that names it.
        model: that is frozen.
        asked: a scheme's name, ``none``, or None for the checkpoint's own.
        form: format of weights that are not packed.
        compute: format that products with packed weights are computed in.

    Raises:
        InputError: no scheme has this name.
        UnsupportedError: its products are not modelled.
    """
    recipe, _ = quantization(model, asked)
    if recipe is None:
        return None, ()
    # Imported late: most models beside are not packed.
    from tonnage.arch.tuning.adapters import Tuning
    from tonnage.estimate.tuning import frozen

    if recipe.trains != "unpacks":
        raise UnsupportedError(
            f"{what} = {model.name}: what products with weights packed by {recipe.title} take is not modelled",
            key=f"{what}_quant", value=asked, hint=f"--{what}-quant nf4, or none for one that is loaded unpacked",
        )  # fmt: skip
    matrices, shares = frozen(model, recipe.but(loaded_bias=compute), form, compute, form)
    return Tuning(packed=matrices), shares


def resident(what: str, model: Model, form: str, reading: Ahead | None, shares: tuple[Share, ...] = ()) -> Beside:
    """A model that lies on the device in this format, or packed by ``shares``."""
    groups = list(model.groups())
    weights, tensors = bytes_of(groups, FORMATS[form], is_parameter)
    buffers, _ = bytes_of(groups, FORMATS[form], is_buffer)
    words = f"{model.parameters.total:,} parameters x {FORMATS[form].bytes} B ({form}), {tensors} tensors"
    if shares:
        weights = total(shares)
        words = "; ".join(f"{s.part}: {s.elements:,} x {s.format}" for s in shares)
        return Beside(what, weights, buffers, f"{what}, frozen: {words}", (), reading)
    return Beside(
        what, weights, buffers, f"{what}, frozen: {words}", tuple(tensor_sizes(model, FORMATS[form])), reading
    )


def tensor_sizes(model: Model, form: Format) -> Iterator[int]:
    """Bytes of the tensors of a model that is not packed, in the order of the modules."""
    inventories = [*(t for stack in model.stacks for t in stack.weights()), *model.extra]
    tensors = [*inventories, *(model.head.weights() if model.head is not None else ())]
    for t in map(model.kept, sorted(tensors, key=is_buffer)):
        if t.alias_of is None:
            yield (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
