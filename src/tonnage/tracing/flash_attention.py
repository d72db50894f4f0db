"""flash-attn without its kernels: its Python functions over operations that make what the kernels make.

Signatures and saved tensors are those of https://github.com/Dao-AILab/flash-attention/blob/v2.8.3/flash_attn/
flash_attn_interface.py (release 2) and hopper/flash_attn_interface.py (release 3); what the kernels take for themselves
is in ``arch/flash_attention.py``. Left out: ``deterministic``, which is refused; split keys, which forward passes of
few queries take; fp8; and caches of pages. A batch with padding needs data, as the package's own code does.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

import torch

from tonnage.tracing.flash_kernels import THIRD, register
from tonnage.tracing.patches import Patches

NAMES: Final = ("flash_attention_2", "flash_attention_3")
"""As transformers names them."""
WINDOW: Final = (-1, -1)
HALF: Final = (torch.bfloat16, torch.float16)
WIDEST: Final = 256
STAND_IN: Final = "tonnage"
"""Where the modules come from that stand for the package's."""
ALIGNED: Final = 8
"""What widths of heads are padded to."""

ran: Counter[str] = Counter()
"""Calls by release, of the trace at hand."""


class DeterministicError(NotImplementedError):
    """Backward passes that add up in a fixed order take a buffer for each multiprocessor."""


def _checked(q: torch.Tensor, *, aligned: bool) -> None:
    """Refuse what the kernels refuse."""
    if q.dtype not in HALF:
        raise RuntimeError(f"FlashAttention only supports fp16 and bf16, not {str(q.dtype)[6:]}")
    if q.shape[-1] > WIDEST or (aligned and q.shape[-1] % ALIGNED):
        raise RuntimeError(f"FlashAttention has no kernel for heads of width {q.shape[-1]}")


def _padded(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    over = tensors[0].shape[-1] % ALIGNED
    return tensors if not over else tuple(torch.nn.functional.pad(t, [0, ALIGNED - over]) for t in tensors)


def _longest(q: torch.Tensor, lengths: Any) -> tuple[int, int]:
    """The longest sequences, which transformers may hand over as tensors: what they hold decides no size here."""
    a, b = (n if isinstance(n, int) else q.shape[0] for n in lengths[-2:])
    return a, b


class Second(torch.autograd.Function):  # type: ignore[misc]
    """``FlashAttnFunc`` and ``FlashAttnVarlenFunc`` of release 2."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, lengths: Any, how: Any, grad: bool) -> Any:
        """The heads' outputs."""
        _checked(q, aligned=False)
        ran[NAMES[0]] += 1
        kept = grad and any(t.requires_grad for t in (q, k, v))
        width = q.shape[-1]
        scale = how["scale"] if how["scale"] is not None else width**-0.5
        q, k, v = _padded(q, k, v)
        rest = (how["dropout"], scale, how["causal"], *how["window"], how["softcap"], None, False)
        ops = torch.ops.flash_attn
        if lengths is None:
            out, lse, _, seed = ops._flash_attn_forward(q, k, v, *rest)
        else:
            out, lse, _, seed = ops._flash_attn_varlen_forward(q, k, v, *lengths[:2], *_longest(q, lengths), *rest)
        if kept:
            ctx.save_for_backward(q, k, v, out, lse, *(lengths[:2] if lengths is not None else ()), seed)
            ctx.longest = lengths[2:] if lengths is not None else None
            ctx.how = (*rest[:-1], how["deterministic"])
        return out[..., :width]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of queries, keys and values."""
        (dout,) = grads
        q, k, v, out, lse, *lengths, seed = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        (padded,) = _padded(dout)
        if ctx.longest is None:
            torch.ops.flash_attn._flash_attn_backward(padded, q, k, v, out, lse, dq, dk, dv, *ctx.how, rng_state=seed)
        else:
            longest = _longest(q, ctx.longest)
            torch.ops.flash_attn._flash_attn_varlen_backward(
                padded, q, k, v, out, lse, dq, dk, dv, *lengths, *longest, *ctx.how, rng_state=seed
            )
        return (*(d[..., : dout.shape[-1]] for d in (dq, dk, dv)), None, None, None)


class Third(torch.autograd.Function):  # type: ignore[misc]
    """``FlashAttnFunc`` and ``FlashAttnVarlenFunc`` of release 3."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, lengths: Any, how: Any) -> Any:
        """The heads' outputs."""
        _checked(q, aligned=True)
        ran[NAMES[1]] += 1
        scale = how["scale"] if how["scale"] is not None else q.shape[-1] ** -0.5
        given = lengths if lengths is not None else (None, None, None, None)
        out, lse = getattr(torch.ops, THIRD).forward(
            q, k, v, *given, scale, how["causal"], *how["window"], how["softcap"]
        )
        ctx.save_for_backward(q, k, v, out, lse, *given[:2])
        ctx.longest = given[2:]
        ctx.how = (scale, how["causal"], *how["window"], how["softcap"])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of queries, keys and values."""
        q, k, v, out, lse, *lengths = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        getattr(torch.ops, THIRD).backward(grads[0], q, k, v, out, lse, dq, dk, dv, *lengths, *ctx.longest, *ctx.how)
        return dq, dk, dv, None, None


def _how(
    scale: float | None, causal: bool, window: tuple[int, int], softcap: float, deterministic: bool, dropout: float
) -> dict[str, Any]:
    if deterministic:
        raise DeterministicError("flash-attn with deterministic = True is not traced")
    return {
        "scale": scale, "causal": causal, "window": tuple(window), "softcap": softcap, "dropout": dropout,
        "deterministic": deterministic,
    }  # fmt: skip


def flash_attn_func(
    q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = WINDOW, softcap: float = 0.0, alibi_slopes: Any = None,
    deterministic: bool = False, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    """As release 2's: tensors of batch, tokens, heads, width."""
    how = _how(softmax_scale, causal, window_size, softcap, deterministic, dropout_p)
    return Second.apply(q, k, v, None, how, torch.is_grad_enabled())


def flash_attn_varlen_func(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = WINDOW, softcap: float = 0.0, alibi_slopes: Any = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Any = None,
) -> Any:  # fmt: skip
    """As release 2's for packed sequences: tensors of tokens, heads, width."""
    how = _how(softmax_scale, causal, window_size, softcap, deterministic, dropout_p)
    # Numbers that code has read stand for a tensor.
    bounds = (getattr(t, "tensor", t) for t in (cu_seqlens_q, cu_seqlens_k))
    lengths = (*bounds, max_seqlen_q, max_seqlen_k)
    return Second.apply(q, k, v, lengths, how, torch.is_grad_enabled())


def third_func(
    q: Any, k: Any, v: Any, softmax_scale: float | None = None, causal: bool = False, qv: Any = None,
    q_descale: Any = None, k_descale: Any = None, v_descale: Any = None, window_size: tuple[int, int] = WINDOW,
    attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 1, pack_gqa: Any = None,
    deterministic: bool = False, sm_margin: int = 0,
) -> Any:  # fmt: skip
    """As release 3's: tensors of batch, tokens, heads, width."""
    how = _how(softmax_scale, causal, window_size, softcap, deterministic, 0.0)
    return Third.apply(q, k, v, None, how)


def third_varlen_func(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: Any, max_seqlen_k: Any,
    seqused_q: Any = None, seqused_k: Any = None, softmax_scale: float | None = None, causal: bool = False,
    qv: Any = None, q_descale: Any = None, k_descale: Any = None, v_descale: Any = None,
    window_size: tuple[int, int] = WINDOW, attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 1,
    pack_gqa: Any = None, deterministic: bool = False, sm_margin: int = 0,
) -> Any:  # fmt: skip
    """As release 3's for packed sequences."""
    how = _how(softmax_scale, causal, window_size, softcap, deterministic, 0.0)
    return Third.apply(q, k, v, (cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k), how)


def install(p: Patches, capability: tuple[int, int]) -> None:
    """Have ``import flash_attn``, ``import flash_attn_interface`` and transformers find the functions here.

    Args:
        p: takes what has to be undone.
        capability: of the device, which decides the tiles of release 3.
    """
    register(capability)
    p.later(ran.clear)
    second = {"flash_attn_func": flash_attn_func, "flash_attn_varlen_func": flash_attn_varlen_func}
    for name, functions in (
        ("flash_attn", second),
        ("flash_attn.flash_attn_interface", second),
        ("flash_attn_interface", {"flash_attn_func": third_func, "flash_attn_varlen_func": third_varlen_func}),
    ):
        # Where the package is installed, what imports it gets it.
        if not _installed(name.partition(".")[0]):
            _module(p, name, functions)
    with suppress(ImportError):
        _transformers(p, import_module("transformers.modeling_flash_attention_utils"))


def _installed(package: str) -> bool:
    found = find_spec(package)
    return found is not None and found.origin != STAND_IN


def _module(p: Patches, name: str, functions: dict[str, Any]) -> None:
    module = ModuleType(name)
    module.__dict__.update(
        functions, __version__="2.8.3", __path__=[], __spec__=ModuleSpec(name, None, origin=STAND_IN)
    )
    before = sys.modules.get(name)
    sys.modules[name] = module

    def undo() -> None:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before

    p.later(undo)


def _transformers(p: Patches, utils: Any) -> None:
    """transformers finds both releases, and no sequences that are packed into one."""
    from transformers.modeling_utils import PreTrainedModel

    before = utils._lazy_imports

    def imports(implementation: str | None, *args: Any, **how: Any) -> Any:
        if implementation == NAMES[0]:
            return flash_attn_func, flash_attn_varlen_func, None, utils._pad_input, utils._unpad_input
        if implementation == NAMES[1]:
            return third_func, third_varlen_func, None, utils._pad_input, utils._unpad_input
        return before(implementation, *args, **how)

    def packed(position_ids: Any, batch_size: int) -> bool:
        if position_ids is None or batch_size != 1 or position_ids.shape[-1] == 1:
            return False
        # No sequence is packed, found by the same operations.
        counted = torch.arange(position_ids.shape[1], device=position_ids.device) + position_ids.min()
        (counted - position_ids).abs().sum().bool()
        return False

    p.put(utils, "_lazy_imports", imports)
    p.put(utils, "_is_packed_sequence", packed)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn"):
        p.put(utils, name, None)
    for release in (2, 3):
        p.put(utils, f"is_flash_attn_{release}_available", lambda *args, **how: True)
        _found(p, utils.FLASH_ATTENTION_COMPATIBILITY_MATRIX[release])
    for name in NAMES:
        _no_padding(p, name)
    p.put(PreTrainedModel, "_flash_attn_import_error", lambda self, *args, **how: None)


def _found(p: Patches, row: dict[str, Any]) -> None:
    """A release's row of transformers' table says that it is there."""
    before = dict(row)
    row["general_availability_check"] = lambda *args, **how: True
    p.later(lambda: row.update(before))


def _no_padding(p: Patches, name: str) -> None:
    """A mask is looked at and dropped: there is no padding in it."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS

    def unpadded(batch_size: int, q_length: int, kv_length: int, attention_mask: Any = None, **how: Any) -> None:
        if attention_mask is not None:
            attention_mask[:, -kv_length:].all()

    before = MASKS[name]
    MASKS[name] = unpadded
    p.later(lambda: MASKS.update({name: before}))
