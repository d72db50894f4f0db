"""Target modules when none are named, as peft 0.21.2 chooses them by the type of the model.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/utils/constants.py
"""

from __future__ import annotations

from typing import Final

GEMMA4: Final = r".*language_model\..*\.(q_proj|v_proj)"
"""A pattern that leaves the towers, whose matrices stand in modules that peft does not adapt."""

PAIRED: Final = ("llama4", "llama4_text")
"""Types whose router is a linear module that hands back two tensors, which peft's layer around it does not take."""

LORA: Final[dict[str, tuple[str, ...]]] = {
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
    "gemma4": (GEMMA4,),
    "mpt": ("Wqkv",),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "rwkv": ("key", "value", "receptance", "output"),
}  # fmt: skip
"""TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING."""

VBLORA: Final[dict[str, tuple[str, ...]]] = {
    **{
        kind: LORA[kind]
        for kind in (
            "bloom", "gpt2", "gpt_bigcode", "gptj", "gpt_neox", "gpt_neo", "llama", "llama4", "bert", "roberta",
            "deberta", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "nemotron_h",
        )
    },
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "gemma4": (GEMMA4,),
}  # fmt: skip
"""TRANSFORMERS_MODELS_TO_VBLORA_TARGET_MODULES_MAPPING."""

FOURIER: Final = {**LORA, **dict.fromkeys(("gpt2", "gpt_bigcode"), ("mlp.c_proj",))}
"""TRANSFORMERS_MODELS_TO_FOURIERFT_TARGET_MODULES_MAPPING, and C3A's."""

WAVE: Final = {kind: names for kind, names in FOURIER.items() if kind != "rwkv"}
"""TRANSFORMERS_MODELS_TO_WAVEFT_TARGET_MODULES_MAPPING."""

OSF: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "phi"),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj"),
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn", "c_proj")),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon"), ("query_key_value", "dense_4h_to_h")),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "gptj": ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"),
}
"""TRANSFORMERS_MODELS_TO_OSF_TARGET_MODULES_MAPPING."""

BEFT: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("opt", "gptj", "gpt_neo", "bart", "llama", "llama4", "mistral", "mixtral", "phi", "gemma", "gemma2",
         "gemma3_text", "qwen2", "qwen3"),
        ("v_proj",),
    ),
    **dict.fromkeys(("t5", "mt5"), ("v",)),
    **dict.fromkeys(("roberta", "bert"), ("value",)),
    "deberta-v2": ("value_proj",),
}  # fmt: skip
"""TRANSFORMERS_MODELS_TO_BEFT_TARGET_MODULES_MAPPING."""

ADALORA: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3_text", "gpt_neo", "gptj", "llama", "llama4", "qwen2", "qwen3"),
        ("q_proj", "v_proj"),
    ),
    **dict.fromkeys(("bart", "opt"), ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")),
    **dict.fromkeys(("bloom", "gpt_neox"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "bert": ("query", "value"),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "key_proj", "value_proj", "dense"),
    "gemma4": (GEMMA4,),
    "mt5": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "roberta": ("query", "key", "value", "dense"),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
}  # fmt: skip
"""TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING."""

IA3: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    **dict.fromkeys(("llama", "mistral"), (("k_proj", "v_proj", "down_proj"), ("down_proj",))),
    **dict.fromkeys(
        ("gemma", "gemma2", "gemma3_text", "llama4", "qwen2", "qwen3"),
        (("q_proj", "v_proj", "down_proj"), ("down_proj",)),
    ),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), (("c_attn", "mlp.c_proj"), ("mlp.c_proj",))),
    **dict.fromkeys(("bert", "roberta"), (("key", "value", "output.dense"), ("output.dense",))),
    **dict.fromkeys(("falcon", "gpt_neox"), (("query_key_value", "dense_4h_to_h"), ("dense_4h_to_h",))),
    "bart": (("q_proj", "v_proj", "fc2"), ("fc2",)),
    "bloom": (("query_key_value", "mlp.dense_4h_to_h"), ("mlp.dense_4h_to_h",)),
    "deberta": (("in_proj", "output.dense"), ("output.dense",)),
    "deberta-v2": (("key_proj", "value_proj", "output.dense"), ("output.dense",)),
    "gpt_neo": (("q_proj", "v_proj", "c_proj"), ("c_proj",)),
    "gptj": (("q_proj", "v_proj", "fc_out"), ("fc_out",)),
    "mixtral": (("k_proj", "v_proj", "w2"), ("w2",)),
    "mt5": (("k", "v", "wi_1"), ()),
    "opt": (("q_proj", "k_proj", "fc2"), ("fc2",)),
    "phi": (("q_proj", "v_proj", "fc2"), ("fc2",)),
    "t5": (("k", "v", "wo"), ("wo",)),
}
"""TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING, and of these those whose input is scaled (..._FEEDFORWARD_...)."""

_MIXTRAL: Final = {"gate": "gate", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_QWEN: Final = {"gate": "gate", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}
STACKED: Final[dict[str, dict[str, str]]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), _MIXTRAL),
    **dict.fromkeys(
        ("afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
         "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe",
         "longcat_flash", "mellum", "olmoe", "qwen3_moe", "qwen3_next", "solar_open"),
        _QWEN,
    ),
}  # fmt: skip
"""Types whose experts transformers 5 stacks: which parameter a module of release 4 has become, the router's too.

_MOE_TARGET_MODULE_MAPPING of utils/transformers_weight_conversion.py, for the types that transformers 5.23.0 maps.
"""

NORMS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("llama", "mistral", "gemma"), ("input_layernorm", "post_attention_layernorm", "norm")),
    **dict.fromkeys(("bloom", "falcon"), ("input_layernorm", "post_attention_layernorm", "ln_f")),
    **dict.fromkeys(
        ("gemma2", "gemma3_text"),
        (
            "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
            "norm",
        ),
    ),
    **dict.fromkeys(("qwen2", "qwen3"), ("post_attention_layernorm",)),
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    **dict.fromkeys(("mt5", "t5"), ("layer_norm", "final_layer_norm")),
    "phi": ("input_layernorm", "final_layernorm"),
}  # fmt: skip
"""TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING."""
