"""A part of a model that runs over some tokens at a time.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/pytorch_utils.py
(apply_chunking_to_forward)
"""

from __future__ import annotations

from collections.abc import Callable

from tonnage.arch import ops
from tonnage.arch.tape import Value


def in_pieces(run: Callable[[Value], Value], x: Value, tokens: int) -> Value:
    """``run`` over so many tokens of ``x`` (axes ``B T ...``) at a time, and its outputs in one tensor.

    All at once where ``tokens`` is 0. The number of tokens is a multiple of it.
    """
    if not tokens:
        return run(x)
    B, (_, T), *rest = x.axes
    outs = [run(part) for part in ops.split(x, tuple((B, ("T", tokens), *rest) for _ in range(T // tokens)))]
    return ops.cat(tuple(outs), (B, ("T", T), *outs[0].axes[2:]), "outputs of all pieces")
