"""OLMo 2: norms behind attention and feed-forward instead of before them, and norms over all query and key heads."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import gated
from tonnage.families._olmo import olmo
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``Olmo2ForCausalLM`` builds."""
    return olmo(k, gated(k, k.need("hidden_size")), positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/olmo2/modeling_olmo2.py",
)
