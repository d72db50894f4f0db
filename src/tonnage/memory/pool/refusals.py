"""Quantization methods that an engine, its release or the device does not have, refused as the engine does.

References: vllm-project/vllm v0.33.0 vllm/model_executor/layers/quantization/ (``get_min_capability``;
bitsandbytes.py and gguf.py of v0.23.0; the list of ``__init__.py`` of each release); sgl-project/sglang 0.5.23
python/sglang/srt/layers/quantization/; huggingface/text-generation-inference v3.3.7 launcher/src/main.rs
``Quantization``; NVIDIA/TensorRT-LLM tensorrt_llm/llmapi/llm_utils.py ``_update_from_hf_quant_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tonnage.devices import Device
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.releases import Version, shown

if TYPE_CHECKING:
    from tonnage.quant import Recipe


class Methods(Record):
    """What an engine can load.

    Args:
        least: compute capability, times ten, that a method needs.
        gone: release from which on a method is not there.
        known: all that it has; None where only ``gone`` tells.
    """

    least: Mapping[str, int] = {}
    gone: Mapping[str, Version] = {}
    known: frozenset[str] | None = None


METHODS: Final[Mapping[str, Methods]] = {
    "vllm": Methods(
        least={
            "awq": 75, "gptq": 60, "fp8": 75, "fbgemm_fp8": 80, "modelopt": 75, "mxfp4": 80, "torchao": 75,
            "compressed-tensors": 70, "bitsandbytes": 70, "gguf": 60,
        },
        gone={
            "gguf": (0, 24), "bitsandbytes": (0, 28), "hqq": (0, 18), "aqlm": (0, 12), "bitnet": (0, 0),
            "eetq": (0, 0), "quanto": (0, 0), "nvfp4": (0, 0),
        },
    ),
    "sglang": Methods(
        least={
            "fp8": 80, "modelopt": 80, "mxfp4": 80, "awq": 75, "gptq": 60, "bitsandbytes": 70, "gguf": 60,
            "compressed-tensors": 70, "quark": 70,
        },
        known=frozenset({
            "fp8", "modelopt", "mxfp4", "awq", "gptq", "bitsandbytes", "gguf", "compressed-tensors", "quark",
            "torchao",
        }),
    ),
    "tgi": Methods(
        known=frozenset({"awq", "compressed-tensors", "eetq", "gptq", "bitsandbytes", "fp8", "fbgemm_fp8"}),
    ),
    "tensorrt-llm": Methods(
        least={"fp8": 89},
        known=frozenset({"fp8", "mxfp4", "modelopt", "compressed-tensors"}),
    ),
}  # fmt: skip


def capability(device: Device | None) -> int | None:
    """Compute capability times ten; None where there is none."""
    text = "" if device is None else device.architecture
    digits = text.removeprefix("sm_").rstrip("abcdef")
    return int(digits) if text.startswith("sm_") and digits.isdigit() else None


def refuse_quantization(engine: str, recipe: Recipe | None, device: Device | None, version: Version) -> None:
    """Refuse a method that the engine's release, or the device, does not have.

    Raises:
        UnsupportedError: in the engine's words.
    """
    if recipe is None:
        return
    method, has = recipe.method, METHODS[engine]
    gone = has.gone.get(method)
    if (gone is not None and version >= gone) or (has.known is not None and method not in has.known):
        since = f" from {shown(gone)} on" if gone is not None and gone > (0, 0) else ""
        raise UnsupportedError(f"{engine} has no quantization method {method}{since}", key="quant", value=method)
    there, least = capability(device), has.least.get(method, 0)
    if there is not None and there < least:
        raise UnsupportedError(
            f"{engine}: the quantization method {method} is not supported for the current GPU: minimum capability "
            f"{least}, current capability {there}", key="quant", value=method,
        )  # fmt: skip
