"""Batches whose pictures are rows of patches with their grids, which the code of Qwen's models reads as numbers.

What it makes of them is computed on the host; on the device lies a tensor without data in the place of each result.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/vision_utils.py (the ``get_``
functions) and models/qwen2_vl/modeling_qwen2_vl.py (``get_rope_index``), processing_qwen2_vl.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes

from tonnage.tracing.patches import Patches

MADE: Final = (
    "get_vision_position_ids", "get_vision_attention_seqlens", "get_vision_window_index",
    "get_vision_interpolation_indices_and_weights",
)  # fmt: skip
"""Functions of ``vision_utils`` that make tensors of grids."""
HOSTED: Final = "get_vision_window_index"
"""Whose first result is made on the host."""


class Numbers:
    """Whole numbers that the code reads, beside the tensor that they stand in.

    Args:
        values: on the host.
        tensor: the same without data.
    """

    def __init__(self, values: torch.Tensor, tensor: torch.Tensor) -> None:
        self.values = values
        self.tensor = tensor
        self.device = tensor.device

    def _both(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Numbers:
        with _disable_current_modes():
            values = change(self.values)
        return Numbers(values, change(self.tensor))

    def __getitem__(self, index: Any) -> Numbers:
        return self._both(lambda t: t[index])

    def __sub__(self, other: Numbers) -> Numbers:
        with _disable_current_modes():
            values = self.values - other.values
        return Numbers(values, self.tensor - other.tensor)

    def __floordiv__(self, by: int) -> Numbers:
        return self._both(lambda t: t // by)

    def prod(self, dim: int) -> Numbers:
        """Along an axis."""
        return self._both(lambda t: t.prod(dim))

    def max(self) -> Numbers:
        """The highest."""
        return self._both(lambda t: t.max())

    def item(self) -> Any:
        """The only one."""
        return self.values.item()

    def tolist(self) -> Any:
        """What they are."""
        return self.values.tolist()


def inputs(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> dict[str, Any]:
    """Patches of all pictures as rows, the grid of each, and which tokens are of pictures."""
    vision, count = config.vision_config, len(ids) * said["count"]
    (rows, columns), *_ = said["patches"]
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    with _disable_current_modes():
        grids = torch.tensor([[1, rows, columns]] * count)
    return {
        "pixel_values": torch.empty((count * rows * columns, pixels), dtype=torch.float32, device=ids.device),
        "image_grid_thw": Numbers(grids, torch.empty((count, 3), dtype=torch.int64, device=ids.device)),
        "mm_token_type_ids": torch.empty_like(ids),
    }


def patches(p: Patches) -> None:
    """What is made of grids, in every module that has been imported."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("transformers.models.") or module is None:
            continue
        for function in MADE:
            if function in module.__dict__:
                p.put(module, function, partial(_made, function, module.__dict__[function]))
        for kind in [v for v in module.__dict__.values() if isinstance(v, type) and "get_rope_index" in v.__dict__]:
            p.put(kind, "get_rope_index", _positions)


def _made(name: str, function: Callable[..., Any], grid_thw: Numbers, *args: Any, **kwargs: Any) -> Any:
    """The function's results on the device of the grids."""
    with _disable_current_modes():
        found = function(grid_thw.values, *args, **kwargs)
    made = found if isinstance(found, tuple) else (found,)
    places = ["cpu" if name == HOSTED and i == 0 else grid_thw.device for i in range(len(made))]
    out = tuple(_there(t, place) for t, place in zip(made, places, strict=True))
    return out if isinstance(found, tuple) else out[0]


def _there(found: Any, device: Any) -> Any:
    """As a tensor without data; numbers that are read again where texts begin."""
    if not isinstance(found, torch.Tensor):
        return found
    tensor = torch.empty(found.shape, dtype=found.dtype, device=device)
    return Numbers(found, tensor) if found.dtype == torch.int32 else tensor


def _positions(self: Any, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Three positions of every token, and how far those of each sequence are from its length."""
    device = input_ids.device
    return (
        torch.empty((3, *input_ids.shape), dtype=torch.int64, device=device),
        torch.empty((len(input_ids), 1), dtype=torch.int64, device=device),
    )
