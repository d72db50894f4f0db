"""The stand-in for bitsandbytes' modules of 8 bit against the library's own code, on tensors without data.

Only its kernels for CUDA are stood in for: each makes what ``backends/cuda/ops.py`` of 0.50.2 makes. All else runs as
it is: ``Linear8bitLt``, ``matmul``, ``MatMul8bitLt``, ``int8_mixed_scaled_mm``, ``int8_scaled_mm``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tonnage.tracing import bitsandbytes as ours
from tonnage.tracing.recorder import Recorder

bnb = pytest.importorskip("bitsandbytes", "0.50.2")

INS, OUTS, ROWS = 96, 160, 24
SMALL: Final = 4 * OUTS
"""Bytes of scales: what is not larger is left out."""
WHOLE: Final = torch._C.DispatchKey.CompositeExplicitAutograd


def quantized(A: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert A.dtype == torch.float16
    assert threshold == 6.0
    stats = torch.empty(A.numel() // A.shape[-1], device=A.device, dtype=torch.float32)
    out = torch.empty(A.shape, device=A.device, dtype=torch.int8)
    outliers = A.abs() >= threshold
    del outliers
    return out, stats, torch.empty(0, device=A.device, dtype=torch.int64)


def product(A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    return torch.empty((*A.shape[:-1], B.shape[0]), device=A.device, dtype=torch.int32)


def scaled(A: torch.Tensor, rows: Any, columns: Any, dtype: Any = None, bias: Any = None) -> torch.Tensor:
    out = torch.empty_like(A, dtype=torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        out.add_(bias)
    return out.to(dtype or torch.float16)


KERNELS: Final[dict[str, Callable[..., Any]]] = {
    "int8_vectorwise_quant": quantized, "int8_linear_matmul": product, "int8_mm_dequant": scaled,
}  # fmt: skip


class Opened(Recorder):
    """A recorder that sees what the library's operations are made of."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != "bitsandbytes":
            return super().__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name.partition("::")[2]
        with self:
            if name in KERNELS:
                return KERNELS[name](*args, **(kwargs or {}))
            return func._op_dk(WHOLE, *args, **(kwargs or {}))


def theirs(linear: nn.Linear) -> nn.Module:
    """The library's module as transformers makes and loads it."""
    made = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, threshold=6.0,
        device="meta",
    )  # fmt: skip
    packed = torch.empty(linear.weight.shape, dtype=torch.int8, device="meta")
    scales = torch.empty(linear.out_features, dtype=torch.float32, device="meta")
    made.weight = bnb.nn.Int8Params(packed, requires_grad=False, has_fp16_weights=False, CB=packed, SCB=scales)
    made.bias = linear.bias
    return made


def forward(module: nn.Module, x: torch.Tensor, way: str) -> torch.Tensor:
    if way == "no gradient":
        return module(x.detach())
    if way == "plain":
        return module(x)
    return checkpoint(module, x, use_reentrant=way == "reentrant")


def levels(make: Callable[[nn.Linear], nn.Module], dtype: torch.dtype, *, biased: bool, way: str) -> list[int]:
    """What is alive where something is born, and at the end: two products in a row, and their backward pass. [byte]"""
    modules = []
    for outs, ins in ((OUTS, INS), (INS, OUTS)):
        linear = nn.Linear(ins, outs, bias=biased, device="meta", dtype=dtype).requires_grad_(False)
        modules.append(make(linear).train())
    x = torch.empty(2, ROWS, INS, dtype=dtype, device="meta", requires_grad=True)
    recorder = Opened(frozenset(["meta"]))
    gc.disable()
    try:
        with recorder:
            y = forward(modules[1], forward(modules[0], x * 2, way), way)
            found = y.sum()
            del y
            if way != "no gradient":
                found.backward()
            ended = len(recorder.order)
            del found
    finally:
        gc.enable()
    alive, out = 0, []
    for position, event in enumerate(recorder.order):
        size = recorder.born[event if event >= 0 else ~event].size
        if position == ended:
            out.append(alive)
        if size > SMALL:
            alive += size if event >= 0 else -size
            out += [alive] if event >= 0 else []
    return [*out, alive]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", ["plain", "no gradient", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_what_is_there_at_any_time(dtype: torch.dtype, biased: bool, way: str) -> None:
    got, want = (levels(make, dtype, biased=biased, way=way) for make in (ours.Linear8bitLt, theirs))
    assert got == want
    held = x_bytes(dtype) * 2
    # Its graph is there with the result: without reentrance it holds what both products were given.
    assert (got[-2] >= held) == (way in ("plain", "non-reentrant"))


def x_bytes(dtype: torch.dtype) -> int:
    return 2 * ROWS * INS * dtype.itemsize
