"""Flex attention without its kernel: a function that makes and keeps what the compiled one does.

Wherever libraries call ``flex_attention`` they have compiled it. What AOTAutograd keeps of that graph, and where the
code that inductor writes for a GPU takes and lets go of buffers, is in ``arch/flex.py``; here tensors without data go
the same way, by the same means: saved tensors and incoming gradients are handed over. Masks are made as what they are
when they are there. Left out: an uncompiled call, which works all scores out and is refused; captured tensors that are
trained; the greatest score of each row as a result.

Reference: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/attention/flex_attention.py
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

import torch

from tonnage.tracing.patches import Patches

NAME: Final = "flex"
MODULE: Final = "torch.nn.attention.flex_attention"
OPS: Final = "tonnage_flex"
BLOCK: Final = 128
"""Tokens of a block."""
UNCOMPILED: Final = (
    "flex_attention without torch.compile works all scores out, which is not traced: compile it, as libraries do"
)

ran: Counter[str] = Counter()
"""Calls of the trace at hand."""
_libraries: list[Any] = []


class FlexError(NotImplementedError):
    """A call that is not traced."""


def _register() -> None:
    """Define the kernel's own operation, once in a process."""
    if _libraries:
        return
    library = torch.library.Library(OPS, "FRAGMENT")
    _libraries.append(library)
    library.define("forward(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor, Tensor)")
    library.impl("forward", _forward, "Meta")


def _forward(q: Any, k: Any, v: Any) -> Any:
    """Logarithms of the rows' sums, the most of each row, and the output, laid out as the queries are."""
    lse, most = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(2))
    return lse, most, _like((*q.shape[:3], v.shape[3]), q)


def _like(shape: tuple[int, ...], of: torch.Tensor) -> torch.Tensor:
    """A tensor whose axes lie in the order of another's, the last one innermost."""
    order = sorted(range(len(shape) - 1), key=lambda axis: -of.stride(axis))
    strides, step = [1] * len(shape), shape[-1]
    for axis in reversed(order):
        strides[axis], step = step, step * shape[axis]
    return torch.empty_strided(shape, strides, dtype=of.dtype, device=of.device)


class Compiled(torch.autograd.Function):  # type: ignore[misc]
    """What AOTAutograd makes of a call: its saved tensors and gradients are let go of one by one."""

    clear_saved_tensors_on_access = True
    boxed_grads_call = True

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, sums: bool, blocks: tuple[torch.Tensor, ...]) -> Any:
        """The heads' outputs, and with ``sums`` the logarithm of each row's."""
        ran[NAME] += 1
        ctx.formats = tuple(t.dtype for t in (q, k, v))
        if q.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            q, k, v = (t.to(torch.get_autocast_dtype("cuda")) for t in (q, k, v))
        lse, most, out = torch.ops.tonnage_flex.forward(q, k, v)
        ctx.save_for_backward(q, k, v, out, lse, *blocks)
        ctx.strides = out.stride()
        # The natural logarithm is written where each row's most was.
        return (out, most) if sums else out

    @staticmethod
    def backward(ctx: Any, grads: list[Any]) -> Any:
        """Gradients of queries, keys and values."""
        q, k, v, out, lse, *blocks = ctx.saved_tensors
        for n, strides in enumerate((ctx.strides, lse.stride())[: len(grads)]):
            # Gradients are laid out as the results are.
            if grads[n].stride() != strides:
                grads[n] = torch.empty_strided(
                    grads[n].shape, strides, dtype=grads[n].dtype, device=grads[n].device
                )  # fmt: skip
        delta = torch.empty_like(lse)
        del out, grads[1:]
        dq, dv, dk = (_like(tuple(t.shape), t) for t in (q, v, k))
        grads.clear()
        del delta, q, k, v, lse, blocks
        made, found = [dq, dk, dv], []
        del dq, dk, dv
        for form in ctx.formats:
            g = made.pop(0)
            found.append(g if g.dtype == form else g.to(form))
            del g
        return (*found, None, None)


def compiled(
    query: Any, key: Any, value: Any, score_mod: Any = None, block_mask: Any = None, scale: float | None = None,
    enable_gqa: bool = False, return_lse: bool = False, kernel_options: Any = None, *, return_aux: Any = None,
) -> Any:  # fmt: skip
    """As ``torch.compile(flex_attention)`` runs.

    Raises:
        ValueError: as torch's own function.
        FlexError: what is asked for is not traced.
    """
    module = sys.modules[MODULE]
    module._validate_sdpa_input(query, key, value, allow_lowp_kv=True)
    module._validate_embed_dim(query, key, value)
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError(
            f"flex attention of {query.shape[1]} heads over {key.shape[1]} takes enable_gqa = True, or repeated heads"
        )
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"flex attention shares {key.shape[1]} heads among {query.shape[1]}, which is no multiple")
    if return_aux is not None and return_aux.max_scores:
        raise FlexError("flex attention that hands back the greatest scores is not traced")
    captured = [t for function in (score_mod, getattr(block_mask, "mask_mod", None)) for t in _captured(function)]
    if any(t.requires_grad for t in captured):
        raise FlexError("flex attention whose score_mod captures a trained tensor is not traced")
    sums = return_lse or (return_aux is not None and return_aux.lse)
    blocks = () if block_mask is None else tuple(t for t in block_mask.as_tuple() if isinstance(t, torch.Tensor))
    made = Compiled.apply(query, key, value, sums, (*blocks, *captured))
    if return_aux is not None:
        return (made[0], module.AuxOutput(lse=made[1])) if sums else (made, module.AuxOutput())
    return tuple(made) if sums else made


def _captured(function: Any) -> list[torch.Tensor]:
    """Tensors in the closures of a function and of the functions in these."""
    found: list[torch.Tensor] = []
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):
            inside = cell.cell_contents
            for part in inside if isinstance(inside, list | tuple) else (inside,):
                if isinstance(part, torch.Tensor):
                    found.append(part)
                elif callable(part) and part is not function:
                    found += _captured(part)
    return found


def create_block_mask(
    mask_mod: Any, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None,
    BLOCK_SIZE: Any = BLOCK, **how: Any,
) -> Any:  # fmt: skip
    """A ``BlockMask`` as it is when it is there."""
    sides = BLOCK_SIZE if isinstance(BLOCK_SIZE, tuple) else (BLOCK_SIZE, BLOCK_SIZE)
    rows, columns = -(-Q_LEN // sides[0]), -(-KV_LEN // sides[1])

    def pair(a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
        one = (B or 1, H or 1, a)
        return (
            torch.empty(one, dtype=torch.int32, device=device),
            torch.empty((*one, b), dtype=torch.int32, device=device),
        )

    made = (*pair(rows, columns), *pair(rows, columns), *pair(columns, rows), *pair(columns, rows))
    return sys.modules[MODULE].BlockMask((Q_LEN, KV_LEN), *made, sides, mask_mod)


def install(p: Patches, is_compiled: Callable[[], bool] = lambda: False) -> Callable[[Any], Any]:
    """Have code find the functions here, whatever it has imported before.

    Args:
        p: takes what has to be undone.
        is_compiled: whether the code that calls is.

    Returns:
        What ``torch.compile`` makes of a function: of flex attention the compiled one, of a mask's maker that.
    """
    _register()
    p.later(ran.clear)
    module = import_module(MODULE)
    there = [True]
    p.later(there.clear)
    attention, mask = module.flex_attention, module.create_block_mask

    def plain(*args: Any, **how: Any) -> Any:
        if not there:
            # What was imported during the trace goes on with it.
            return attention(*args, **how)
        if not is_compiled():
            raise FlexError(UNCOMPILED)
        return compiled(*args, **how)

    def masks(*args: Any, **how: Any) -> Any:
        return create_block_mask(*args, **how) if there else mask(*args, **how)

    real, called = {attention: compiled, mask: masks}, {attention: plain, mask: masks}
    for found in list(sys.modules.values()):
        names = getattr(found, "__dict__", None) or {}
        if any(names.get(f.__name__) is f for f in real):
            _put(p, found, real, called)
    return lambda function: compiled if function is plain else function


def _put(p: Patches, owner: Any, real: dict[Any, Any], called: dict[Any, Any]) -> None:
    """In place of the functions, and of what was compiled of them, among a module's names and its classes'."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, type) and value.__module__ == getattr(owner, "__name__", None):
            _put(p, value, real, called)
        elif callable(value) and name == "compile_friendly_flex_attention" and "training" in value.__code__.co_varnames:
            p.put(owner, name, lambda q, k, v, training=False, **how: compiled(q, k, v, **how))
        else:
            of = getattr(value, "_torchdynamo_orig_callable", None)
            with suppress(TypeError):
                if value in called:
                    p.put(owner, name, called[value])
                elif of in real:
                    made = real[of]
                    p.put(owner, name, staticmethod(made) if isinstance(owner, type) else made)
