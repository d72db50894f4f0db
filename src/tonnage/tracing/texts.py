"""Rows of several texts over tensors without data: what transformers reads out of positions is told it.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/masking_utils.py
(``find_packed_sequence_indices``) and modeling_flash_attention_utils.py (``_is_packed_sequence``,
``prepare_fa_kwargs_from_position_ids``)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tonnage.tracing.models import DTYPES
from tonnage.tracing.patches import Patches


def flattened(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """The job with the rows that a pass is given."""
    texts = job.get("texts")
    return {**job, "batch": 1, "seq": job["batch"] * job["seq"]} if texts and texts["flat"] else job


def inputs(texts: Mapping[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """What the batch brings beside token ids: positions, and where it tells them the bounds of texts."""
    given: dict[str, Any] = {"position_ids": torch.empty_like(rows)}
    if texts["told"]:
        longest = rows.numel() // texts["count"]
        given |= {name: rows.new_empty(texts["count"] + 1, dtype=torch.int32) for name in BOUNDS}
        given |= {"max_length_q": longest, "max_length_k": longest}
        given["seq_idx"] = torch.empty_like(rows, dtype=torch.int32)
    if texts["form"]:
        (batch, tokens), dtype = rows.shape, DTYPES[texts["form"]]
        given["attention_mask"] = torch.empty((batch, 1, tokens, tokens), dtype=dtype, device=rows.device)
    return given


BOUNDS = "cu_seq_lens_q", "cu_seq_lens_k"


def install(p: Patches, texts: Mapping[str, Any], rows: int) -> None:
    """Have transformers find that many texts, by the operations with which it looks for them.

    Args:
        p: takes what has to be undone.
        texts: their number.
        rows: that hold them.
    """
    from transformers import masking_utils
    from transformers import modeling_flash_attention_utils as flash

    def indices(position_ids: torch.Tensor) -> torch.Tensor:
        first = position_ids[:, :1] - 1
        steps = torch.diff(position_ids, prepend=first, dim=-1)
        packed = (steps != 1).cumsum(-1)
        (packed[:, -1] == 0).all()
        return packed

    def packed(position_ids: Any, batch_size: int) -> bool:
        if position_ids is None or batch_size != 1 or position_ids.shape[-1] == 1:
            return False
        counted = torch.arange(position_ids.shape[1], device=position_ids.device) + position_ids.min()
        (counted - position_ids).abs().sum().bool()
        return True

    def bounds(position_ids: torch.Tensor) -> Any:
        how = {"dtype": torch.int32, "device": position_ids.device}
        flat = position_ids.reshape(-1)
        (flat == flat.min()).any()
        found = torch.cat((flat.new_empty(texts["count"]).to(**how), torch.empty(1, **how)))
        longest = found.diff().max()
        return (found, found), (longest, longest)

    if texts["count"] > rows:
        p.put(masking_utils, "find_packed_sequence_indices", indices)
        p.put(flash, "_is_packed_sequence", packed)
        p.put(flash, "prepare_fa_kwargs_from_position_ids", bounds)
