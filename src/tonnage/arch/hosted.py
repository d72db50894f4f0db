"""A tape whose saved tensors lie on the host until the backward pass asks for them.

Every tensor that an operation saves is copied there, weights as well, and copied back for each operation that saved
it, for as long as that one's step runs.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/autograd/graph.py (``save_on_cpu``)

Leaves out: a copy on the device of what does not lie in one stretch, on its way to the host; buffers that an operation
saves (indices of BERT's positions: 8 B a token).
"""

from __future__ import annotations

from tonnage.arch.tape import WIDTH, Back, Grads, Parameter, Source, Tape, Value, needs_grad
from tonnage.tensors import size


class HostedTape(Tape):
    """``moved`` has what went to the host: at which event, and how many bytes."""

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.moved: list[tuple[int, int]] = []

    def record(
        self,
        outputs: tuple[Value, ...],
        inputs: tuple[Source, ...],
        back: Back,
        saved: tuple[Value, ...],
        *,
        custom: bool = False,
        weights_first: bool = False,
        flat: bool = False,
        keeps_weight: bool = False,
    ) -> None:
        """As a tape's, but what is saved is copied."""
        if not self.recording or not any(needs_grad(i) for i in inputs):
            return
        kept = [(v.axes, v.dtype) for v in saved]
        kept += [(w.axes, w.dtype) for w in _weights(inputs, saved, flat=flat)]
        position = outputs[0].storage.position
        self.moved += [(position, size(axes) * WIDTH[dtype]) for axes, dtype in kept]

        def returned(*given: Value) -> Grads:
            copies = [self.new("copy from the host", axes, dtype) for axes, dtype in kept]
            made = back(*given)
            copies.clear()
            return made

        super().record(
            outputs, inputs, returned if kept else back, (), custom=custom, weights_first=weights_first, flat=flat,
            keeps_weight=keeps_weight,
        )  # fmt: skip

    def within(self, start: int, stop: int) -> list[int]:
        """Tensors that went to the host between these events. [byte]"""
        return [n for position, n in self.moved if start <= position < stop]


def _weights(inputs: tuple[Source, ...], saved: tuple[Value, ...], *, flat: bool) -> list[Parameter]:
    """Parameters that an operation saves: a factor of a product, and what a layer norm scales and shifts with.

    Bias, table of an embedding and what is only cast are not.
    """
    first = inputs[0]
    if flat:
        return [w for w in inputs[1:2] if isinstance(w, Parameter) and needs_grad(first)]
    if not saved or len(inputs) < 2:
        return []
    found = [w for w in inputs if isinstance(w, Parameter)]
    if len(inputs) == 2:
        return found if any(isinstance(i, Value) and needs_grad(i) for i in inputs) else []
    return found
