"""The plain pieces that blocks are made of: a matrix with its bias, a norm, a rotary table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tonnage.arch import ops
from tonnage.arch.forward import Forward
from tonnage.arch.tape import HALF, Parameter, Value
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor, size


class Linear(Record):
    """``y = x W^T + b``.

    Args:
        name: path of the module below its layer.
        ins: axes that are contracted.
        outs: axes that take their place.
        role: what the weight is for.
        bias: whether there is one.
        transposed: stored input first, as GPT-2's Conv1D.
        bias_apart: the bias is added by an operation of its own (Falcon).
    """

    name: str
    ins: Axes
    outs: Axes
    role: Role
    bias: bool = False
    transposed: bool = False
    bias_apart: bool = False

    def weights(self) -> Iterator[Tensor]:
        """The matrix, and the bias if there is one."""
        first, last = (self.ins, self.outs) if self.transposed else (self.outs, self.ins)
        yield Tensor(f"{self.name}.weight", first + last, self.role, (len(first), len(last)))
        if self.bias:
            yield Tensor(f"{self.name}.bias", self.outs, self.role, (len(self.outs),))

    def forward(self, f: Forward, x: Value) -> Value:
        """Contract the last axes of ``x``, by what stands for the matrix where it is packed or adapted."""
        return self.plain(f, x) if f.tuning is None else f.tuning.forward(f, self, x)

    def plain(self, f: Forward, x: Value) -> Value:
        """Contract the last axes of ``x``."""
        weight = f.tape.parameter(f"{self.name}.weight", self.outs + self.ins)
        bias = f.tape.parameter(f"{self.name}.bias", self.outs) if self.bias else None
        narrow = f.narrow
        if narrow is not None and narrow.takes(self.name, self.ins, self.outs, transposed=self.transposed):
            return narrow.forward(x, weight, bias, self.ins, self.outs)
        if self.bias_apart and bias is not None:
            return ops.add(ops.linear(x, weight, None, len(self.ins), self.outs), bias, "with bias")
        return ops.linear(x, weight, bias, len(self.ins), self.outs)


NormStyle = Literal[
    "rms",
    "rms-gemma",
    "rms-fp32-weight",
    "rms-cast-weight",
    "rms-apart",
    "rms-bare",
    "rms-power",
    "rms-t5",
    "layer",
    "layer-fp32",
    "layer-one",
    "layer-cohere",
]


class Norm(Record):
    """A norm over the last axes, in the arithmetic of the modelled code.

    ``rms`` casts to fp32, normalises, casts back and multiplies by the weight (Llama); ``rms-gemma`` multiplies by
    ``1 + weight`` in fp32 before it casts back; ``rms-fp32-weight`` multiplies in fp32 (OLMo 2, gpt-oss),
    ``rms-cast-weight`` by a copy of the weight in fp32 (Helium); ``rms-bare`` has no weight and casts back (nanochat),
    behind which ``rms-apart`` multiplies by it (Llama 4);
    ``rms-power`` takes the power -1/2, and multiplies in fp32 where it has a weight (Gemma 3n and 4);
    ``rms-t5`` casts for the variance only; ``layer`` is ``nn.LayerNorm``; ``layer-fp32`` casts around it and has no
    weight (OLMo); ``layer-one`` adds one to the weight and keeps the format of autocast (Nemotron);
    ``layer-cohere`` writes the layer norm out in fp32, over the last axis only.
    """

    name: str
    axes: Axes
    style: NormStyle = "rms"
    bias: bool = False
    weight: bool = True

    def weights(self) -> Iterator[Tensor]:
        """Scale and shift, where the norm has them: over one dimension, but for Cohere's over heads."""
        dims = () if self.style == "layer-cohere" else (len(self.axes),)
        if self.weight:
            yield Tensor(f"{self.name}.weight", self.axes, "norm", dims)
        if self.bias:
            yield Tensor(f"{self.name}.bias", self.axes, "norm", dims)

    def forward(self, f: Forward, x: Value) -> Value:
        """Normalise over this norm's axes, taken as one."""
        tape, whole = f.tape, x.axes
        over = 1 if self.style == "layer-cohere" else len(self.axes)
        flat = (*whole[: len(whole) - over], ("X", size(whole[len(whole) - over :])))
        weight = tape.parameter(f"{self.name}.weight", self.axes) if self.weight else None
        bias = tape.parameter(f"{self.name}.bias", self.axes) if self.bias else None
        x = x.view(flat)
        if self.style == "layer":
            return ops.layer_norm(x, weight, bias).view(whole)
        if self.style == "layer-one" and weight is not None:
            return _layer_one(x, weight, bias).view(whole)
        if self.style == "layer-fp32":
            before = x.dtype
            return ops.cast(ops.layer_norm(ops.cast(x, "fp32"), None, None), before).view(whole)
        if self.style == "rms-bare":
            return _rms_bare(x).view(whole)
        if self.style == "rms-power":
            return _rms_power(x, weight).view(whole)
        if weight is None:
            raise AssertionError(f"{self.name}: a norm of style {self.style} has a weight")
        if f.fused is not None and f.fused.replaces(self.name):
            return f.fused.norm(x, weight, self.name).view(whole)
        return _STYLES[self.style](x, weight).view(whole)


def _rms(x: Value, weight: Parameter) -> Value:
    before = x.dtype
    x = ops.cast(x, "fp32")
    variance = ops.mean(ops.power(x, "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised")
    return ops.mul(weight, ops.cast(x, before), "norm output")


def _rms_gemma(x: Value, weight: Parameter) -> Value:
    before = x.dtype
    wide = ops.cast(x, "fp32")
    output = ops.mul(wide, ops.rsqrt(ops.shifted(ops.mean(ops.power(wide, "square")))), "normalised")
    del wide
    output = ops.mul(output, ops.shifted(ops.weight_in(weight, "fp32")), "norm output")
    return ops.cast(output, before)


def _rms_fp32_weight(x: Value, weight: Parameter) -> Value:
    before = x.dtype
    x = ops.cast(x, "fp32")
    variance = ops.mean(ops.power(x, "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised")
    return ops.cast(ops.mul(weight, x, "norm output"), before)


def _rms_cast_weight(x: Value, weight: Parameter) -> Value:
    before = x.dtype
    x = ops.cast(x, "fp32")
    variance = ops.mean(ops.power(x, "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised")
    wide = ops.weight_in(weight, "fp32")
    if isinstance(wide, Parameter):
        return ops.cast(ops.mul(wide, x, "norm output"), before)
    return ops.cast(ops.mul(wide, x, "norm output"), before)


def _rms_bare(x: Value) -> Value:
    return ops.cast(_normalised(ops.cast(x, "fp32")), x.dtype)


def _normalised(x: Value) -> Value:
    return ops.mul(x, ops.rsqrt(ops.shifted(ops.mean(ops.power(x, "square")))), "normalised")


def _rms_apart(x: Value, weight: Parameter) -> Value:
    return ops.mul(_rms_bare(x), weight, "norm output")


def _rms_power(x: Value, weight: Parameter | None) -> Value:
    before = x.dtype
    wide = ops.cast(x, "fp32")
    squared = ops.shifted(ops.mean(ops.power(wide, "square")))
    output = ops.mul(wide, ops.power(squared, "power -1/2"), "normalised")
    del wide, squared
    if weight is not None:
        output = ops.mul(output, ops.weight_in(weight, "fp32"), "norm output")
    return ops.cast(output, before)


def _rms_t5(x: Value, weight: Parameter) -> Value:
    variance = ops.mean(ops.power(ops.cast(x, "fp32"), "square"))
    x = ops.mul(x, ops.rsqrt(ops.shifted(variance)), "normalised")
    if weight.dtype in HALF:
        x = ops.cast(x, weight.dtype)
    return ops.mul(weight, x, "norm output")


def _layer_one(x: Value, weight: Parameter, bias: Parameter | None) -> Value:
    """What autocast casts is cast once and runs outside of it."""
    tape, scale = x.tape, ops.shifted(weight)
    form = tape.autocast
    if form is None:
        return ops.layer_norm(x, scale, bias)
    shift = None if bias is None else ops.weight_in(bias, form)
    return ops.layer_norm(ops.cast(x, form), ops.cast(scale, form), shift, apart=True)


def _layer_cohere(x: Value, weight: Parameter) -> Value:
    before = x.dtype
    x = ops.cast(x, "fp32")
    average = ops.mean(x)
    variance = ops.mean(ops.power(ops.sub(x, average, "centred"), "square"))
    x = ops.mul(ops.sub(x, average, "centred"), ops.rsqrt(ops.shifted(variance)), "normalised")
    x = ops.mul(x, ops.weight_in(weight, "fp32"), "norm output")
    return ops.cast(x, before)


_STYLES = {
    "rms": _rms,
    "rms-apart": _rms_apart,
    "rms-gemma": _rms_gemma,
    "rms-fp32-weight": _rms_fp32_weight,
    "rms-cast-weight": _rms_cast_weight,
    "rms-t5": _rms_t5,
    "layer-cohere": _layer_cohere,
}


class Rotary(Record):
    """A table of rotation angles, made anew in every pass and shared by the layers.

    Args:
        name: path of the module in the model.
        width: rotated elements of a head.
        key: which of the model's tables it is.
        width_of_table: elements of a row of the cosine table: ``width``, or half of it where the code does not repeat.
        dtype: format of the tables; that of the activations when None.
        complex: one table of complex numbers (DeepSeek-V2); it counts as fp32 of twice their number.
        batched: every sequence has a table of its own (ModernBERT's decoder).
        picked: only layers that turn by it are handed it (OLMo Hybrid).
        factored: every frequency is divided by a factor of its own, which files may hold as a tensor (Llama 3).
    """

    name: str
    width: int
    key: str = "default"
    halves: int = 2
    buffers: tuple[str, ...] = ("inv_freq", "original_inv_freq")
    dtype: str | None = None
    complex: bool = False
    batched: bool = False
    factored: bool = False
    picked: bool = False

    def weights(self) -> Iterator[Tensor]:
        """Inverse frequencies: buffers in fp32, no parameters."""
        for buffer in self.buffers:
            yield Tensor(f"{self.name}.{buffer}", (("X", self.width // 2),), "buffer", dtype="fp32")

    def forward(self, f: Forward, x: Value) -> None:
        """Put cosine and sine, in the format of ``x``, where the layers find them."""
        tape, dtype = f.tape, self.dtype or x.dtype
        # Positions that a batch brings are those of every sequence.
        rows = x.axes[:2] if self.batched or f.texts is not None else x.axes[1:2]
        half = tape.new("rotary angles", (*rows, ("X", self.width // 2)), "fp32")
        table: Axes = (*rows, ("X", self.width // 2 * self.halves))
        if self.complex:
            whole = ops.scaled(tape.new("rotary numbers", table, "fp32"))
            f.rotary[self.key] = (whole, whole)
            return
        angles = ops.cat((half,), table, "rotary angles, twice") if self.halves == 2 else half
        cosine = ops.scaled(_function(angles, "cosine"))
        sine = ops.scaled(_function(angles, "sine"))
        f.rotary[self.key] = (ops.cast(cosine, dtype, "cosine table"), ops.cast(sine, dtype, "sine table"))


def _function(x: Value, name: str) -> Value:
    return x.tape.new(name, x.axes, x.dtype)


class HeadNorms(Record):
    """A layer norm of its own for every head, without shift (StableLM).

    Args:
        name: path of the module below its layer.
        heads: how many.
        width: of a head.
    """

    name: str
    heads: int
    width: int

    def weights(self) -> Iterator[Tensor]:
        """One scale a head."""
        for index in range(self.heads):
            yield Tensor(f"{self.name}.norms.{index}.weight", (("H", self.width),), "norm")

    def forward(self, f: Forward, x: Value) -> Value:
        """Split into heads, norm each, join."""
        B, T, (letter, _), H = x.axes
        one = (B, (letter, 1), T, H)
        heads = list(ops.split(x, (one,) * self.heads))
        normed = tuple(
            ops.layer_norm(head, f.tape.parameter(f"{self.name}.norms.{index}.weight", (("H", self.width),)), None)
            for index, head in enumerate(heads)
        )
        return ops.cat(normed, (B, (letter, self.heads), T, H))


AlibiStyle = Literal["bloom", "mpt", "falcon"]


class Alibi(Record):
    """A bias of scores that grows with distance (arXiv:2108.12409), made anew in every pass and shared by the layers.

    Args:
        N: query heads.
        style: ``bloom`` makes one row a sequence and head in the format of the hidden states; ``mpt`` one row a head
            in fp32, as long as the model's positions; ``falcon`` is as ``bloom``, and adds the row to the mask too.
        rows: the model's positions.
    """

    N: int
    style: AlibiStyle
    rows: int

    def forward(self, f: Forward, x: Value) -> None:
        """Put the bias, and the mask where it is of a form of its own, where the layers find them."""
        tape, B, T = f.tape, x.axes[0], x.axes[1]
        S = ("S", f.cached + T[1])
        if self.style == "mpt":
            f.bias = tape.new("alibi", (("N", self.N), ("S", self.rows)), "fp32")
            f.masks[None] = tape.new("attention mask", (B, ("X", 1), T, S), "bool")
            return
        if self.style == "bloom":
            # The model's code names the slopes to its end.
            f.frame.append(tape.new("slopes", (("N", self.N),), "fp32"))
        f.bias = tape.new("alibi", (B, ("N", self.N), S), x.dtype)
        if self.style == "falcon":
            f.masks[None] = tape.new("attention mask with alibi", (B, ("N", self.N), T, S), x.dtype)
