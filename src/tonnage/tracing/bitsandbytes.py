"""A stand-in for bitsandbytes: its linear modules of 4 and 8 bit over tensors without data.

peft's own code for such models then runs as it is. The modules take, keep and drop what the library's do on CUDA:
products of 4 bit unpack the matrix for a moment, forward and backward. Left out: outliers of 8 bit; the one map of
1,024 B by which all scales are read under double quantization (``name2qmap``).

Reference: https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/nn/modules.py (Linear4bit,
Linear8bitLt), autograd/_functions.py (MatMul4Bit, MatMul8bitLt), functional.py (dequantize_4bit),
backends/cuda/ops.py (int8_vectorwise_quant, int8_mm_dequant).
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

BLOCK: Final = 64
"""Elements that share a scale."""
NESTED: Final = 256
"""Scales that share one of their own under double quantization."""
LEVELS: Final = 16
THRESHOLD: Final = 6.0
"""Of LLM.int8(): columns with a value beyond it are outliers, of which tensors without data have none."""


class Packed(torch.autograd.Function):  # type: ignore[misc]
    """``x @ unpacked(weight).T + bias``; the matrix is unpacked anew for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: Linear4bit, bias: torch.Tensor | None) -> torch.Tensor:
        """The product."""
        ctx.module = module
        return module.product(x, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of ``x``."""
        (g,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None, None
        return torch.matmul(g, ctx.module.unpacked().to(g.dtype)), None, None


class Linear4bit(nn.Linear):  # type: ignore[misc]
    """A linear module whose matrix is packed to 4 bits an element.

    Args:
        linear: that it stands for, or GPT-2's transposed one; its bias is taken over.
        compute: format in which products are computed.
        nested: whether the scales are quantized as well.
    """

    def __init__(self, linear: Any, compute: torch.dtype, nested: bool) -> None:
        nn.Module.__init__(self)
        shape = linear.weight.shape
        self.out_features, self.in_features = shape if isinstance(linear, nn.Linear) else tuple(reversed(shape))
        self.compute_dtype, self.dense = compute, linear.weight.dtype
        n = linear.weight.numel()
        scales = -(-n // BLOCK)
        with torch.device("meta"):
            self.weight = nn.Parameter(torch.empty(-(-n // 2), 1, dtype=torch.uint8), requires_grad=False)
            self.absmax = torch.empty(scales, dtype=torch.uint8 if nested else torch.float32)
            self.code = torch.empty(LEVELS, dtype=torch.float32)
            if nested:
                self.offset = torch.empty((), dtype=torch.float32)
                self.outer_absmax = torch.empty(-(-scales // NESTED), dtype=torch.float32)
        self.nested = nested
        # What peft asks of a packed weight.
        self.weight.compress_statistics, self.weight.quant_type = nested, "nf4"
        self.bias = linear.bias

    def scales(self) -> torch.Tensor:
        """The scales in fp32: unpacked where they are packed themselves."""
        if not self.nested:
            return self.absmax
        return torch.empty_like(self.absmax, dtype=torch.float32)

    def product(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The fallback of the library's fused product: the matrix unpacked in the format of ``x``."""
        # Its frame names the scales before and after the offset until the product is there.
        wide = self.scales()
        scales = wide + self.offset if self.nested else wide
        matrix = torch.empty(self.out_features, self.in_features, dtype=x.dtype, device=x.device)
        made = functional.linear(x, matrix, bias)
        del wide, scales
        return made

    def unpacked(self) -> torch.Tensor:
        """The matrix in the format it had before it was packed."""
        scales = self.scales()
        if self.nested:
            scales += self.offset
        return torch.empty(self.out_features, self.in_features, dtype=self.dense, device=self.weight.device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, in the format of ``x``."""
        before = x.dtype
        x = x.to(self.compute_dtype)
        bias = self.bias
        if bias is not None:
            if bias.dtype != x.dtype:
                bias.data = bias.data.to(x.dtype)
            bias = bias.to(self.compute_dtype)
        if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            out: torch.Tensor = Packed.apply(x, self, bias)
        else:
            out = self.product(x, bias)
        return out.to(before)


class Multiplied(torch.autograd.Function):  # type: ignore[misc]
    """LLM.int8() without outliers: the input is an attribute of the function, and lives as long as the graph does."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: Linear8bitLt, bias: torch.Tensor | None) -> torch.Tensor:
        """The product, in the format of ``x``."""
        ctx.module = module
        rows = x.reshape(-1, x.shape[-1])
        values, scales = _quantized(rows.to(torch.float16))
        found: torch.Tensor = _multiplied(values, module, bias, x.dtype)
        if ctx.needs_input_grad[0]:
            ctx.tensors = rows
        del scales
        return found.reshape(*x.shape[:-1], found.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradient of ``x``."""
        (g,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None, None
        shape = (*g.shape[:-1], ctx.module.in_features)
        g = g.reshape(-1, g.shape[-1]).contiguous()
        dtype = ctx.tensors.dtype
        whole = ctx.module.weight.to(dtype, copy=True).mul_(ctx.module.scales.unsqueeze(1).mul(1.0 / 127.0))
        return torch.matmul(g.to(dtype), whole).view(shape), None, None


def _quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``int8_vectorwise_quant``: bytes and a scale for each row, after a look for outliers."""
    scales = torch.empty(x.shape[0], device=x.device, dtype=torch.float32)
    values = torch.empty(x.shape, device=x.device, dtype=torch.int8)
    outliers = x.abs() >= THRESHOLD
    del outliers
    return values, scales


def _multiplied(
    values: torch.Tensor, module: Linear8bitLt, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """``int8_scaled_mm``: sums in int32, which are scaled in fp16 and cast."""
    shape = (values.shape[0], module.out_features)
    sums = torch.empty(shape, device=values.device, dtype=torch.int32)
    made = torch.empty(shape, device=values.device, dtype=torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        made.add_(bias)
    found = made.to(dtype)
    del sums
    return found


class _State:
    """What peft asks of the module's state."""

    has_fp16_weights, threshold = False, THRESHOLD


class Linear8bitLt(nn.Linear):  # type: ignore[misc]
    """A linear module whose matrix has a byte an element, and a scale for each row."""

    def __init__(self, linear: Any) -> None:
        nn.Module.__init__(self)
        shape = linear.weight.shape
        self.out_features, self.in_features = shape if isinstance(linear, nn.Linear) else tuple(reversed(shape))
        with torch.device("meta"):
            weight = torch.empty(self.out_features, self.in_features, dtype=torch.int8)
            self.weight = nn.Parameter(weight, requires_grad=False)
            self.scales = torch.empty(self.out_features, dtype=torch.float32)
        self.bias, self.state, self.index = linear.bias, _State(), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product, in the format of ``x``; its bias is cast to that for good."""
        if self.bias is not None and self.bias.dtype != x.dtype:
            self.bias.data = self.bias.data.to(x.dtype)
        found: torch.Tensor = Multiplied.apply(x, self, self.bias)
        return found


def install() -> None:
    """Stand in for the library in this process, or for its modules where the library is there for its optimizers."""
    there = sys.modules.get("bitsandbytes")
    if there is not None and getattr(there, "__file__", None) is not None:
        there.nn.Linear4bit, there.nn.Linear8bitLt = Linear4bit, Linear8bitLt
        return
    package, modules = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.nn")
    for module in (package, modules):
        module.__spec__ = ModuleSpec(module.__name__, None)
    package.__path__ = []
    package.__version__ = "0.50.2"  # type: ignore[attr-defined]
    modules.Linear4bit, modules.Linear8bitLt = Linear4bit, Linear8bitLt  # type: ignore[attr-defined]
    package.nn = modules  # type: ignore[attr-defined]
    sys.modules["bitsandbytes"], sys.modules["bitsandbytes.nn"] = package, modules


def pack(model: Any, compute: torch.dtype | None = None, *, nested: bool = False) -> int:
    """Every linear module packed but the head and what transformers keeps in fp32; returns how many.

    Args:
        model: on the meta device.
        compute: format in which products of 4 bit are computed; None for LLM.int8().
        nested: double quantization.
    """
    head, count = model.get_output_embeddings(), 0
    wide = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            packs = child is not head and name not in wide
            if packs and (type(child) is nn.Linear or type(child).__name__ == "Conv1D"):
                made = Linear8bitLt(child) if compute is None else Linear4bit(child, compute, nested)
                setattr(module, name, made)
                count += 1
    setattr(model, "is_loaded_in_8bit" if compute is None else "is_loaded_in_4bit", True)
    return count
