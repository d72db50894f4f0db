"""Q-GaLore traced: its own step and its own products, over weights that are packed by their shapes alone.

bitsandbytes' kernels, which run on a device only, work in place and take nothing: functions without a body stand for
them. They are what changed between the releases that the step was written for and those that axolotl wraps.

Reference: https://github.com/VITA-Group/Q-GaLore/blob/5bd2f1c/run_pretrain.py and
https://github.com/axolotl-ai-cloud/axolotl/blob/v0.18.0/src/axolotl/utils/optimizers/qgalore.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Final

import torch

from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.optimizers.quantized import GROUP, PLACES, packs
from tonnage.tracing.optimizers import imported
from tonnage.tracing.patches import Patches

KERNELS: Final = (
    "optimizer_update_8bit_blockwise", "optimizer_update_32bit", "optimizer_update_8bit", "percentile_clipping",
)  # fmt: skip
GROUPED: Final = {
    "update_proj_gap": 200, "scale": 0.25, "proj_type": "std", "quant": True, "quant_n_bit": 4,
    "quant_group_size": GROUP, "cos_threshold": 0.4, "gamma_proj": 2, "queue_size": 5,
}  # fmt: skip

Kept = Callable[[], Iterable[tuple[torch.Tensor, str]]]


class _Clearing:
    """The loop clears what autograd made; gradients of packed matrices are cleared behind the step."""

    def __init__(self, own: Any, packed: list[Any]) -> None:
        self.own = own
        self.packed = packed

    @property
    def state(self) -> Any:
        return self.own.state

    def step(self) -> None:
        self.own.step()
        for p in self.packed:
            p.float_grad = None


def projected(model: Any, trained: list[Any], *, rank: int, rate: float) -> tuple[Any, Kept]:
    """As axolotl makes it: matrices whose names say attention or feed-forward, and all others."""
    wide = {id(p) for name, p in model.named_parameters() if p.dim() == 2 and any(place in name for place in PLACES)}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) in wide], "rank": rank, **GROUPED},
        {"params": [p for p in trained if id(p) not in wide]},
    ]
    return _made(groups, rate, since="axolotl's wrapper"), tuple


def packed(model: Any, trained: list[Any], *, rank: int, rate: float) -> tuple[Any, Kept]:
    """As its own script makes it: modules of seven names are packed, and stepped behind all others."""
    found, kept = _replaced(model)
    wide = {id(p) for p in found}
    rest = [p for p in model.parameters() if id(p) not in wide]
    groups: list[dict[str, Any]] = [{"params": rest}, {"params": found, "rank": rank, **GROUPED}]
    return _Clearing(_made(groups, rate, since="its step"), found), kept


def within(model: Any, *, rank: int, rate: float) -> Kept:
    """As the script steps in the backward pass: each packed matrix from within its product, and nothing else."""
    found, kept = _replaced(model)
    for p in found:
        one = _Clearing(_made([{"params": [p], "rank": rank, **GROUPED}], rate, since="its step"), [p])
        p.backward_hook = lambda _, one=one: one.step()
    return kept


def _replaced(model: Any) -> tuple[list[Any], Kept]:
    """Packed matrices in place of the model's, and what lies beside them."""
    products = imported("q_galore_torch.utils.quantization")
    found = {}
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and packs(path):
            own = _module(products, module)
            model.set_submodule(path, own)
            found[f"{path}.weight"] = own.weight
    if not found:
        raise InputError("the model has no modules that Q-GaLore packs", key="optimizer", hint="--optimizer galore")
    weights = list(found.values())
    # The step makes others of them: nothing here may hold them.
    return weights, lambda: [(t, name) for name, p in found.items() for t in (p.scales, p.zeros)]


def _made(groups: list[dict[str, Any]], rate: float, *, since: str) -> Any:
    from bitsandbytes.optim.optimizer import Optimizer2State

    library = imported("q_galore_torch")
    if "percentile_clipping" not in Optimizer2State.__init__.__code__.co_varnames:
        raise UnsupportedError(
            f"q-galore-torch needs a bitsandbytes with percentile_clipping ({since}): from 0.50 on there is none",
            key="optimizer", hint="pip install bitsandbytes==0.49.1",
        )  # fmt: skip
    return library.QGaLoreAdamW8bit(groups, lr=rate, weight_decay=0.0)


def _module(products: Any, module: Any) -> Any:
    """A packed module whose weights are not read: its tensors have the shapes that packing gives them.

    Scales are in the weights' format, as every step but the first finds them.
    """
    own = products.QGaLoreLinear.__new__(products.QGaLoreLinear)
    torch.nn.Module.__init__(own)
    before = module.weight
    values = torch.empty_like(before, dtype=torch.uint8)
    own.weight = torch.nn.Parameter(values, requires_grad=False)
    for name in ("scales", "zeros"):
        setattr(own.weight, name, before.data.new_empty((before.numel() // GROUP, 1)))
    own.weight.group_size, own.weight.stochastic_round = GROUP, True
    own.weight.saved_data_dtype = torch.uint8
    own.bias = module.bias
    return own


def patches(p: Patches) -> None:
    """Kernels that work in place."""
    step = imported("q_galore_torch.q_galore_adamw8bit")
    p.put(step, "F", SimpleNamespace(**dict.fromkeys(KERNELS, lambda *args, **how: None)))
