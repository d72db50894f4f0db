"""Attention over what an indexer chose or over compressed entries, and lightning attention: closed form against a live
trace, to the byte.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
import test_experts_in_a_loop as loop
from test_trace_of_sparse_encoders import parts
from tracing_cases import watched

import tonnage as tn
from tonnage.errors import UnsupportedError
from tonnage.estimate.lines import lines
from tonnage.estimate.moments import Moment
from tonnage.estimate.training import Step

ENDS: Final[dict[str, Any]] = {
    "dtype": "float32", "vocab_size": 400, "hidden_size": 96, "max_position_embeddings": 512, "bos_token_id": 0,
    "eos_token_id": 1, "tie_word_embeddings": False, "num_attention_heads": 4,
}  # fmt: skip
V32: Final[dict[str, Any]] = {
    **ENDS, "model_type": "deepseek_v32", "architectures": ["DeepseekV32ForCausalLM"], "num_hidden_layers": 3,
    "intermediate_size": 160, "moe_intermediate_size": 48, "num_key_value_heads": 4, "n_shared_experts": 1,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "kv_lora_rank": 32, "q_lora_rank": 48, "qk_rope_head_dim": 16, "v_head_dim": 32, "qk_nope_head_dim": 32,
    "head_dim": 16, "index_n_heads": 8, "index_head_dim": 32, "index_topk": 24,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}  # fmt: skip
GLM: Final = V32 | {
    "model_type": "glm_moe_dsa", "architectures": ["GlmMoeDsaForCausalLM"], "n_group": 1, "topk_group": 1,
}  # fmt: skip
SHARED: Final = GLM | {
    "num_hidden_layers": 5, "indexer_types": ["full", "full", "shared", "shared", "full"],
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse", "sparse"],
}  # fmt: skip
TEXT: Final[dict[str, Any]] = {
    **ENDS, "model_type": "minimax", "architectures": ["MiniMaxForCausalLM"], "intermediate_size": 64,
    "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
    "block_size": 24, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "router_jitter_noise": 0.001, "pad_token_id": 0,
}  # fmt: skip
M3: Final[dict[str, Any]] = {
    **ENDS, "model_type": "minimax_m3_vl_text", "architectures": ["MiniMaxM3VLForCausalLM"], "num_hidden_layers": 3,
    "intermediate_size": 48, "dense_intermediate_size": 128, "shared_intermediate_size": 56, "num_key_value_heads": 2,
    "head_dim": 16, "rotary_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "index_n_heads": 2,
    "index_head_dim": 24, "index_block_size": 16, "index_topk_blocks": 3, "pad_token_id": 0,
    "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
}  # fmt: skip
V4: Final[dict[str, Any]] = {
    **ENDS, "model_type": "deepseek_v4", "architectures": ["DeepseekV4ForCausalLM"], "num_hidden_layers": 4,
    "moe_intermediate_size": 48, "num_key_value_heads": 1, "head_dim": 32, "q_lora_rank": 40, "qk_rope_head_dim": 8,
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "o_groups": 2, "o_lora_rank": 24,
    "sliding_window": 16, "index_n_heads": 4, "index_head_dim": 16, "index_topk": 6, "hc_mult": 3,
    "hc_sinkhorn_iters": 3, "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"], "pad_token_id": None,
    "layer_types": [
        "sliding_attention", "heavily_compressed_attention", "compressed_sparse_attention",
        "heavily_compressed_attention",
    ],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
}  # fmt: skip
EXPERTS: Final[dict[str, tuple[dict[str, Any], tuple[int, int]]]] = {
    "deepseek_v32": (V32, (8, 2)), "glm_moe_dsa": (GLM, (8, 2)),
    "minimax": (TEXT | {"router_jitter_noise": 0.0}, (4, 2)), "minimax_m3_vl_text": (M3, (4, 2)),
    "deepseek_v4": (V4, (8, 2)),
}  # fmt: skip
"""By family: a config, its experts, and how many a token uses."""
SOME: Final = {"lora_rank": 4, "lora_targets": ["q_a_proj", "kv_proj", "gate_proj", "o_b_proj"]}
LORA: Final = {"lora_rank": 4, "lora_targets": ["all-linear"]}
CASES: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "deepseek": (V32, {}),
    "deepseek, one sequence": (V32, {"batch": 1, "seq": 77}),
    "deepseek, recomputed": (V32, {"recompute": "full"}),
    "deepseek, mixed": (V32, {"precision": "bf16-mixed", "recompute": "full"}),
    "deepseek, autocast": (V32, {"precision": "bf16-autocast"}),
    "deepseek, fp16": (V32, {"precision": "fp16"}),
    "deepseek, eager": (V32, {"attention": "eager"}),
    "deepseek, math": (V32, {"attention": "math"}),
    "deepseek, lora": (V32, LORA),
    "deepseek, lora recomputed": (V32, LORA | {"lora_targets": ["q_b_proj", "o_proj"], "recompute": "full"}),
    "glm": (GLM, {}),
    "glm, shared": (SHARED, {}),
    "glm, shared, recomputed": (SHARED, {"recompute": "full", "attention": "eager"}),
    "glm, reentrant": (GLM, {"recompute": "reentrant"}),
    "glm, shared, reentrant": (SHARED, {"recompute": "reentrant"}),
    "glm, shared, autocast": (SHARED, {"precision": "bf16-autocast"}),
    "glm, shared, lora": (SHARED, LORA | {"recompute": "full"}),
    "minimax": (TEXT, {}),
    "minimax, one sequence": (TEXT, {"batch": 1, "router_jitter_noise": 0.0}),
    "minimax, one block": (TEXT, {"seq": 16, "precision": "fp32"}),
    "minimax, one head": (TEXT, {"num_attention_heads": 1, "num_key_value_heads": 1, "seq": 48}),
    "minimax, mixed": (TEXT, {"precision": "bf16-mixed", "recompute": "full"}),
    "minimax, autocast": (TEXT, {"precision": "bf16-autocast"}),
    "minimax, eager": (TEXT, {"attention": "eager", "seq": 70}),
    "minimax, lora": (TEXT, LORA | {"precision": "bf16-mixed"}),
    "minimax m3": (M3, {}),
    "minimax m3, one sequence": (M3, {"batch": 1, "seq": 70}),
    "minimax m3, no near blocks": (M3, {"index_local_blocks": 0, "seq": 16, "precision": "fp32"}),
    "minimax m3, mixed": (M3, {"precision": "bf16-mixed", "recompute": "full"}),
    "minimax m3, autocast": (M3, {"precision": "bf16-autocast"}),
    "minimax m3, eager": (M3, {"attention": "eager", "seq": 70}),
    "minimax m3, lora": (M3, LORA),
    "minimax m3, lora recomputed": (M3, LORA | {"recompute": "full"}),
    "deepseek v4": (V4, {"seq": 70}),
    "deepseek v4, one sequence": (V4, {"batch": 1, "o_groups": 1, "hc_sinkhorn_iters": 1}),
    "deepseek v4, fewer tokens than an entry has": (V4, {"seq": 12, "precision": "fp32"}),
    "deepseek v4, recomputed": (V4, {"recompute": "full"}),
    "deepseek v4, mixed": (V4, {"precision": "bf16-mixed"}),
    "deepseek v4, autocast": (V4, {"precision": "bf16-autocast"}),
    "deepseek v4, fp16": (V4, {"precision": "fp16-autocast"}),
    "deepseek v4, lora": (V4, SOME),
    "deepseek v4, lora recomputed": (V4, SOME | {"recompute": "full", "precision": "bf16-mixed"}),
}
"""By name: a config, and keys of the workload or of the config that differ."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_every_part_of_a_step_is_what_the_code_does(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, asked = CASES[case]
    if "lora_rank" in asked:
        pytest.importorskip("peft")
    of_config = {key: value for key, value in asked.items() if key in config or key.startswith("index_")}
    said = {"precision": "bf16", "batch": 2, "seq": 64} | {k: v for k, v in asked.items() if k not in of_config}
    most, got = parts({**config, **of_config}, said, monkeypatch)
    # What the code of a mask makes for a moment is left out.
    assert most.pop("forward embedding") <= got.pop("forward embedding")
    # Of a part that ends where the next begins a trace has no name of its own.
    assert {name: most[name] for name in got} == got


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("config", [V32, SHARED, TEXT, M3, V4], ids=lambda c: c["model_type"])
def test_lines_add_up_at_every_moment(config: dict[str, Any], recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def see(step: Step, m: Moment) -> None:
        assert sum(c.bytes for c in lines(m, step.held.values(), {}) if c.tier == "requested") == m.level.requested
        seen.append(m.name)

    watched(monkeypatch, see)
    tn.train({"config": config}, suggest=False, replay=False, batch=2, seq=64, recompute=recompute)
    assert "backward embedding" in seen


@pytest.mark.filterwarnings("ignore")
def test_what_is_refused_of_deepseek_v4_fails_with_data_as_well() -> None:
    """Its compressors stay in fp32 beside fp16; adapters of the grouped output are as wide as all groups together."""
    torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    config = transformers.AutoConfig.for_model(**V4)
    ids = torch.randint(2, 399, (1, 32))

    def loss(model: Any) -> Any:
        return model.train()(input_ids=ids, labels=ids, use_cache=False).loss

    made = transformers.AutoModelForCausalLM.from_config
    whole = made(config, attn_implementation="eager", dtype=torch.float16)
    for name, weight in whole.named_parameters():
        if any(part in name for part in (*whole._keep_in_fp32_modules, *whole._keep_in_fp32_modules_strict)):
            weight.data = weight.data.float()
    with pytest.raises(RuntimeError, match="same dtype"):
        loss(whole)
    with pytest.raises(UnsupportedError, match="multiplies no fp16"):
        tn.train({"config": V4}, precision="fp16")
    for targets, fits in (("all-linear", False), (SOME["lora_targets"], True)):
        how = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(made(config, attn_implementation="eager"), how)
        if fits:
            assert loss(adapted).item() > 0
            continue
        with pytest.raises(RuntimeError, match="size of tensor"):
            loss(adapted)
        with pytest.raises(UnsupportedError, match="o_a_proj"):
            tn.train({"config": V4}, lora_rank=4, lora_targets=targets)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
@pytest.mark.parametrize("family", EXPERTS)
def test_experts_one_after_the_other(family: str, implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real CPU, with a router that is told to choose evenly."""
    config, experts = EXPERTS[family]
    monkeypatch.setitem(loop.CONFIGS, family, config)
    monkeypatch.setitem(loop.FAMILIES, family, experts)
    said = {**loop.EAGER, **loop.SHAPES[0]} | ({"experts": "eager"} if implementation == "eager" else {})
    real = loop.measured(family, said, "even", implementation)
    found, _ = loop.predicted(config, said, monkeypatch)
    assert real in found
