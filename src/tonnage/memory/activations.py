"""What the textbook GPT block saves for its backward pass, when nothing is fused.

The blocks of real models are run operation by operation (``arch/``, ``memory/passes.py``). This list is the published
one that people compare with: its closed forms, with and without parallelism, fall out of it and of the table in
``placement/sharding.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from tonnage.formats import FORMATS
from tonnage.tensors import Axes, Inventory, Tensor

Recompute = Literal["none", "selective", "full"]

HALF: Final = "fp16"
MASK: Final = "uint8"


def gpt_block(*, B: int, T: int, D: int, N: int, recompute: Recompute = "none") -> Inventory:
    r"""Tensors that one unfused GPT block saves, each with its format.

    .. math:: s b h \left(34 + 5 \frac{a s}{h}\right)

    Args:
        B: sequences in a forward pass, ``b``. [sequence]
        T: tokens of a sequence, ``s``. [token]
        D: residual width, ``h``. [element]
        N: query heads, ``a``. [head]
        recompute: "selective" computes scores, softmax and its dropout again, "full" the whole block.

    Returns:
        The list; ``saved_bytes`` adds it up. [byte]

    Leaves out: the embedding's dropout, the last norm, the head and the loss; mean and variance of the norms.

    >>> saved_bytes(gpt_block(B=1, T=2048, D=12288, N=96)) == 2048 * 12288 * 34 + 5 * 96 * 2048**2
    True

    Reference: Korthikanti et al. 2022, arXiv:2205.05198, section 4.1.
    """
    residual: Axes = (("B", B), ("Tn", T), ("D", D))
    heads: Axes = (("B", B), ("T", T), ("N", N), ("H", D // N))
    scores: Axes = (("B", B), ("N", N), ("T", T), ("X", T))
    hidden: Axes = (("B", B), ("T", T), ("F", 4 * D))
    if recompute == "full":
        return (Tensor("block.in", residual, "activation", dtype=HALF),)
    core = (("softmax.out", scores, HALF), ("softmax.mask", scores, MASK), ("scores.in", scores, HALF))
    saved: tuple[tuple[str, Axes, str], ...] = (
        ("norm1.in", residual, HALF), ("qkv.in", residual, HALF),
        ("q", heads, HALF), ("k", heads, HALF), ("v", heads, HALF),
        *(core if recompute == "none" else ()),
        ("o.in", heads, HALF), ("o.mask", residual, MASK),
        ("norm2.in", residual, HALF), ("up.in", residual, HALF),
        ("act.in", hidden, HALF), ("down.in", hidden, HALF), ("down.mask", residual, MASK),
    )  # fmt: skip
    return tuple(Tensor(name, axes, "activation", dtype=form) for name, axes, form in saved)


def saved_bytes(inventory: Iterable[Tensor]) -> int:
    """Bytes of saved tensors, each in its own format. [byte]

    >>> saved_bytes(gpt_block(B=1, T=1024, D=768, N=12, recompute="full"))
    1572864
    """
    return sum(FORMATS[t.dtype or HALF].nbytes(t.numel) for t in inventory)
