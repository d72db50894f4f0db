"""Checkpoints that other quantizers write, against the tensors that their own modules hold."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tonnage import api, quant
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.weights import stored, total
from tonnage.quant._stored import Matrix

SMALL: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip
M = Matrix(module="m", role="attention", outs=("N", 384), ins=("D", 512), layer=0)
VPTQ = {"indices_as_float": False, "enable_perm": True, "is_indice_packed": True}
PLAIN = {**VPTQ, "vector_lens": [-1, 8], "num_centroids": [-1, 4096], "num_res_centroids": [-1, 256], "group_num": 1,
         "group_size": 512, "outlier_size": 0, "enable_norm": True}  # fmt: skip
OUTLIERS = {**VPTQ, "vector_lens": [4, 12], "num_centroids": [1024, 4096], "num_res_centroids": [-1, -1],
            "group_num": 2, "group_size": 252, "outlier_size": 8, "enable_norm": False}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}


def quark(*, qscheme: str, dynamic: bool = False, dtype: str = "fp8_e4m3") -> dict[str, Any]:
    spec = {"dtype": dtype, "qscheme": qscheme, "is_dynamic": False}
    inputs = {"dtype": dtype, "qscheme": "per_tensor", "is_dynamic": dynamic}
    return {
        "quant_method": "quark", "exclude": ["lm_head"], "layer_quant_config": {}, "export": {"pack_method": "reorder"},
        "global_quant_config": {"weight": spec, "input_tensors": inputs, "output_tensors": None, "bias": None},
    }  # fmt: skip


MADE: list[tuple[str, dict[str, Any], list[tuple[int, str | None]]]] = [
    # What each library's module holds for torch.nn.Linear(512, 384) without bias: elements and format.
    ("autoawq 0.2.9 WQLinear_GEMVFast", {**AWQ, "version": "gemv_fast"},
     [(96 * 512, "int16"), (8 * 384, "fp16"), (8 * 384, "fp16")]),
    ("autoawq 0.2.9 WQLinear_GEMVFast", {**AWQ, "version": "gemv_fast", "group_size": 32},
     [(96 * 512, "int16"), (32 * 384, "fp16"), (32 * 384, "fp16")]),
    ("autoawq 0.2.9 WQLinear_Marlin", {**AWQ, "version": "marlin", "zero_point": False},
     [(32 * 768, "int32"), (4 * 384, "fp16")]),
    ("transformers 5.23.0 HiggsLinear", {"quant_method": "higgs", "bits": 4},
     [(96 * 512, "int16"), (384 * 2, None), (16, None), (512, None)]),
    ("transformers 5.23.0 HiggsLinear", {"quant_method": "higgs", "bits": 3},
     [(72 * 512, "int16"), (384 * 2, None), (8, None), (128, None)]),
    ("vptq 0.0.5 VQuantLinear", {"quant_method": "vptq", "config_for_layers": {"m": PLAIN}},
     [(32768, None), (2048, None), (48 * 320, "int32"), (512, None), (512, None), (512, "int16")]),
    ("vptq 0.0.5 VQuantLinear", {"quant_method": "vptq", "config_for_layers": {"m": OUTLIERS}},
     [(2 * 49152, None), (2 * 32 * 95, "int32"), (4096, None), (96 * 8, "int16"), (512, "int16")]),
    ("amd-quark 0.13 QParamsLinear", quark(qscheme="per_tensor"),
     [(196608, "fp8_e4m3"), (1, "fp32"), (1, "fp32")]),
    ("amd-quark 0.13 QParamsLinear", quark(qscheme="per_channel", dynamic=True),
     [(196608, "fp8_e4m3"), (384, "fp32")]),
    ("spqr_quant 0.2.0 QuantizedLinear", {"quant_method": "spqr", "shapes": {
        "m.dense_weights.shape": 384 * 512 // 16, "m.row_offsets.shape": 385, "m.col_vals.shape": 1000,
        "m.in_perm.shape": 512}},
     [(384 * 512 // 16, "int64"), (385, "int32"), (1000, "int32"), (512, "int32")]),
]  # fmt: skip


@pytest.mark.parametrize(("library", "config", "tensors"), MADE, ids=lambda v: v if isinstance(v, str) else "")
def test_tensors_that_the_module_holds(library, config, tensors):
    recipe = quant.recipe(config)
    assert recipe.store is not None
    assert recipe.packs(M)
    assert sorted((math.prod([n for _, n in p.axes]), str(p.format)) for p in recipe.store(M)) == sorted(
        (n, str(form)) for n, form in tensors
    )


def size(model: dict[str, Any], config: dict[str, Any]) -> int:
    found = api.load({"config": {**model, "quantization_config": config}})
    assert found.quantization is not None
    return total(stored(found, FORMATS["bf16"], quant.recipe(found.quantization))).requested


def gptq(rows: int, columns: int, bits: int, group: int) -> int:
    """Bytes of one matrix by hand: words, zero points, scales and group indices."""
    groups = columns // group
    return columns // 32 * bits * rows * 4 + groups * rows // 32 * bits * 4 + groups * rows * 2 + columns * 4


BASE = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def test_gptq_rules_leave_modules_alone():
    whole = size(SMALL, BASE)
    without = size(SMALL, {**BASE, "dynamic": {r"-:model\.layers\.[13]\..*down_proj": {}}})
    assert without - whole == 2 * (2 * 512 * 1024 - gptq(512, 1024, 4, 128))


def test_gptq_rules_store_modules_otherwise():
    whole = size(SMALL, BASE)
    rules = {r"+:.*\.2\..*gate.*": {"bits": 8, "group_size": 64}, r".*\.3\..*up_proj": {"group_size": 32}}
    found = size(SMALL, {**BASE, "dynamic": rules})
    expected = gptq(1024, 512, 8, 64) + gptq(1024, 512, 4, 32) - 2 * gptq(1024, 512, 4, 128)
    assert found - whole == expected


def test_the_first_rule_that_matches_counts():
    rules = {"-:.*mlp.*": {}, "+:.*down_proj": {"bits": 8}}
    assert size(SMALL, {**BASE, "dynamic": rules}) == size(SMALL, {**BASE, "dynamic": {"-:.*mlp.*": {}}})


def test_rules_see_experts_by_their_own_names():
    experts = {**SMALL, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
               "moe_intermediate_size": 128, "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip
    whole = size(experts, BASE)
    found = size(experts, {**BASE, "dynamic": {r"-:.*experts\.\d+\.down_proj": {}}})
    assert found > whole
    # The gate of a layer's experts is no expert's gate.
    assert size(experts, {**BASE, "dynamic": {r"-:.*mlp\.gate$": {}}}) == whole
    with pytest.raises(UnsupportedError, match="differently"):
        size(experts, {**BASE, "dynamic": {r"-:.*experts\.0\.down_proj": {}}})


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({**BASE, "dynamic": ["x"]}, ConfigError),
        ({**BASE, "dynamic": {"x": 3}}, ConfigError),
        ({**BASE, "dynamic": {"(a+)+": {}}}, ConfigError),
        ({**BASE, "dynamic": {"x": {"color": 1}}}, ConfigError),
        ({"quant_method": "vptq", "config_for_layers": {"m": {}}}, ConfigError),
        ({"quant_method": "vptq", "config_for_layers": {"m": {**PLAIN, "vector_lens": [1]}}}, ConfigError),
        ({"quant_method": "vptq", "config_for_layers": {"m": {**PLAIN, "is_indice_packed": False}}}, UnsupportedError),
        ({"quant_method": "vptq", "shared_layer_config": {"q_proj": PLAIN}}, UnsupportedError),
        ({"quant_method": "spqr"}, ConfigError),
        ({"quant_method": "spqr", "shapes": {"m": "x"}}, ConfigError),
        ({"quant_method": "higgs", "bits": 8}, ConfigError),
        (quark(qscheme="per_group", dtype="fp4"), UnsupportedError),
        ({**quark(qscheme="per_tensor"), "layer_quant_config": {"*k_proj": {}}}, UnsupportedError),
        ({"quant_method": "quark"}, ConfigError),
        ({**AWQ, "version": "exllama"}, UnsupportedError),
        ({**AWQ, "version": "marlin", "zero_point": True}, UnsupportedError),
    ],
    ids=str,
)
def test_what_is_not_certain_is_refused(config, error):
    with pytest.raises(error):
        quant.recipe(config)


def test_higgs_refuses_widths_that_it_would_pad():
    with pytest.raises(UnsupportedError, match="hadamard_size"):
        size({**SMALL, "intermediate_size": 1000}, {"quant_method": "higgs"})


def group(targets: list[str], form: str | None = None, **weights: Any) -> dict[str, Any]:
    return {"targets": targets, "weights": weights, "input_activations": None, "format": form}


W4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
CHANNEL = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
MIXED = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": group(["re:.*down_proj"], "int-quantized", **CHANNEL),
        "group_1": group(["Linear"], "pack-quantized", **W4),
        "group_2": group(
            ["model.layers.2.mlp.up_proj"], "float-quantized", num_bits=8, type="float", strategy="tensor"
        ),
        "group_3": group(["re:.*layers.2.*"], "int-quantized", num_bits=8, type="int", strategy="tensor"),
    },
}
LIBRARY = {
    # Which group compressed-tensors 0.20.0 apply_quantization_config gave to a module of that model: bits, what shares
    # a scale. An exact name comes first, then expressions in the order of the alphabet, then the class.
    "model.layers.0.self_attn.q_proj": (4, "group"),
    "model.layers.0.mlp.down_proj": (8, "channel"),
    "model.layers.2.mlp.up_proj": (8, "tensor"),
    "model.layers.2.mlp.gate_proj": (8, "tensor"),
    "model.layers.2.mlp.down_proj": (8, "channel"),
}


def test_groups_for_some_modules():
    from tonnage.quant._chosen import first

    table = {t: g["weights"] for g in MIXED["config_groups"].values() for t in g["targets"]}
    for name, (bits, strategy) in LIBRARY.items():
        chosen = table[first(table, name)]
        assert (chosen["num_bits"], chosen["strategy"]) == (bits, strategy)


def test_bytes_of_mixed_groups():
    uniform = {**MIXED, "format": "pack-quantized", "config_groups": {"g": group(["Linear"], **W4)}}
    two = {"a": group(["re:.*down_proj"], "int-quantized", **CHANNEL), "b": group(["Linear"], "pack-quantized", **W4)}
    packed = 512 * 1024 // 2 + 512 * 8 * 2 + 16
    assert size(SMALL, {**MIXED, "config_groups": two}) - size(SMALL, uniform) == 4 * (512 * 1024 + 512 * 2 - packed)
    # What no group means stays as it is.
    some = {"a": group(["re:.*mlp.*"], "int-quantized", **CHANNEL)}
    linear = 2 * (2 * 512 * 512 + 2 * 512 * 128)
    rest = 2 * (2 * 512 * 512 + 4 * 2 * 512 + 512)
    assert size(SMALL, {**MIXED, "config_groups": some}) == rest + 4 * (
        linear + 3 * 512 * 1024 + 2 * (1024 + 1024 + 512)
    )


def test_experts_of_one_group():
    experts = {**SMALL, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
               "moe_intermediate_size": 128, "decoder_sparse_step": 1, "mlp_only_layers": []}  # fmt: skip
    some = {"a": group([r"re:.*experts\.\d+\.down_proj"], "int-quantized", **CHANNEL)}
    none = {"a": group([r"re:nothing"], "int-quantized", **CHANNEL)}
    saved = 4 * 4 * (512 * 128 * 2 - 512 * 128 - 512 * 2)
    assert size(experts, {**MIXED, "config_groups": none}) - size(experts, {**MIXED, "config_groups": some}) == saved
    one = {"a": group([r"re:.*experts\.0\.down_proj"], "int-quantized", **CHANNEL)}
    with pytest.raises(UnsupportedError, match="differently"):
        size(experts, {**MIXED, "config_groups": one})


def stored_for(config: dict[str, Any]) -> list[tuple[int, str]]:
    recipe = quant.recipe(config)
    assert recipe.store is not None
    return sorted((math.prod([n for _, n in p.axes]), str(p.format)) for p in recipe.store(M))


@pytest.mark.parametrize(
    ("bits", "strategy", "words", "scales"),
    [(4, "group", 16 * 768, 4 * 384), (4, "channel", 16 * 768, 384), (8, "group", 16 * 1536, 4 * 384)],
)
def test_marlin_24(bits, strategy, words, scales):
    """What compressed-tensors 0.11.0 Marlin24Compressor made of a matrix of 384 x 512."""
    own = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": 128 if strategy == "group" else None}
    config = {
        "quant_method": "compressed-tensors",
        "format": "marlin-24",
        "config_groups": {"g": group(["Linear"], **own)},
    }
    assert stored_for(config) == sorted([(words, "int32"), (scales, "fp16"), (16 * 768, "int16")])


def test_sparse_24_bitmask():
    """What compressed-tensors 0.11.0 Sparse24BitMaskTensor made of the same matrix in bf16, and in FP8."""
    thin = {"format": "sparse-24-bitmask", "sparsity_structure": "2:4", "targets": ["Linear"], "ignore": ["lm_head"]}
    only = {"quant_method": "compressed-tensors", "sparsity_config": thin}
    assert stored_for(only) == sorted([(384 * 256, "None"), (384 * 64, "uint8"), (2, "int64")])
    fp8 = {"g": group(["Linear"], num_bits=8, type="float", strategy="channel")}
    both = {**only, "format": "float-quantized", "config_groups": fp8, "ignore": ["lm_head"]}
    assert stored_for(both) == sorted([(384 * 256, "fp8_e4m3"), (384 * 64, "uint8"), (2, "int64"), (384, "None")])
    dense = 2 * (2 * 512 * 512 + 4 * 2 * 512 + 512)
    linear = 4 * (2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1024)
    assert size(SMALL, only) == dense + linear * 9 // 8 + 4 * 7 * 16


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}},
        {**MIXED, "config_groups": {"a": group(["LlamaAttention"], "int-quantized", **CHANNEL)}},
        {**MIXED, "config_groups": {"a": group(["Linear"], **CHANNEL)}},
    ],
    ids=str,
)
def test_groups_that_are_not_certain_are_refused(config):
    with pytest.raises(UnsupportedError):
        quant.recipe(config)


def test_quark_leaves_out_what_its_patterns_match():
    linear = 4 * (2 * 512 * 512 + 2 * 512 * 128 + 3 * 512 * 1024)
    rest = 2 * (2 * 512 * 512 + 4 * 2 * 512 + 512)
    config = quark(qscheme="per_tensor", dynamic=True)
    assert size(SMALL, config) == rest + linear + 4 * 7 * 4
    some = {**config, "exclude": ["lm_head", "*down_proj"]}
    assert size(SMALL, some) == rest + linear + 4 * 6 * 4 + 4 * 512 * 1024
