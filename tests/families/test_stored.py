"""What released checkpoints store: the parameters of the class, and beside them those that predict further tokens.

The figures are the sums that the Hub shows of each repository's safetensors headers. Some of these files also store
the corrections of the routers' scores, one number an expert, which transformers holds in buffers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tonnage import api, quant
from tonnage.arch.experts import as_loaded
from tonnage.families import model_from
from tonnage.formats import FORMATS
from tonnage.memory.weights import stored, total


class Release(NamedTuple):
    """A repository: its config, the elements of its files, and how many of them correct scores."""

    name: str
    config: dict[str, Any]
    stored: int
    corrections: int = 0


def qwen3_5(D: int, F: int, L: int, N: int, K: int, values: int, vision: tuple[int, ...]) -> dict[str, Any]:
    """Qwen3.5 with its tower: of both sizes below 9B the head is the embedding."""
    text = {
        "model_type": "qwen3_5_text",
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": L,
        "num_attention_heads": N,
        "num_key_value_heads": K,
        "head_dim": 256,
        "vocab_size": 248320,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": values,
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
    }
    depth, width, inner, heads = vision
    tower = {"depth": depth, "hidden_size": width, "intermediate_size": inner, "num_heads": heads, "out_hidden_size": D}
    return {
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "tie_word_embeddings": D < 4096,
        "text_config": text,
        "vision_config": tower,
    }


def glm4_5(D: int, F: int, L: int, E: int, experts: int, first: int, *, normed: bool) -> dict[str, Any]:
    return {
        "model_type": "glm4_moe",
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": L,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151552,
        "n_routed_experts": E,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": experts,
        "n_shared_experts": 1,
        "first_k_dense_replace": first,
        "use_qk_norm": normed,
        "attention_bias": True,
        "num_nextn_predict_layers": 1,
    }


GLM_FLASH = {
    "model_type": "glm4_moe_lite",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 1536,
    "vocab_size": 154880,
    "num_nextn_predict_layers": 1,
}
LING = {
    "model_type": "bailing_hybrid",
    "hidden_size": 2560,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 42,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts": 512,
    "num_experts_per_tok": 8,
    "vocab_size": 157184,
    "num_nextn_predict_layers": 1,
}
HUNYUAN = {
    "model_type": "hy_v3",
    "hidden_size": 4096,
    "intermediate_size": 13312,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts": 192,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "vocab_size": 120832,
    "num_nextn_predict_layers": 1,
}
NEMOTRON = {
    "model_type": "nemotron_h",
    "hidden_size": 4096,
    "vocab_size": 131072,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "conv_kernel": 4,
    "n_groups": 8,
    "n_routed_experts": 512,
    "num_experts_per_tok": 22,
    "moe_latent_size": 1024,
    "moe_intermediate_size": 2688,
    "moe_shared_expert_intermediate_size": 5376,
    "intermediate_size": 2688,
    # Their order changes no sum.
    "hybrid_override_pattern": "ME" * 40 + "*" * 8,
    "num_nextn_predict_layers": 1,
    "mtp_hybrid_override_pattern": "*E",
}

LONGCAT = {
    "model_type": "longcat_flash",
    "hidden_size": 6144,
    "ffn_hidden_size": 12288,
    "expert_ffn_hidden_size": 2048,
    "n_routed_experts": 512,
    "zero_expert_num": 256,
    "moe_topk": 12,
    "num_layers": 28,
    "num_attention_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 131072,
}
MINIMAX_M1 = {
    "model_type": "minimax",
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 32,
    "num_experts_per_tok": 2,
    "vocab_size": 200064,
    "layer_types": ([*["linear_attention"] * 7, "full_attention"]) * 10,
}
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "vocab_size": 200064,
    "use_mtp": True,
    "num_mtp_modules": 3,
    "mtp_transformer_layers": 1,
}

SMALL, MIDDLE, LARGE = (12, 768, 3072, 12), (24, 1024, 4096, 16), (27, 1152, 4304, 16)
RELEASES = (
    Release("Qwen/Qwen3.5-0.8B", qwen3_5(1024, 3584, 24, 8, 2, 16, SMALL), 873_438_784),
    Release("Qwen/Qwen3.5-2B", qwen3_5(2048, 6144, 24, 8, 2, 16, MIDDLE), 2_274_069_824),
    Release("Qwen/Qwen3.5-4B", qwen3_5(2560, 9216, 32, 16, 4, 32, MIDDLE), 4_659_865_088),
    Release("Qwen/Qwen3.5-9B", qwen3_5(4096, 12288, 32, 16, 4, 32, LARGE), 9_653_104_368),
    Release("Qwen/Qwen3.5-27B", qwen3_5(5120, 17408, 64, 24, 4, 48, LARGE), 27_781_427_952),
    Release("zai-org/GLM-4.5", glm4_5(5120, 12288, 92, 160, 1536, 3, normed=True), 358_337_791_296, 90 * 160),
    Release("zai-org/GLM-4.5-Air", glm4_5(4096, 10944, 46, 128, 1408, 1, normed=False), 110_468_824_832, 46 * 128),
    Release("zai-org/GLM-4.7-Flash", GLM_FLASH, 31_221_488_576, 47 * 64),
    Release("inclusionAI/Ling-3.0-flash", LING, 127_486_405_600, 41 * 512),
    Release("tencent/Hy3", HUNYUAN, 298_786_155_776, 80 * 192),
    Release("meituan-longcat/LongCat-Flash-Chat", LONGCAT, 561_862_880_256, 28 * 768),
    Release("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", NEMOTRON, 123_611_012_096),
)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_stored_parameters_are_those_of_the_files(release: Release) -> None:
    model = model_from(release.config)
    assert model.parameters.stored + release.corrections == release.stored
    assert model.apart


def test_engines_load_no_rows_for_longcats_empty_experts() -> None:
    """transformers' class alone holds gate and up of the 256 experts that pass a token on."""
    model = model_from(LONGCAT)
    loaded = as_loaded(model)
    assert model.parameters.total - loaded.parameters.total == 28 * 256 * 2 * 2048 * 6144
    assert loaded.parameters.stored == model.parameters.stored
    assert [t.name for t in loaded.tensors()] == [t.name for t in model.tensors()]
    assert len(loaded.decoder.distinct()) == 1
    assert as_loaded(loaded) is loaded


def test_glm_4_6_leaves_the_tables_of_its_further_layer_out() -> None:
    """zai-org/GLM-4.6 has the sizes of GLM-4.5, and files without that layer's embedding and head."""
    model = model_from(glm4_5(5120, 12288, 92, 160, 1536, 3, normed=True))
    tables = [t for t in model.apart if t.role in ("embedding", "head")]
    assert model.parameters.stored + 90 * 160 - sum(t.numel for t in tables) == 356_785_898_816


def test_minimax_releases_no_layer_that_predicts_a_further_token() -> None:
    """MiniMaxAI/MiniMax-M1-80k, and MiniMax-M2.5, whose config tells three modules and whose files are in FP8.

    Beside its parameters these hold a correction for every expert and a scale for every block of 128 x 128.
    """
    assert model_from(MINIMAX_M1).parameters.stored == 456_089_655_296
    parameters = model_from(MINIMAX_M2).parameters
    attention = 2 * 6144 * 3072 + 2 * 1024 * 3072
    scales = 62 * (256 * 3 * 1536 * 3072 + attention) // 128**2
    assert parameters.stored + 62 * 256 + scales == 228_703_644_928


def test_a_layer_that_predicts_a_token_has_a_third_of_a_billion_in_mimo() -> None:
    """MiMo-V2-Flash: 0.33 B a block, https://github.com/XiaomiMiMo/MiMo-V2-Flash."""
    sizes = {
        "model_type": "mimo_v2_flash",
        "hidden_size": 4096,
        "intermediate_size": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "vocab_size": 152576,
    }
    one, three = (model_from({**sizes, "num_nextn_predict_layers": n}).parameters for n in (1, 3))
    assert round((one.stored - one.total) / 1e9, 2) == 0.33
    assert three.stored - three.total == 3 * (one.stored - one.total)


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_what_is_stored_apart_has_names_of_its_own(release: Release) -> None:
    model = model_from(release.config)
    apart = [t.name for t in model.apart]
    assert len(set(apart)) == len(apart)
    assert not {t.name for t in model.tensors()} & set(apart)


NAMED: list[tuple[str, int, int]] = [
    ("qwen3-vl-2b", 2_127_532_032, 0),
    ("qwen3-vl-235b-a22b", 235_670_022_896, 0),
    ("qwen3.5-35b-a3b", 35_951_822_704, 0),
    ("qwen3.5-122b-a10b", 125_086_497_008, 0),
    ("qwen3.5-397b-a17b", 403_397_928_944, 0),
    ("deepseek-v3.2", 685_355_329_792, 59 * 256),
    ("deepseek-v4-flash", 290_944_616_402, 41 * 256 + 3 * 6 * 129_280),
    ("deepseek-v4-pro", 1_598_839_674_782, 59 * 384 + 3 * 6 * 129_280),
    ("kimi-k2.5", 1_026_879_376_368, 60 * 384),
    ("kimi-k3", 2_779_931_837_184, 92 * 896),
    ("nemotron-3-nano-30b-a3b", 31_577_937_344, 0),
    ("nemotron-3-ultra-550b-a55b", 560_524_578_816, 0),
    ("nemotron-h-56b", 56_324_350_464, 0),
    ("llama-3.3-nemotron-super-49b", 49_867_145_216, 0),
    ("mimo-7b", 7_833_409_536, 0),
    ("glm-5", 753_864_139_008, 76 * 256),
    ("glm-5.2", 753_329_940_480, 76 * 256),
    ("minimax-m2", 228_689_764_864, 62 * 256),
    ("minimax-m3", 427_040_140_160, 57 * 128),
    ("llama-3.2-11b-vision", 10_670_220_835, 0),
    ("llama-3.2-90b-vision", 88_593_355_323, 0),
    ("llama-4-scout-17b-16e", 108_641_793_536, 0),
    ("llama-4-maverick-17b-128e", 401_583_781_376, 0),
    ("exaone-4.0-32b", 32_003_216_384, 0),
    ("exaone-4.5-33b", 34_350_097_664, 0),
    ("lfm2.5-vl-1.6b", 1_596_625_904, 0),
    ("olmo-3-32b", 32_233_522_176, 0),
    ("gemma-3-4b", 4_300_079_472, 0),
    ("gemma-3-12b", 12_187_325_040, 0),
    ("gemma-3-27b", 27_432_406_640, 0),
]
"""Models of the catalogue, what their repository stores, and how much of that corrects or tells what is routed."""


@pytest.mark.parametrize(("name", "stored", "corrections"), NAMED, ids=[name for name, _, _ in NAMED])
def test_named_models_store_what_their_repositories_do(name: str, stored: int, corrections: int) -> None:
    assert api.load(name).parameters.stored + corrections == stored


def test_kimi_k3_is_stored_in_the_bytes_of_its_files() -> None:
    """``total_size`` of its index: what delta attention keeps in fp32, and the corrections of scores, come on top."""
    model = api.load("kimi-k3")
    assert model.quantization is not None
    packed = total(stored(model, FORMATS["bf16"], quant.recipe(model.quantization))).requested
    layers, heads, width = 69, 96, 128
    wide = layers * (3 * heads * width * 4 + heads * width + 128 + width)
    assert packed + 2 * wide + 4 * 92 * 896 == 1_560_860_324_864
