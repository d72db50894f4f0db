"""GGUF metadata builds the model that the config it was converted from builds.

The metadata of each architecture is what convert_hf_to_gguf.py of ggml-org/llama.cpp writes for the config.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import Memory, gguf

import tonnage as tn
from tonnage import api
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import model_from
from tonnage.sources.gguf import header
from tonnage.sources.gguf_config import ARCHITECTURES, described

CONFIGS = Path(__file__).parents[1] / "families" / "data"
HEADER = (Path(__file__).parent / "data" / "smollm2-135m-instruct-q4_1.gguf-header").read_bytes()

Config = dict[str, Any]


def any_of(c: Config, *keys: str, default: Any = None) -> Any:
    return next((c[k] for k in keys if c.get(k) is not None), default)


def general(c: Config) -> Config:
    """What set_gguf_parameters of the base class writes."""
    D, N = (
        any_of(c, "hidden_size", "n_embd", "n_embed", "d_model", "n_embed"),
        any_of(c, "num_attention_heads", "n_head", "n_heads", "num_heads"),
    )
    found = {
        "block_count": any_of(c, "num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        "context_length": any_of(c, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", default=2048),
        "embedding_length": D,
        "feed_forward_length": any_of(c, "intermediate_size", "n_inner", "ffn_hidden_size", "d_ff"),
        "attention.head_count": N,
        "attention.head_count_kv": any_of(c, "num_key_value_heads", "num_kv_heads", default=N),
        "attention.key_length": c.get("head_dim"),
        "attention.sliding_window": c.get("sliding_window"),
        "expert_count": any_of(c, "num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": any_of(c, "num_experts_per_tok", "experts_per_token"),
        "expert_feed_forward_length": c.get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": c.get("shared_expert_intermediate_size"),
    }
    return {k: v for k, v in found.items() if v is not None}


def turned(c: Config, share: float) -> Config:
    width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return {"rope.dimension_count": int(width * share)}


def heads(c: Config) -> int:
    return int(any_of(c, "num_attention_heads", "n_head", "n_heads", "num_heads"))


def deepseek(c: Config) -> Config:
    nope, rope = c["qk_nope_head_dim"], c["qk_rope_head_dim"]
    return {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": c["kv_lora_rank"],
        **({"attention.q_lora_rank": c["q_lora_rank"]} if c.get("q_lora_rank") else {}),
        "attention.key_length": c["kv_lora_rank"] + rope,
        "attention.value_length": c["kv_lora_rank"],
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": c["v_head_dim"],
        "rope.dimension_count": rope,
        "leading_dense_block_count": c["first_k_dense_replace"],
        "expert_shared_count": c["n_shared_experts"],
        "expert_gating_func": 2 if c.get("scoring_func") == "sigmoid" or c["model_type"] == "deepseek_v3" else 1,
    }


def mamba(c: Config) -> Config:
    D = c["hidden_size"]
    inner = c.get("intermediate_size") or int(c.get("expand", 2) * D)
    return {
        "context_length": 2**20,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.head_count_kv": 0,
        "ssm.conv_kernel": c.get("conv_kernel", 4),
        "ssm.inner_size": inner,
        "ssm.state_size": c.get("state_size", 16),
        "ssm.time_step_rank": any_of(c, "time_step_rank", "num_heads"),
        **({"ssm.group_count": c["n_groups"]} if "n_groups" in c else {}),
    }


def jamba(c: Config) -> Config:
    L = c["num_hidden_layers"]
    attends = [i % c["attn_layer_period"] == c["attn_layer_offset"] for i in range(L)]
    return {
        "attention.head_count_kv": [c["num_key_value_heads"] * a for a in attends],
        "ssm.conv_kernel": c.get("mamba_d_conv", 4),
        "ssm.inner_size": c.get("mamba_expand", 2) * c["hidden_size"],
        "ssm.state_size": c.get("mamba_d_state", 16),
        "ssm.time_step_rank": c.get("mamba_dt_rank", -(-c["hidden_size"] // 16)),
    }


def t5(c: Config) -> Config:
    return {
        "attention.key_length": c["d_kv"],
        "attention.value_length": c["d_kv"],
        "decoder_block_count": c["num_decoder_layers"],
        "attention.relative_buckets_count": c["relative_attention_num_buckets"],
    }


WRITTEN: dict[str, tuple[str, Callable[[Config], Config]]] = {
    "llama": ("llama", lambda c: turned(c, 1.0)),
    "llama (mixtral)": ("mixtral", lambda c: turned(c, 1.0)),
    "llama (mistral)": ("mistral", lambda c: turned(c, 1.0)),
    "arcee": ("arcee", lambda c: {}),
    "smollm3": ("smollm3", lambda c: {}),
    "seed_oss": ("seed_oss", lambda c: {}),
    "qwen2": ("qwen2", lambda c: {}),
    "qwen2moe": ("qwen2_moe", lambda c: {}),
    "qwen3": ("qwen3", lambda c: {}),
    "qwen3moe": ("qwen3_moe", lambda c: {}),
    "phi2": ("phi", lambda c: turned(c, c["partial_rotary_factor"])),
    "phi3": ("phi3", lambda c: turned(c, 1.0)),
    "phimoe": ("phimoe", lambda c: {}),
    "gemma": ("gemma", lambda c: {}),
    "gemma2": ("gemma2", lambda c: {}),
    "gemma3": ("gemma3_text", lambda c: {}),
    "gpt2": ("gpt2", lambda c: {"feed_forward_length": 4 * c["n_embd"]}),
    "starcoder": (
        "gpt_bigcode",
        lambda c: {"feed_forward_length": 4 * any_of(c, "n_embd", "hidden_size"), "attention.head_count_kv": 1},
    ),
    "starcoder2": ("starcoder2", lambda c: {}),
    "gptneox": ("gpt_neox", lambda c: {**turned(c, c["rotary_pct"]), "use_parallel_residual": True}),
    "falcon": ("falcon", lambda c: {"feed_forward_length": 4 * c["hidden_size"], "tensor_data_layout": "jploski"}),
    "bloom": ("bloom", lambda c: {"feed_forward_length": 4 * any_of(c, "hidden_size", "n_embed")}),
    "mpt": ("mpt", lambda c: {"feed_forward_length": 4 * c["d_model"], "attention.max_alibi_bias": 8.0}),
    "stablelm": ("stablelm", lambda c: turned(c, c["partial_rotary_factor"])),
    "command-r": ("cohere", lambda c: {"logit_scale": 0.0625}),
    "cohere2": ("cohere2", lambda c: {}),
    "olmo": ("olmo", lambda c: {}),
    "olmo2": ("olmo2", lambda c: {}),
    "olmoe": ("olmoe", lambda c: {}),
    "granite": ("granite", lambda c: {}),
    "granitemoe": ("granitemoe", lambda c: {}),
    "deepseek2": ("deepseek_v2", deepseek),
    "deepseek2 (V3)": ("deepseek_v3", deepseek),
    "glm4": ("glm4", lambda c: turned(c, c["partial_rotary_factor"])),
    "gpt-oss": ("gpt_oss", lambda c: {"expert_feed_forward_length": c["intermediate_size"]}),
    "mamba": ("mamba", mamba),
    "mamba2": ("mamba2", mamba),
    "jamba": ("jamba", jamba),
    "bert": ("bert", lambda c: {}),
    "t5": ("t5", t5),
    "ernie4_5": ("ernie4_5", lambda c: {}),
    "exaone4": ("exaone4", lambda c: {}),
    "apertus": ("apertus", lambda c: {}),
}
"""Architecture, the family whose config is converted, and the keys beside or instead of the general ones."""

MARKS = {
    "q_proj.bias": "attn_q.bias",
    "o_proj.bias": "attn_output.bias",
    "query_key_value.bias": "attn_qkv.bias",
    "c_attn.bias": "attn_qkv.bias",
    "q_norm.weight": "attn_q_norm.weight",
    "ln_mlp.weight": "attn_norm_2.weight",
    "router.weight": "ffn_gate_inp.weight",
}


def tensors(model: Any, c: Config) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensors of the file by which a reader can tell one variant from another."""
    D = any_of(c, "hidden_size", "n_embd", "d_model", "n_embed")
    found: dict[str, tuple[tuple[int, ...], str]] = {"token_embd.weight": ((model.vocabulary, D), "fp16")}
    if model.head is not None and model.head.alias_of is None:
        found["output.weight"] = ((model.vocabulary, D), "fp16")
    for t in model.tensors():
        mark = next((ours for theirs, ours in MARKS.items() if t.name.endswith(theirs)), None)
        if mark is not None and t.layer is not None:
            found[f"blk.{t.layer}.{mark}"] = ((8,), "fp32")
        if t.name.endswith("self_attn.q_proj.weight"):
            found[f"blk.{t.layer}.attn_q.weight"] = ((8, 8), "fp16")
        if t.name.endswith(("post_attention_layernorm.weight", "ln_2.weight")):
            found[f"blk.{t.layer}.ffn_norm.weight"] = ((8,), "fp32")
        if t.name.endswith("wi_1.weight") and t.name.startswith("encoder"):
            found["enc.blk.0.ffn_gate.weight"] = ((8, 8), "fp16")
        if t.name.endswith("token_type_embeddings.weight"):
            found["token_types.weight"] = (t.shape, "fp32")
        if "e_score_correction_bias" in t.name:
            found[f"blk.{t.layer}.exp_probs_b.bias"] = ((8,), "fp32")
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_metadata_builds_what_the_config_builds(name: str) -> None:
    family, more = WRITTEN[name]
    c = json.loads((CONFIGS / f"{family}.json").read_text())["config"]
    arch = name.partition(" ")[0]
    wanted = model_from(c, lenient=True, head="none" if ARCHITECTURES[arch].head == "none" else None)
    metadata = {"general.architecture": arch}
    metadata |= {f"{arch}.{k}": v for k, v in {**general(c), **more(c)}.items()}
    content, size = gguf(metadata, tensors(wanted, c))
    raw = described(header(Memory(content, size)))
    found = model_from(raw.config)
    assert sizes(found) == sizes(wanted)
    assert found.dtype == "fp16"
    assert caches(found) == caches(wanted)


def sizes(model: Any) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in model.weights()}


def caches(model: Any) -> Any:
    """Bytes of state for a few and for many tokens, which windows and patterns of layers decide."""
    from tonnage.formats import FORMATS
    from tonnage.memory.cache import state_bytes

    if model.head is None:
        return None
    return [state_bytes(model, 1, n, FORMATS["bf16"]).requested for n in (16, 512)]


def test_at_least_thirty_architectures() -> None:
    assert len({ARCHITECTURES[name.partition(" ")[0]].model_type for name in WRITTEN}) >= 30


def test_every_row_names_a_family() -> None:
    from tonnage.families import ALIASES
    from tonnage.registry import names

    there = {*names("tonnage.families"), *ALIASES}
    assert {row.model_type for row in ARCHITECTURES.values()} <= there


def test_architectures_are_the_package_s() -> None:
    constants = pytest.importorskip("gguf.constants")
    assert set(ARCHITECTURES) <= set(constants.MODEL_ARCH_NAMES.values())


def test_a_published_file() -> None:
    found = described(header(Memory(HEADER, len(HEADER) + 96_576_768)))
    model = model_from(found.config)
    assert model.parameters.total == 134_515_008
    assert model.quantized == "gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "smollm2.gguf"
    path.write_bytes(HEADER)
    with path.open("r+b") as f:
        f.truncate(len(HEADER) + 96_576_768)
    return path


def test_serving_a_file_takes_its_own_bytes(file: Path) -> None:
    result = tn.serve(str(file), context=1024, gpu="8GiB")
    assert sum(c.bytes for c in result.components if c.name == "weights") == 96_576_768
    assert api.load(str(file)).parameters.total == 134_515_008


def test_what_builds_no_model() -> None:
    for metadata, told in (
        ({}, "general.architecture"),
        ({"general.architecture": "clip"}, "no model"),
        ({"general.architecture": "lama"}, "llama"),
    ):
        content, size = gguf(metadata, {})
        with pytest.raises((ConfigError, UnsupportedError), match=told):
            described(header(Memory(content, size)))
    plain = {
        "llama.embedding_length": 8,
        "llama.block_count": 2,
        "llama.attention.head_count": 2,
        "llama.vocab_size": 9,
    }
    for key, value in (
        ("llama.block_count", 2**50),
        ("llama.embedding_length", "x"),
        ("llama.attention.head_count", [1, 2]),
    ):
        content, size = gguf({"general.architecture": "llama", **plain, key: value}, {})
        with pytest.raises((ConfigError, UnsupportedError), match=key):
            described(header(Memory(content, size)))
