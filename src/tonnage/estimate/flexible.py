"""Which models run with flex attention, and what of it is modelled."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import attention_blocks

WITH_FLEX: Final = frozenset((
    "apertus", "arcee", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "gpt_neox", "granite", "helium", "internlm3", "llama", "ministral", "ministral3", "mistral", "mixtral",
    "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss",
    "smollm3", "starcoder2",
))  # fmt: skip
"""Decoders whose class in transformers 5.23 says that it supports flex attention (``_supports_flex_attn``), and whose
attention is grouped-query attention without a bias of positions and without sinks."""
HINT: Final = "--attention sdpa"


def flexible(model: Model) -> AttentionKernel:
    """Flex attention, as transformers' ``attn_implementation="flex_attention"`` calls it.

    Raises:
        UnsupportedError: transformers does not run the model with it, or its tensors are not modelled.
        InputError: it refuses the model's dropout.
    """
    blocks = attention_blocks(model)
    if model.model_type not in WITH_FLEX or not all(isinstance(b, GroupedQuery) for b in blocks):
        raise UnsupportedError(
            f"flex attention is not modelled for {model.model_type}", key="attention", value="flex", hint=HINT
        )
    if any(b.dropout for b in blocks):
        raise InputError(
            f"flex attention takes no dropout of attention weights, and {model.name or model.model_type} has one",
            key="attention", value="flex", hint="set attention_dropout to 0 in the config, or --attention sdpa",
        )  # fmt: skip
    return "flex"
