"""Models that lie beside the one that is trained, and what their passes take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tonnage.arch.model import Model
from tonnage.formats import FORMATS, Format
from tonnage.memory.weights import bytes_of, is_buffer, is_parameter
from tonnage.record import Record
from tonnage.timeline import Level

if TYPE_CHECKING:
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


def resident(what: str, model: Model, form: str, reading: Ahead | None) -> Beside:
    """A model that lies on the device in this format."""
    groups = list(model.groups())
    weights, tensors = bytes_of(groups, FORMATS[form], is_parameter)
    buffers, _ = bytes_of(groups, FORMATS[form], is_buffer)
    words = f"{model.parameters.total:,} parameters x {FORMATS[form].bytes} B ({form}), {tensors} tensors"
    return Beside(
        what, weights, buffers, f"{what}, frozen: {words}", tuple(tensor_sizes(model, FORMATS[form])), reading
    )


def tensor_sizes(model: Model, form: Format) -> Iterator[int]:
    """Bytes of the tensors of a model that is not packed, in the order of the modules."""
    inventories = [*(t for stack in model.stacks for t in stack.weights()), *model.extra]
    tensors = [*inventories, *(model.head.weights() if model.head is not None else ())]
    for t in sorted(tensors, key=is_buffer):
        if t.alias_of is None:
            yield (form if t.dtype is None else FORMATS[t.dtype]).nbytes(t.numel)
