"""Adapters beside the matrices of a frozen model: which matrices have one, and its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, nearest
from tonnage.tensors import Tensor

if TYPE_CHECKING:
    from tonnage.quant import Entry
    from tonnage.quant._stored import Matrix

DEFAULT: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("bart", "gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "llama4", "mistral", "mixtral", "opt",
         "qwen2", "qwen3", "stablelm"),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("bert", "electra", "layoutlm", "roberta", "xlm-roberta"), ("query", "value")),
    **dict.fromkeys(("mt5", "t5"), ("q", "v")),
    "codegen": ("qkv_proj",),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "mpt": ("Wqkv",),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "rwkv": ("key", "value", "receptance", "output"),
}  # fmt: skip
"""Target modules when none are named.

https://github.com/huggingface/peft/blob/v0.21.2/src/peft/utils/constants.py
(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)
"""


def targeted(model: Model, found: Sequence[Entry], asked: Sequence[str]) -> list[tuple[int, Matrix]]:
    """The matrices that get an adapter, with how often each stands.

    Args:
        model: that is adapted.
        found: its entries.
        asked: module names as peft matches them, ``attention``, ``all-linear``, or nothing for peft's own choice.

    Raises:
        InputError: a name matches no matrix, or none is named and none is known for the type.
    """
    matrices = [(n, m) for n, _, m in found if m is not None and m.role != "head" and (m.linear or m.transposed)]
    matrices = [(n, m) for n, m in matrices if not m.batch]
    if not asked:
        asked = DEFAULT.get(model.model_type, ())
        if not asked:
            raise InputError(
                f"no target modules are known for {model.model_type}", key="lora_targets",
                hint=f"--lora-targets all-linear, attention, or names: {', '.join(_leaves(matrices))}",
            )  # fmt: skip
    tests = [_test(name) for name in asked]
    for name, test in zip(asked, tests, strict=True):
        if not any(test(m) for _, m in matrices):
            leaves = _leaves(matrices)
            raise InputError(
                f"lora_targets: no matrix of {model.name or model.model_type} is called {name!r}", key="lora_targets",
                value=name, nearest=nearest(name, (*leaves, "all-linear", "attention")),
                hint=f"its matrices: {', '.join(leaves)}",
            )  # fmt: skip
    return [(n, m) for n, m in matrices if any(test(m) for test in tests)]


def _leaves(matrices: list[tuple[int, Matrix]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(m.module.rpartition(".")[2] for _, m in matrices))


def _test(name: str) -> Callable[[Matrix], bool]:
    if name == "all-linear":
        return lambda m: True
    if name == "attention":
        return lambda m: m.role == "attention"
    return lambda m: m.module == name or m.module.endswith(f".{name}")


def adapters(targets: Sequence[tuple[int, Matrix]], rank: int, dtype: str) -> list[tuple[Tensor, int]]:
    """The two tensors beside each matrix, with how often they stand.

    .. math:: r (d_{in} + d_{out})

    Args:
        targets: matrices with how often each stands.
        rank: of the adapters.
        dtype: their format.

    Leaves out: the magnitude of DoRA, biases.

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    out = []
    for times, m in targets:
        low = ("R", rank)
        out.append((Tensor(f"{m.module}.lora_A.weight", (low, m.ins), m.role, layer=m.layer, dtype=dtype), times))
        out.append((Tensor(f"{m.module}.lora_B.weight", (m.outs, low), m.role, layer=m.layer, dtype=dtype), times))
    return out


def local_names(model: Model, modules: Sequence[str]) -> frozenset[str]:
    """Names below the layer of modules that are named in full.

    >>> from tonnage.api import load
    >>> local_names(load("llama-3.1-8b"), ["model.layers.0.self_attn.q_proj"])
    frozenset({'self_attn.q_proj'})
    """
    out = set()
    for stack in model.stacks:
        below = re.compile(rf"{re.escape(stack.path)}\.\d+\.(.+)")
        for name in modules:
            match = below.fullmatch(name)
            out.add(match.group(1) if match is not None else name)
    return frozenset(out)
