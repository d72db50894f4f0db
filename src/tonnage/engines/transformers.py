"""transformers: ``generate`` with its dynamic cache."""

from __future__ import annotations

from typing import Final

from tonnage.engines import Engine
from tonnage.releases import Releases

ENGINE: Final = Engine(
    name="transformers",
    releases=Releases("transformers", newest=(5, 23), oldest=(4, 45), last={4: 57}),
    # From 5.15 on the cache is updated "while latent KV is still compressed"; before, expanded heads were cached.
    latent=(((5, 15), True), ((0, 0), False)),
    takes=("attention", "prompt", "logits"),
    reference="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/cache_utils.py",
)
