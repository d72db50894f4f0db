"""unsloth's own blocks: adapters, norms, rotations and gated products in functions that write their backward pass out.

What these save, make and write over is stated as their Python code allocates; their Triton kernels fill what is there.
Where one of them does not take a matrix (a bias, no adapter beside it, weights in fp32), transformers' and peft's code
runs, as there.

Reference: unsloth 2026.10.9, unsloth/kernels/ (fast_lora.py, utils.py ``matmul_lora``, rms_layernorm.py,
rope_embedding.py, qk_norm_rope.py, swiglu.py, geglu.py) and unsloth/models/ (llama.py, qwen3.py, gemma.py),
https://pypi.org/project/unsloth/2026.10.9/

Leaves out: what torch.compile makes of a layer, as releases since 2026.9 compile it with torch 2.11 and newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.ends import Stem
from tonnage.arch.feedforward import Gated
from tonnage.arch.forward import Forward
from tonnage.arch.kernels import attend
from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Block, Model
from tonnage.arch.stacks.stated import can, like, restated, unstored
from tonnage.arch.stacks.unsloth_lora import (
    adapted,
    attention_inputs,
    feed_forward,
    fuses,
    shares_scratch,
    single,
    unpacks,
)
from tonnage.arch.tape import HALF, Grads, Value
from tonnage.arch.tuning.adapters import Tuning
from tonnage.releases import Version
from tonnage.tensors import Axes, Tensor, size

FAST: Final = ("llama", "mistral", "qwen2", "qwen3", "gemma")
"""Types whose code is unsloth's own; Gemma 2's is too, and is not stated here."""
BUILT: Final = 4 * 8192
"""Positions of the tables of rotations, where the model has as many (``current_rope_size``); more for longer sequences,
which is left out."""


class FastNorm(Norm):
    """``Fast_RMS_Layernorm``: keeps what it was given and a number a row; its gradient is written over the one that it
    is handed, but for Gemma's."""

    hands_view: ClassVar[bool] = True

    def forward(self, f: Forward, x: Value) -> Value:
        """Normalise over the last axis."""
        tape, axes, dtype = x.tape, x.axes, x.dtype
        weight = tape.parameter(f"{self.name}.weight", self.axes)
        if weight.trained:
            return super().forward(f, x)
        out = tape.new("norm output", axes, dtype)
        rows = tape.new("norm's number of every row", axes[:-1], "fp32")
        apart = self.style == "rms-gemma"

        def back(g: Value) -> Grads:
            grad = tape.new("gradient of norm", axes, dtype) if apart else g
            grad.storage.viewed = True
            return (grad,)

        tape.record((out,), (x,), back, (x, rows), custom=True)
        return out


class Tables(Rotary):
    """Cosines and sines of every position, made once and resident, in the format of the model."""

    positions: int = 0
    form: str = "bf16"

    def weights(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Frequencies, and both tables."""
        rows: Axes = (("P", self.positions), ("H", self.width))
        tables = (Tensor(f"{self.name}.{n}_cached", rows, "buffer", dtype=self.form) for n in ("cos", "sin"))
        return (Tensor(f"{self.name}.inv_freq", (("X", self.width // 2),), "buffer", dtype="fp32"), *tables)

    def forward(self, f: Forward, x: Value) -> None:
        """Nothing is made."""
        f.rotary[self.key] = (unstored(f, self.width), unstored(f, self.width))


class FastAttention(GroupedQuery):
    """``LlamaAttention_fast_forward``, and Qwen3's."""

    repeats: ClassVar[bool] = True

    def _attended(self, f: Forward, x: Value) -> Value:
        matrices = self.matrices()
        if fuses(f, matrices[:3], x):
            q, k, v = attention_inputs(f, matrices[:3], x)
            del x
        else:
            q, k, v = (m.forward(f, x) for m in matrices[:3])
        if isinstance(self.q_norm, Norm) and isinstance(self.k_norm, Norm):
            q, k = _normed_and_turned(q, k)
        elif self.rotary is not None:
            q, k = _turned(q, k)
        out = attend(f, self, q, k, v)
        return single(f, matrices[3], out) if fuses(f, matrices[3:], out) else matrices[3].forward(f, out)


class FastGated(Gated):
    """``apply_lora_mlp_swiglu`` and its like for GELU."""

    def forward(self, f: Forward, x: Value) -> Value:
        """``down(act(gate(x)) * up(x))`` in one function, where all three matrices have adapters."""
        matrices = self.matrices()
        if len(matrices) != 3 or not fuses(f, matrices, x):
            return super().forward(f, x)
        return feed_forward(f, matrices, x)


def scratch(model: Model, tuning: Tuning) -> int:
    """The largest matrix that a forward pass unpacks into what is kept for all of them; 0 for none. [byte]"""
    if not shares_scratch(tuning):
        return 0
    sets: list[tuple[Linear, ...]] = []
    for layer, _ in model.decoder.distinct():
        for sub in layer.sublayers:
            if isinstance(sub.block, FastAttention):
                matrices = sub.block.matrices()
                sets += [matrices[:3], matrices[3:]]
            elif isinstance(sub.block, FastGated):
                sets.append(sub.block.matrices())
    found = [m for each in sets if adapted(tuning, each) and unpacks(tuning, each) for m in each]
    return max((2 * size(m.outs + m.ins) for m in found), default=0)


def _turned(q: Value, k: Value) -> tuple[Value, Value]:
    """``Fast_RoPE_Embedding_QK_Positions``: in place, and back into new tensors."""
    tape, shapes, dtype = q.tape, (q.axes, k.axes), q.dtype
    outs = tuple(Value(x.storage, x.axes, x.dtype) for x in (q, k))

    def back(*grads: Value) -> Grads:
        return tuple(tape.new("gradient turned back", axes, dtype) for axes in shapes)

    tape.record(outs, (q, k), back, (), custom=True)
    return outs[0], outs[1]


def _normed_and_turned(q: Value, k: Value) -> tuple[Value, Value]:
    """``Fast_QK_Norm_RoPE``: keeps what it was given and a number for every head."""
    tape, shapes, dtype = q.tape, (q.axes, k.axes), q.dtype
    outs = tuple(tape.new("normed and turned", x.axes, dtype) for x in (q, k))
    numbers = tuple(tape.new("norm's number of every head", x.axes[:-1], "fp32") for x in (q, k))

    def back(*grads: Value) -> Grads:
        return tuple(tape.new("gradient turned back", axes, dtype) for axes in shapes)

    tape.record(outs, (q, k), back, (q, k, *numbers), custom=True)
    return outs[0], outs[1]


def model(found: Model, version: Version, rank: int | None) -> Model:
    """The model as unsloth's own code runs it; as it is where that is transformers' code, compiled.

    Args:
        found: as transformers runs it.
        version: of unsloth.
        rank: of adapters; None where the whole model is trained, which unsloth's own code does not.
    """
    if rank is None or found.model_type not in FAST or not can(found):
        return found
    rows = min(found.positions or BUILT, BUILT)

    def norm(n: object) -> object:
        return like(FastNorm, n) if isinstance(n, Norm) and n.style in ("rms", "rms-gemma") else n

    def block(b: Block) -> Block:
        kinds: Sequence[tuple[type, type]] = ((GroupedQuery, FastAttention), (Gated, FastGated))
        made: Block = next((like(own, b) for kind, own in kinds if type(b) is kind), b)
        return made

    def stem(s: Stem) -> Stem:
        form = found.dtype if found.dtype in HALF else "bf16"
        tables = tuple(like(Tables, t, positions=rows, form=form) for t in s.rotary)
        # Gemma's embedding is multiplied before gradients begin: its code goes on with a leaf of its own.
        made: Stem = s.but(rotary=tables, position_ids="none", scaled=False)
        return made

    return restated(found, block=block, norm=norm, stem=stem)  # type: ignore[arg-type]
