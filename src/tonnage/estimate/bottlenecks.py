"""Bottleneck adapters of the library adapters (AdapterHub), by the names of its configurations.

Reference: https://github.com/adapter-hub/adapters/blob/v1.3.0/src/adapters/configuration/adapter_config.py
(SeqBnConfig, DoubleSeqBnConfig, ParBnConfig)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.adapter import ADAPTERS, Adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tonnage.arch.model import Model
    from tonnage.arch.tuning.bottleneck import Bottleneck, Taken
    from tonnage.estimate.adapter import Option

MODELS: Final = ("gpt2", "llama", "mistral")
"""Models whose layers the library writes out, and which are modelled with it."""
ACTIVATIONS: Final = ("relu", "gelu", "swish", "tanh", "sigmoid")
CAST: Final = (
    "adapters makes its weights in fp32, which a layer in 16 bit refuses without autocast: counted as cast by "
    "model.adapter_to(name, dtype=...)"
)


def _kind(name: str, taken: Taken, act: str, factor: float, *, attention: bool) -> Adapter:
    def made(options: Mapping[str, Option], model: Model, weights: str) -> Bottleneck:
        from tonnage.arch.tuning.bottleneck import Bottleneck

        if model.model_type not in MODELS:
            raise UnsupportedError(
                f"adapter = {name} with {model.model_type} is not modelled; the library adapters has layers of its own "
                f"for {', '.join(MODELS)} and others", key="adapter", value=name, hint="--adapter lora",
            )  # fmt: skip
        share = float(options["reduction_factor"])
        if share <= 0:
            raise InputError(
                f"reduction_factor = {share:g}: the width of the model over that of the bottleneck, more than 0",
                key="adapter_options", value=f"reduction_factor={share:g}", hint=f"reduction_factor={factor:g}",
            )  # fmt: skip
        inner = max(1, int(model.width // share))
        return Bottleneck(
            model.width, inner, taken, str(options["non_linearity"]), weights if weights != "fp32" else ADAPTERS,
            attention,
        )  # fmt: skip

    return Adapter(
        name, rank=0, drops=False, bottleneck=made, told=CAST,
        options={"reduction_factor": factor, "non_linearity": act}, choices={"non_linearity": ACTIVATIONS},
    )  # fmt: skip


BOTTLENECKS: Final[dict[str, Adapter]] = {
    "seq-bn": _kind("seq-bn", "sum", "relu", 16.0, attention=False),
    "double-seq-bn": _kind("double-seq-bn", "output", "swish", 16.0, attention=True),
    "par-bn": _kind("par-bn", "residual", "relu", 2.0, attention=False),
}
