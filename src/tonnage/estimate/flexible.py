"""Which models run with flex attention, and what of it is modelled.

References: https://github.com/pytorch/torchtune/blob/v0.6.1/torchtune/modules/attention_utils.py and
utils/_import_guard.py; https://github.com/pytorch/torchtitan/blob/v0.2.2/torchtitan/models/llama3/infra/parallelize.py
(``_op_sac_save_list``)
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.flex import calls_bare
from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import attention_blocks
from tonnage.stacks import Stack
from tonnage.workload.training import Train

WITH_FLEX: Final = frozenset((
    "apertus", "arcee", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "gpt_neox", "granite", "helium", "internlm3", "llama", "ministral", "ministral3", "mistral", "mixtral",
    "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss",
    "smollm3", "starcoder2",
))  # fmt: skip
"""Decoders whose class in transformers 5.23 says that it supports flex attention (``_supports_flex_attn``), and whose
attention is grouped-query attention without a bias of positions and without sinks."""
HINT: Final = "--attention sdpa"
OLDEST: Final = (7, 5)
"""Compute capability from which torchtune takes it (``_SUPPORTS_FLEX_ATTENTION``)."""


def of_stack(model: Model, w: Train, stack: Stack, device: Device | None) -> None:
    """Flex attention in the code of a stack that has modules of its own.

    Torchtune's packed rows, and torchtitan's ``attn_type = "flex"`` with a mask by documents.

    Raises:
        UnsupportedError: the stack's code does not call it, or what is asked for with it is not modelled.
        InputError: the device is too old for it.
    """
    if stack.name not in ("torchtune", "torchtitan"):
        why = "does not call flex attention" if stack.name == "litgpt" else "is not modelled with flex attention"
        raise UnsupportedError(f"{stack.name} {why}", hint="--attention flash", key="attention", value="flex")
    if not all(map(calls_bare, attention_blocks(model))):
        raise UnsupportedError(
            f"{stack.name}'s own attention is not modelled for {model.model_type}, nor is its flex attention",
            hint=HINT, key="attention", value="flex",
        )  # fmt: skip
    if stack.name == "torchtune" and w.compile:
        raise UnsupportedError(
            "torchtune compiles flex attention by itself and breaks each layer's graph there, which is not modelled",
            hint="--attention flash, or leave out compile", key="attention", value="flex",
        )  # fmt: skip
    if stack.name == "torchtitan" and w.recompute == "selective":
        raise UnsupportedError(
            "flex attention under torchtitan's selective checkpoint, which keeps the compiled call's whole result, is "
            "not modelled", hint="--recompute every-2 or full", key="attention", value="flex",
        )  # fmt: skip
    architecture = "" if device is None else device.architecture.removeprefix("sm_").rstrip("abcdef")
    if stack.name == "torchtune" and architecture.isdigit() and int(architecture) < OLDEST[0] * 10 + OLDEST[1]:
        raise InputError(
            f"torchtune takes flex attention from sm_75 on, not on sm_{architecture}",
            hint=HINT,
            key="attention",
            value="flex",
        )


def flexible(model: Model) -> AttentionKernel:
    """Flex attention, as transformers' ``attn_implementation="flex_attention"`` or a stack's own modules call it.

    Raises:
        UnsupportedError: transformers does not run the model with it, or its tensors are not modelled.
        InputError: it refuses the model's dropout.
    """
    blocks = attention_blocks(model)
    own = bool(blocks) and all(map(calls_bare, blocks))
    if not own and (model.model_type not in WITH_FLEX or not all(isinstance(b, GroupedQuery) for b in blocks)):
        raise UnsupportedError(
            f"flex attention is not modelled for {model.model_type}", key="attention", value="flex", hint=HINT
        )
    if any(b.dropout for b in blocks):
        raise InputError(
            f"flex attention takes no dropout of attention weights, and {model.name or model.model_type} has one",
            key="attention", value="flex", hint="set attention_dropout to 0 in the config, or --attention sdpa",
        )  # fmt: skip
    return "flex"
