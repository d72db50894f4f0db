"""What saved activations take on the host, pinned for the copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.estimate.training import Step

OFFLOADED: Final = 1024
"""Bytes below which a tensor stays (``min_offload_size``).

https://github.com/huggingface/trl/blob/v1.16.0/trl/models/activation_offloading.py
"""
PINNED, BUFFERS = 256 * 2**10, 200
"""Bytes of a buffer on the host, and how many unsloth makes before it knows how many it needs.

unsloth_zoo 2026.10.9, unsloth_zoo/gradient_checkpointing.py (``INITIAL_CPU_BUFFER_SIZE``, 2 B each).
"""


def pinned(step: Step) -> Iterator[int]:
    """Tensors: of the layers what they were given, and of the loss. [byte]"""
    r, p = step.recipe, step.passes
    if r.hosts:
        for a in (p.stem, *p.layers, p.tail):
            yield from p.tape.within(a.forward.start, a.forward.stop)  # type: ignore[attr-defined]
    if step.staged:
        away = [below.output.nbytes for below in (p.stem, *p.layers[:-2])]
        yield from away
        yield from (PINNED for _ in range(BUFFERS - len(away)))
    if r.offloads:
        yield from (below.output.nbytes for below in (p.stem, *p.layers[:-1]))
        yield from (s.nbytes for s in p.tail.saved if s.category == "loss" and s.nbytes >= OFFLOADED)
