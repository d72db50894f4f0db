"""What LLM.int8() leaves to find out: the formats that biases end in.

Reference: https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/nn/modules.py
(``Linear8bitLt.forward``: a bias is cast to the format of what the product was given, for good)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tonnage import quant
from tonnage.arch.model import Model
from tonnage.arch.tuning.adapters import EightBit, Tuning
from tonnage.arch.tuning.tuners import LoRA
from tonnage.errors import UnsupportedError
from tonnage.memory.adapters import local_names
from tonnage.memory.passes import Pass
from tonnage.quant import Recipe
from tonnage.timeline import Component, ranged
from tonnage.workload.training import Train

COLUMNS: Final = 0.01
"""Of all columns, those that hold a value beyond 6, at most: assumed. [1]

"more than 99.9 % of values" are multiplied in 8 bit (arXiv:2208.07339, abstract), of models up to 175 B parameters; ten
times that, since one value in any row of a batch is enough. A measured step (TinyLlama, fitcheck-llm 0.3.1) leaves room
for 0.1 %.
"""
OUTLIERS: Final = "columns with a value beyond 6, copied and held: from none to {share:.0%} of all, assumed"
REFERENCE: Final = (
    "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/0.50.2/bitsandbytes/backends/default/ops.py "
    "(int8_mixed_scaled_mm, subA); arXiv:2208.07339"
)
TOKENS: Final = 8
"""Of a pass that is run for its formats alone."""


def outliers(copied: int) -> Component:
    """A line of nothing but a range: columns that products copy beside what they hold.

    Leaves out: the sum of both products, and the columns of the matrix, which are there for a moment.

    Args:
        copied: what such products are handed, where most of it is there at once. [byte]
    """
    return ranged("other:outliers", 0, 0, int(COLUMNS * copied), OUTLIERS.format(share=COLUMNS), REFERENCE,
                  tier="requested")  # fmt: skip


def biases(model: Model, w: Train, recipe: Recipe, weights: str, compute: str) -> str | Callable[[str], str]:
    """Formats of biases of packed matrices, each that of what its first product was given; by name where they differ.

    Autocast leaves some norms, and all behind them, in fp32, but for what attention makes.

    Args:
        model: that is fine-tuned.
        w: the workload.
        recipe: how it is packed.
        weights: format of weights that are not packed, as they were loaded.
        compute: format of autocast, or that of the weights.

    Raises:
        UnsupportedError: of an encoder and a decoder under autocast, with biases and an embedding in 16 bit; T5 in
            fp16; layers whose biases end in different formats.
    """
    if model.plain and weights == "fp16" and not w.kbit_prepared:
        raise UnsupportedError(
            f"quant = {w.quant} of {model.model_type} in fp16, which keeps {', '.join(model.plain)} in fp32, is not "
            "modelled", key="quant", value=str(w.quant), hint="--kbit-prepared, or --dtype bf16",
        )  # fmt: skip
    autocast = (w.precision or "").endswith(("autocast", "mixed"))
    if compute == weights and not autocast:
        return "fp32" if w.kbit_prepared else compute
    packed = quant.packed_modules(model, recipe)
    biased = any(m is not None and m.biased for _, _, m in quant.entries(model, by_layer=False))
    if not biased:
        return compute
    if len(model.stacks) > 1:
        return _of_pair(model, w, weights, compute)
    names = local_names(model, packed)
    found = Pass(
        model, batch=1, tokens=TOKENS, kernel="flash", weights="fp32" if w.kbit_prepared else weights, loaded=weights,
        autocast=compute, recompute=None, input_grads=True,
        tuning=Tuning(packed=EightBit(names), method=LoRA(names, 1, 0.0, "fp32")),
    ).tape.given  # fmt: skip
    return _told(w, {f"{name}.bias": forms for name, forms in found.items()})


def _told(w: Train, found: dict[str, set[str]]) -> Callable[[str], str]:
    if any(len(forms) > 1 for forms in found.values()):
        raise UnsupportedError(
            f"quant = {w.quant} under autocast without --kbit-prepared, where layers cast their biases to different "
            "formats, is not modelled", key="quant", value=str(w.quant), hint="--kbit-prepared",
        )  # fmt: skip
    forms = {name: next(iter(forms)) for name, forms in found.items()}
    return lambda name: next(form for end, form in forms.items() if name.endswith(end))


def _of_pair(model: Model, w: Train, weights: str, compute: str) -> Callable[[str], str]:
    """The same of an encoder and a decoder, whose norms hand on fp32."""
    if not w.kbit_prepared and weights != "fp32":
        raise UnsupportedError(
            f"quant = {w.quant} under autocast without --kbit-prepared is not modelled", key="quant",
            value=str(w.quant), hint="--kbit-prepared",
        )  # fmt: skip
    from tonnage.arch.attention import GroupedQuery

    blocks = (s.block for stack in model.stacks for layer, _ in stack.distinct() for s in layer.sublayers)
    ends = tuple(f".{b.matrices()[-1].name}.bias" for b in blocks if isinstance(b, GroupedQuery))
    return lambda name: compute if name.endswith(ends) else "fp32"
