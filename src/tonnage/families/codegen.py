"""CodeGen: GPT-J's structure with queries, values and keys in one matrix."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._gptj import ATTRIBUTES, paired
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``CodeGenForCausalLM`` builds. Its heads lie in the packed matrix in four groups."""
    return paired(k, fused="qkv_proj", groups=4, wide_angles=True)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/codegen/"
    "modeling_codegen.py",
    attributes=ATTRIBUTES,
)
