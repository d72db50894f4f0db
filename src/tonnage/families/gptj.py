"""GPT-J: attention and feed-forward beside each other behind one norm, neighbours of a head turned in pairs."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._gptj import ATTRIBUTES, paired
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``GPTJForCausalLM`` builds."""
    return paired(k)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/gptj/modeling_gptj.py",
    attributes=ATTRIBUTES,
)
