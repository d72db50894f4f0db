"""Tables of llama.cpp's names: of architectures, and of tensors by the modules that own them.

References: gguf-py/gguf/constants.py and tensor_mapping.py of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from typing import Final

ARCHITECTURES: Final = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "plain": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_vl": "qwen2vl",
    "qwen2_5_vl": "qwen2vl",
    "qwen3_vl": "qwen3vl",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "phi": "phi2",
    "phi3": "phi3",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "kimi_k2": "deepseek2",
    "gpt_oss": "gpt-oss",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "falcon": "falcon",
    "bloom": "bloom",
    "mpt": "mpt",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
    "cohere": "command-r",
    "cohere2": "cohere2",
    "granite": "granite",
    "smollm3": "smollm3",
    "glm4": "glm4",
    "qwen3_next": "qwen3next",
    "qwen3_5_text": "qwen35",
    "qwen3_5_moe_text": "qwen35moe",
    "gemma4_text": "gemma4",
    "qwen3_vl_moe": "qwen3vlmoe",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "nemotron_h": "nemotron_h",
    "lfm2": "lfm2",
    "exaone4": "exaone4",
    "olmo3": "olmo2",
    "ministral3": "mistral3",
    "minimax_m2": "minimax-m2",
    "kimi_k25": "deepseek2",
    "llama4_text": "llama4",
    "deepseek_v32": "deepseek32",
    "glm_moe_dsa": "glm-dsa",
    "mamba": "mamba",
    "mamba2": "mamba2",
}
"""Our types whose tensors the converter keeps one by one, and its name for them."""

EXPERT_BIASES: Final = ("experts.gate_up_proj_bias", "experts.down_proj_bias")
"""Ends of the names of what stacked experts add (gpt-oss)."""

LEAVES: Final = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "q_a_proj": "attn_q_a",
    "q_b_proj": "attn_q_b",
    "kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "kv_b_proj": "attn_kv_b",
    "qkv_proj": "attn_qkv",
    "query_key_value": "attn_qkv",
    "c_attn": "attn_qkv",
    "Wqkv": "attn_qkv",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "gate_up_proj": "ffn_up",
    "c_fc": "ffn_up",
    "fc1": "ffn_up",
    "fc2": "ffn_down",
    "dense_h_to_4h": "ffn_up",
    "dense_4h_to_h": "ffn_down",
    "shared_expert_gate": "ffn_gate_inp_shexp",
    "w1": "ffn_gate",
    "w3": "ffn_up",
    "w2": "ffn_down",
    "fc1_latent_proj": "ffn_latent_down",
    "fc2_latent_proj": "ffn_latent_up",
    "in_proj_qkv": "attn_qkv",
    "in_proj_z": "attn_gate",
    "in_proj_a": "ssm_alpha",
    "in_proj_b": "ssm_beta",
    "in_proj_ba": "ssm_ba",
    "x_proj": "ssm_x",
    "dt_proj": "ssm_dt",
}
ATTENTION_OUT: Final = ("c_proj", "dense", "out_proj")

OWNED: Final = {
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mixer.norm": "ssm_norm",
    "mixer.in_proj": "ssm_in",
    "mixer.out_proj": "ssm_out",
    "conv.in_proj": "shortconv.in_proj",
    "conv.out_proj": "shortconv.out_proj",
    "indexer.wq_b": "indexer.attn_q_b",
    "indexer.wk": "indexer.attn_k",
    "indexer.weights_proj": "indexer.proj",
}
"""Names that follow from a module and its owner."""

BUFFERS: Final = {"e_score_correction_bias": "exp_probs_b.bias", "layer_scalar": "layer_output_scale.weight"}
"""Buffers of ours that the file holds."""

FULL: Final = ("indexer.proj",)
"""Matrices that the converter keeps in fp32 and that are quantized all the same."""

COUNTED_HEADS: Final = ("lfm2", "nemotron_h", "nemotron_h_moe")
"""Architectures whose files tell heads by layer: the first layer's ratio counts, 0 where it has no attention."""

SEVENTY: Final = ("llama", "qwen2", "olmo")
"""Architectures that llama.cpp calls 70B at 80 layers."""

WHOLE_EXPERTS: Final = ("gemma4",)
"""Architectures whose experts keep gate and up in one tensor."""
