"""Names for ``--quant``: each stands for a ``quantization_config`` as a checkpoint would have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_GROUP: Final = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
_AO: Final = {"quant_method": "torchao"}


def _packed(form: str, weights: Mapping[str, Any], inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _hqq(bits: int, group: int) -> dict[str, Any]:
    weights = {"nbits": bits, "group_size": group, "axis": 1, "view_as_float": False}
    return {"quant_method": "hqq", "quant_config": {"weight_quant_params": weights}, "skip_modules": ["lm_head"]}


def _ao(kind: str, **data: Any) -> dict[str, Any]:
    return {**_AO, "quant_type": {"default": {"_type": kind, "_data": data}}}


NAMES: Final[dict[str, dict[str, Any]]] = {
    "int8": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "nf4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-dq": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "fp4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "fp4-dq": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": True,
    },
    "gptq-int4": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "gptq-int8": {"quant_method": "gptq", "bits": 8, "group_size": 128, "desc_act": False},
    "gptq-int3": {"quant_method": "gptq", "bits": 3, "group_size": 128, "desc_act": False},
    "awq-int4": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "fp8": {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "dynamic"},
    "fp8-block": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    "fp8-row": {"quant_method": "fbgemm_fp8"},
    "mxfp4": {"quant_method": "mxfp4"},
    "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "ignore": ["lm_head"]},
    "fp8-modelopt": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
    "nvfp4-online": {"quant_method": "nvfp4"},
    "ct-int4": _packed("pack-quantized", _GROUP),
    "ct-int8": _packed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    "ct-fp8": _packed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "ct-nvfp4": _packed(
        "nvfp4-pack-quantized",
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
    ),
    "hqq-int8": _hqq(8, 64),
    "hqq-int4": _hqq(4, 64),
    "hqq-int3": _hqq(3, 64),
    "hqq-int2": _hqq(2, 16),
    "torchao-int8": _ao("Int8WeightOnlyConfig"),
    "torchao-int8-dynamic": _ao("Int8DynamicActivationInt8WeightConfig"),
    "torchao-int4": _ao("Int4WeightOnlyConfig", group_size=128),
    "torchao-fp8": _ao("Float8WeightOnlyConfig"),
    "quanto-int8": {"quant_method": "quanto", "weights": "int8"},
    "quanto-int4": {"quant_method": "quanto", "weights": "int4"},
    "quanto-int2": {"quant_method": "quanto", "weights": "int2"},
    "quanto-fp8": {"quant_method": "quanto", "weights": "float8"},
    "eetq-int8": {"quant_method": "eetq", "weights": "int8"},
    "aqlm-2bit": {"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 1, "nbits_per_codebook": 16},
    **{f"mlx-{bits}bit": {"group_size": 64, "bits": bits} for bits in (3, 4, 5, 6, 8)},
    "bitnet": {"quant_method": "bitnet"},
    "dynamic-int8": {"quant_method": "torch-dynamic", "dtype": "qint8", "per_channel": False},
    "dynamic-int8-channel": {"quant_method": "torch-dynamic", "dtype": "qint8", "per_channel": True},
    "sparse-24": {"quant_method": "semi-structured", "backend": "cutlass"},
    "sparse-24-cusparselt": {"quant_method": "semi-structured", "backend": "cusparselt"},
    "pruned-50": {"quant_method": "pruned", "layout": "dense", "density": 0.5},
    "csr-50": {"quant_method": "pruned", "layout": "csr", "density": 0.5, "index_dtype": "int32"},
    "csr-90": {"quant_method": "pruned", "layout": "csr", "density": 0.1, "index_dtype": "int32"},
    "coo-90": {"quant_method": "pruned", "layout": "coo", "density": 0.1},
}

ON_DEMAND: Final = frozenset(
    (
        "torchao-int8-dynamic", "dynamic-int8-channel", "sparse-24-cusparselt", "pruned-50", "csr-50", "csr-90",
        "coo-90",
    )
)  # fmt: skip
"""Variations that a plain answer leaves out."""

ALIASES: Final = {
    "awq": "awq-int4",
    "gptq": "gptq-int4",
    "hqq": "hqq-int4",
    "eetq": "eetq-int8",
    "bnb-int8": "int8",
    "llm.int8": "int8",
    "bnb-nf4": "nf4",
    "int4": "nf4",
    "4bit": "nf4",
    "bnb-4bit": "nf4",
    "8bit": "int8",
    "bnb-8bit": "int8",
    "bitsandbytes": "nf4",
    "fp8_block": "fp8-block",
    "fbgemm-fp8": "fp8-row",
    "w4a16": "ct-int4",
    "w8a8": "ct-int8",
    "w8a8-fp8": "ct-fp8",
    "aqlm": "aqlm-2bit",
    "mlx": "mlx-4bit",
    "2:4": "sparse-24",
    "semi-structured": "sparse-24",
    "quantize-dynamic": "dynamic-int8",
    "q3_k": "q3_k_m",
    "q4_k": "q4_k_m",
    "q5_k": "q5_k_m",
    "mxfp4-moe": "mxfp4_moe",
    "gguf-f32": "f32",
    "gguf-f16": "f16",
    "gguf-bf16": "bf16",
}

APART: Final = {"int8": "bnb-int8", "f32": "gguf-f32", "f16": "gguf-f16", "bf16": "gguf-bf16"}
"""Names that plain formats have too, and the aliases that tell them apart."""

GGUF: Final = (
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k", "q2_k_s", "iq4_nl", "iq4_xs", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "iq2_m",
    "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "tq2_0", "tq1_0", "mxfp4_moe",
)  # fmt: skip
"""Recipes of GGUF files; ``-imatrix`` behind one says that an importance matrix was used."""
