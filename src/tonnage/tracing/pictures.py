"""A batch with pictures, as the processor of each type makes it; tensors without data, but where the code reads sizes.

Reference: https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models/, each type's
``processing_*.py`` and ``image_processing_*.py``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from tonnage.errors import UnsupportedError
from tonnage.tracing import grids
from tonnage.tracing.patches import Patches

Given = dict[str, Any]


class Told:
    """Numbers that the code reads, in the place of the tensor that they stand in.

    Args:
        rows: a list for each crop of a picture.
        form: of the tensor.
        device: where it would be.
    """

    def __init__(self, rows: list[list[int]], form: torch.dtype, device: torch.device) -> None:
        self.rows = rows
        self.shape = (len(rows), len(rows[0]))
        self.tensor = torch.empty(self.shape, dtype=form, device=device)

    def __getitem__(self, index: int) -> Row:
        return Row(self.rows[index])

    def sum(self, dim: int) -> list[int]:
        """Of every row."""
        return [sum(row) for row in self.rows]

    def __floordiv__(self, by: int) -> Told:
        rows = [[n // by for n in row] for row in self.rows]
        return Told(rows, self.tensor.dtype, self.tensor.device)

    def prod(self, dim: int) -> Row:
        """Of every row."""
        return Row(math.prod(row) for row in self.rows)


class Counts(Told):
    """One number for each."""

    def __getitem__(self, index: int) -> Any:
        return self.rows[index][0]


class Row(list[int]):
    """One row."""

    def tolist(self) -> list[int]:
        """Its numbers."""
        return list(self)


def inputs(config: Any, job: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """What stands beside the token ids in a batch.

    Args:
        config: of the model.
        job: its key ``pictures`` has how many a sequence has, and patches along both sides where these vary.
        ids: the batch's.

    Raises:
        UnsupportedError: the type's batches are not known.
    """
    make = MAKERS.get(config.model_type)
    if make is None:
        raise UnsupportedError(
            f"batches of {config.model_type} with pictures are not traced", key="images",
            hint="tonnage trace train.py:step runs code of your own",
        )  # fmt: skip
    return make(config, job["pictures"], ids)


def patches(p: Patches) -> None:
    """A mask of patches that was told is one without data, and none where all are there; what is made of grids, and
    sizes, stay as told."""
    grids.patches(p)
    as_tensor = torch.as_tensor
    p.put(torch, "as_tensor", lambda x, *args, **how: x if isinstance(x, Told) else as_tensor(x, *args, **how))
    name = "transformers.models.siglip2.modeling_siglip2"
    if name not in sys.modules:
        return
    module = sys.modules[name]
    original = module.create_bidirectional_mask

    def masked(config: Any, inputs_embeds: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if isinstance(attention_mask, Told):
            skips = all(all(row) for row in attention_mask.rows)
            attention_mask, kwargs = attention_mask.tensor, {**kwargs, "allow_is_bidirectional_skip": skips}
        return original(config=config, inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)

    p.put(module, "create_bidirectional_mask", masked)


def _square(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """Pictures of one size, one behind the other."""
    vision = config.vision_config
    axes = (len(ids) * said["count"], vision.num_channels, vision.image_size, vision.image_size)
    return {"pixel_values": torch.empty(axes, dtype=torch.float32, device=ids.device)}


def _prefixed(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """The same with what tells the prompt from the answer."""
    return {**_square(config, said, ids), "token_type_ids": torch.empty_like(ids)}


def _flexible(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """Patches as rows, as many as each picture has; the code reads the sizes."""
    vision, shapes = config.vision_config, [*said["patches"]] * (len(ids) * said["count"])
    pixels = vision.num_channels * vision.patch_size**2
    there = [rows * columns for rows, columns in shapes]
    mask = [[1] * n + [0] * (said["length"] - n) for n in there]
    return {
        "pixel_values": torch.empty((len(mask), len(mask[0]), pixels), dtype=torch.float32, device=ids.device),
        "spatial_shapes": Told([list(shape) for shape in shapes], torch.int64, ids.device),
        "pixel_attention_mask": Told(mask, torch.int32, ids.device),
    }


def _of_either(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """As the tower takes them."""
    return (_in_a_row if config.vision_config.model_type == "pixtral" else _square)(config, said, ids)


def _in_a_row(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """Pictures of one size, which the code reads."""
    vision, count, ((rows, columns),) = config.vision_config, len(ids) * said["count"], said["patches"]
    size = [rows * vision.patch_size, columns * vision.patch_size]
    pixels = torch.empty((count, vision.num_channels, *size), dtype=torch.float32, device=ids.device)
    return {"pixel_values": pixels, "image_sizes": Told([size] * count, torch.int64, ids.device)}


def _anyres(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """Each picture whole and in tiles, with the size that it came in."""
    vision, count, (width, height) = config.vision_config, len(ids) * said["count"], said["pixels"]
    axes = (count, len(said["patches"]), vision.num_channels, vision.image_size, vision.image_size)
    pixels = torch.empty(axes, dtype=torch.float32, device=ids.device)
    return {"pixel_values": pixels, "image_sizes": Told([[height, width]] * count, torch.int64, ids.device)}


def _whole_or_anyres(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """The same with how many pictures each sequence has."""
    counts = Counts([[said["count"]]] * len(ids), torch.int64, ids.device)
    return {**_anyres(config, said, ids), "batch_num_images": counts}


def _tiled(config: Any, said: Mapping[str, Any], ids: torch.Tensor) -> Given:
    """Each picture in as many tiles as it may have, and which of them each token sees."""
    vision, n, device = config.vision_config, said["count"], ids.device
    B, T = ids.shape
    tiles, side = vision.max_num_tiles, vision.image_size

    def whole(*axes: int) -> torch.Tensor:
        return torch.empty(axes, dtype=torch.int64, device=device)

    pixels = torch.empty((B, n, tiles, vision.num_channels, side, side), dtype=torch.float32, device=device)
    return {
        "pixel_values": pixels, "aspect_ratio_ids": whole(B, n), "aspect_ratio_mask": whole(B, n, tiles),
        "cross_attention_mask": whole(B, T, n, tiles),
    }  # fmt: skip


MAKERS: Final[Mapping[str, Callable[[Any, Mapping[str, Any], torch.Tensor], Given]]] = {
    "gemma3": _prefixed,
    "lfm2_vl": _flexible,
    "llava": _of_either,
    "llava_next": _anyres,
    "llava_onevision": _whole_or_anyres,
    "mistral3": _in_a_row,
    "mllama": _tiled,
    "paligemma": _prefixed,
    "qwen2_5_vl": grids.inputs,
    "qwen2_vl": grids.inputs,
    "qwen3_5": grids.inputs,
    "qwen3_5_moe": grids.inputs,
    "qwen3_vl": grids.inputs,
    "qwen3_vl_moe": grids.inputs,
}
