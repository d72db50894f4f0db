"""What is replaced in torch and transformers while a trace runs, and put back after it.

Each replacement stands for what a GPU does and a tensor without data cannot: a dropout in one kernel, fused optimizers,
masks that are not built where the batch has no padding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Undo = Callable[[], None]


class Patches:
    """Replacements in the order they were made."""

    def __init__(self) -> None:
        self._undo: list[Undo] = []

    def put(self, owner: Any, name: str, value: Any) -> Any:
        """Replace an attribute; returns what it was."""
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before))
        return before

    def later(self, undo: Undo) -> None:
        """Something else to undo."""
        self._undo.append(undo)

    def restore(self) -> None:
        """Undo all, last first."""
        while self._undo:
            self._undo.pop()()


def torch_patches(p: Patches) -> None:
    """Dropout, fused optimizers, and moving a module to another device or format."""
    original = functional.dropout

    def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if training and 0.0 < p < 1.0 and not inplace and input.numel() > 0:
            return torch.native_dropout(input, p, True)[0]
        return original(input, p, training, inplace)

    p.put(functional, "dropout", dropout)
    fused_devices(p)


def fused_devices(p: Patches) -> None:
    """The fused optimizers take tensors without data."""
    from torch.utils import _foreach_utils

    before = _foreach_utils._get_fused_kernels_supported_devices

    def devices() -> list[str]:
        return [*before(), "meta"]

    # Modules that imported the function by name hold their own.
    name = "_get_fused_kernels_supported_devices"
    for module in list(sys.modules.values()):
        if module is not None and module.__dict__.get(name) is before:
            p.put(module, name, devices)


def transformers_patches(p: Patches) -> None:
    """A batch without padding or packing, seen as that; and no code path of its own for tensors without data."""
    try:
        from transformers import masking_utils
    except ImportError:
        return
    for name, value in (
        ("is_tracing", lambda tensor=None: False),
        ("fast_all", _all),
        ("find_packed_sequence_indices", _not_packed),
    ):
        if hasattr(masking_utils, name):
            p.put(masking_utils, name, value)
    if hasattr(masking_utils, "_ignore_bidirectional_mask_sdpa"):
        whole = masking_utils._ignore_bidirectional_mask_sdpa

        def unpadded(padding_mask: torch.Tensor | None, *args: Any, **kwargs: Any) -> Any:
            if padding_mask is not None:
                padding_mask.all()
            return whole(None, *args, **kwargs)

        p.put(masking_utils, "_ignore_bidirectional_mask_sdpa", unpadded)
    from transformers.modeling_utils import PreTrainedModel

    # A warning that looks for the padding token in the first and last column of the batch.
    name = "warn_if_padding_and_no_attention_mask"
    if hasattr(PreTrainedModel, name):
        p.put(PreTrainedModel, name, lambda self, input_ids, attention_mask: None)


def _all(t: torch.Tensor) -> bool:
    """``t.all()``, with the tensors that it makes."""
    _ = t.sum() == t.numel()
    return True


def _not_packed(position_ids: torch.Tensor) -> None:
    """No sequence is packed, found by the same operations."""
    first = position_ids[:, :1] - 1
    # Named, as there: it lives until the function returns.
    steps = torch.diff(position_ids, prepend=first, dim=-1)
    packed = (steps != 1).cumsum(-1)
    (packed[:, -1] == 0).all()


def swapped_modules(p: Patches) -> None:
    """``module.to(...)`` under fake tensors: parameters are replaced, since torch cannot change them in place."""

    def apply(self: Any, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        done: dict[int, Any] = {}
        for module in self.modules() if recurse else (self,):
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = done.setdefault(id(value), _applied(value, fn))
            for name, value in module._buffers.items():
                if value is not None:
                    module._buffers[name] = done.setdefault(id(value), fn(value))
        return self

    p.put(torch.nn.Module, "_apply", apply)


def _applied(value: Any, fn: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    with torch.no_grad():
        new = fn(value)
    if new is value:
        return value
    return torch.nn.Parameter(new, requires_grad=value.requires_grad)
