"""transformers: ``generate`` with its dynamic cache."""

from __future__ import annotations

from typing import Final

from tonnage.engines import Engine

ENGINE: Final = Engine(
    name="transformers",
    versions=("5", "4"),
    # Release 5.23 updates the cache "while latent KV is still compressed"; release 4 cached expanded heads.
    latent={"5": True, "4": False},
    pool=False,
    logits="last",
    reference="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py",
)
