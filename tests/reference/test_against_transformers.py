"""Every family against the class that transformers builds: names, shapes and sharing of every parameter and buffer.

Each config is built on the meta device (nothing is allocated) and compared as a whole mapping: transformers' default
config, a released one from ``tests/families/data``, and perturbed small ones from the table below. Models are cut to a
few layers; widths stay.

Needs torch and transformers, and skips without them.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tonnage.arch.model import Model
from tonnage.families import model_from
from tonnage.registry import names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DATA = Path(__file__).parent.parent / "families" / "data"
PERTURBATIONS = 3
LAYERS = 4

DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_layers")
"""Keys that tell how many layers there are."""

NOT_IN_TRANSFORMERS = {"plain"}
"""Families of our own: dimensions alone."""

SHALLOW: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
}
"""What else has to change when a model is cut to four layers."""

Table = dict[str | tuple[str, ...], tuple[Any, ...]]

FLAGS = (True, False)
LLAMA: Table = {
    "hidden_size": (96, 192),
    "intermediate_size": (64, 160),
    "num_hidden_layers": (1, 2, 3),
    "num_attention_heads": (6, 12),
    "num_key_value_heads": (1, 2, 3, 6),
    "vocab_size": (96, 101),
    "tie_word_embeddings": FLAGS,
}
GPT2: Table = {
    "n_embd": (96, 192),
    "n_layer": (1, 2, 3),
    "n_head": (6, 12),
    "n_inner": (None, 64, 160),
    "n_positions": (32, 77),
    "vocab_size": (96, 101),
    "tie_word_embeddings": FLAGS,
}
EXPERTS: Table = {"num_experts": (4, 6), "num_experts_per_tok": (1, 2), "moe_intermediate_size": (32, 48)}


def without(table: Table, *keys: str) -> Table:
    return {k: v for k, v in table.items() if k not in keys}


LATENT: Table = {
    **without(LLAMA, "num_attention_heads", "num_key_value_heads"),
    ("num_attention_heads", "num_key_value_heads"): ((6, 6), (12, 12)),
    "num_hidden_layers": (2, 3),
    "q_lora_rank": (None, 24, 48),
    "kv_lora_rank": (16, 40),
    "qk_rope_head_dim": (8, 16),
    "qk_nope_head_dim": (12, 24),
    "v_head_dim": (12, 20),
    "n_routed_experts": (4, 8),
    "n_shared_experts": (1, 2),
    "num_experts_per_tok": (2, 3),
    "moe_intermediate_size": (32, 48),
    "first_k_dense_replace": (0, 1, 2),
    "n_group": (1, 2),
    "topk_group": (1,),
}


MHA = without(LLAMA, "num_key_value_heads")

PERTURBED: dict[str, Table] = {
    "bert": {**MHA, "max_position_embeddings": (32, 77), "type_vocab_size": (1, 2, 3)},
    "bloom": {
        "hidden_size": (96, 192),
        "n_layer": (1, 2, 3),
        "n_head": (6, 12),
        "vocab_size": (96, 101),
        "tie_word_embeddings": FLAGS,
    },
    "cohere": {**LLAMA, "attention_bias": FLAGS, "use_qk_norm": FLAGS},
    "cohere2": {**LLAMA, "attention_bias": FLAGS, "head_dim": (16, 24), "sliding_window": (8, 16)},
    "deepseek_v2": {**LATENT, "attention_bias": FLAGS},
    "deepseek_v3": {**LATENT, "attention_bias": FLAGS},
    "falcon": {
        **without(MHA, "intermediate_size"),
        "ffn_hidden_size": (64, 160),
        "num_kv_heads": (1, 2, 3, 6),
        "new_decoder_architecture": FLAGS,
        "multi_query": FLAGS,
        "bias": FLAGS,
        "alibi": FLAGS,
        "num_ln_in_parallel_attn": (None, 1, 2),
    },
    "gemma": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS},
    "gemma2": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS},
    "gemma3_text": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS},
    "glm4": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS, "pad_token_id": (0,)},
    "gpt2": GPT2,
    "gpt_neo": {
        "hidden_size": (96, 192),
        "num_layers": (4,),
        "num_heads": (6, 12),
        "intermediate_size": (None, 64),
        "max_position_embeddings": (32, 77),
        "vocab_size": (96, 101),
        "attention_types": ([[["global", "local"], 2]], [[["global"], 4]], [[["local"], 1], [["global"], 3]]),
        "tie_word_embeddings": FLAGS,
    },
    "gpt_neox": {
        **MHA,
        "attention_bias": FLAGS,
        "use_parallel_residual": FLAGS,
        "rotary_pct": (0.25, 0.5, 1.0),
    },
    "gpt_oss": {
        **LLAMA,
        "head_dim": (16, 24),
        "num_local_experts": (4, 6),
        "num_experts_per_tok": (1, 2),
        "attention_bias": FLAGS,
    },
    "gptj": {**GPT2, "rotary_dim": (4, 8)},
    "granite": {**LLAMA, "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "jamba": {
        **LLAMA,
        "num_hidden_layers": (4, 5),
        "attn_layer_period": (2, 4),
        "attn_layer_offset": (0, 1),
        "expert_layer_period": (2, 3),
        "expert_layer_offset": (0, 1),
        "num_experts": (2, 4),
        "mamba_d_state": (8, 16),
        "mamba_expand": (1, 2),
        "mamba_dt_rank": ("auto", 5),
        "mamba_conv_bias": FLAGS,
        "mamba_proj_bias": FLAGS,
    },
    "llama": {**LLAMA, "head_dim": (None, 24), "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "mamba": {
        "hidden_size": (96, 192),
        "num_hidden_layers": (1, 2, 3),
        "vocab_size": (96, 101),
        "state_size": (8, 16),
        "expand": (1, 2),
        "conv_kernel": (3, 4),
        "use_bias": FLAGS,
        "use_conv_bias": FLAGS,
        "time_step_rank": ("auto", 5),
        "tie_word_embeddings": FLAGS,
    },
    "mamba2": {
        ("hidden_size", "expand", "num_heads", "head_dim"): ((96, 2, 12, 16), (96, 2, 6, 32), (64, 4, 16, 16)),
        "num_hidden_layers": (1, 2, 3),
        "vocab_size": (96, 101),
        "state_size": (8, 16),
        "n_groups": (1, 2),
        "conv_kernel": (3, 4),
        "use_bias": FLAGS,
        "use_conv_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "mistral": {**LLAMA, "head_dim": (None, 24), "sliding_window": (None, 8)},
    "mixtral": {**LLAMA, "num_local_experts": (2, 4), "num_experts_per_tok": (1, 2), "head_dim": (None, 24)},
    "mpt": {
        "d_model": (96, 192),
        "n_layers": (1, 2, 3),
        "n_heads": (6, 12),
        "vocab_size": (96, 101),
        "expansion_ratio": (2, 4),
        "max_seq_len": (32, 77),
        "tie_word_embeddings": FLAGS,
    },
    "olmo": {**LLAMA, "attention_bias": FLAGS, "clip_qkv": (None, 8.0)},
    "olmo2": {**LLAMA, "attention_bias": FLAGS},
    "olmoe": {**LLAMA, "num_experts": (4, 6), "num_experts_per_tok": (1, 2), "attention_bias": FLAGS},
    "opt": {
        **without(MHA, "intermediate_size"),
        "ffn_dim": (64, 160),
        "max_position_embeddings": (32, 77),
        "word_embed_proj_dim": (None, 48, 96),
        "do_layer_norm_before": FLAGS,
        "enable_bias": FLAGS,
        "layer_norm_elementwise_affine": FLAGS,
        "_remove_final_layer_norm": FLAGS,
    },
    "phi": {**LLAMA, "qk_layernorm": FLAGS, "partial_rotary_factor": (0.25, 0.5, 1.0)},
    "phi3": {**LLAMA, "pad_token_id": (0,), "sliding_window": (None, 8)},
    "qwen2": {**LLAMA, "use_sliding_window": FLAGS, "max_window_layers": (1, 2)},
    "qwen2_moe": {
        **LLAMA,
        **EXPERTS,
        "shared_expert_intermediate_size": (32, 48),
        "decoder_sparse_step": (1, 2),
        "mlp_only_layers": ([], [0]),
    },
    "qwen3": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS},
    "qwen3_moe": {
        **LLAMA,
        **EXPERTS,
        "head_dim": (16, 24),
        "decoder_sparse_step": (1, 2),
        "mlp_only_layers": ([], [0]),
        "attention_bias": FLAGS,
    },
    "smollm3": {**LLAMA, "attention_bias": FLAGS, "mlp_bias": FLAGS, "pad_token_id": (0,)},
    "stablelm": {
        **LLAMA,
        "use_qkv_bias": FLAGS,
        "qk_layernorm": FLAGS,
        "use_parallel_residual": FLAGS,
        "partial_rotary_factor": (0.25, 0.5, 1.0),
    },
    "starcoder2": {**LLAMA, "use_bias": FLAGS, "sliding_window": (None, 8)},
    "t5": {
        "d_model": (96, 192),
        "d_ff": (64, 160),
        "d_kv": (8, 24),
        "num_layers": (1, 2, 3),
        "num_decoder_layers": (None, 1, 2),
        "num_heads": (3, 6),
        "vocab_size": (96, 101),
        "relative_attention_num_buckets": (8, 32),
        "feed_forward_proj": ("relu", "gated-gelu", "gated-silu"),
    },
}
"""For each family the keys that are perturbed and the values they are drawn from; any combination is a valid config.

Keys whose values depend on each other are drawn together.
"""

FAMILIES = [name for name in names("tonnage.families") if name not in NOT_IN_TRANSFORMERS]


def cut(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with a few layers."""
    depths = {k: config[k] for k in DEPTHS if isinstance(config.get(k), int)}
    config = {k: min(v, LAYERS) if k in depths else v for k, v in config.items()}
    for key, value in config.items():
        if isinstance(value, list) and len(value) in depths.values() and len(value) > LAYERS:
            config[key] = value[:LAYERS]
    return {**config, **SHALLOW.get(config["model_type"], {})}


def built(config: dict[str, Any]) -> Any:
    """transformers' model of a config, on the meta device."""
    kept = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version", "architectures")}
    reference = transformers.AutoConfig.for_model(config["model_type"], **kept)
    kind = {"bert": "MaskedLM", "t5": "Seq2SeqLM"}.get(config["model_type"], "CausalLM")
    with torch.device("meta"):
        return getattr(transformers, f"AutoModelFor{kind}").from_config(reference)


def reference_parameters(model: Any) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    """Names to shapes, and which names share one tensor."""
    shapes, shared = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = tuple(parameter.shape)
        shared.setdefault(id(parameter), set()).add(name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def own_parameters(model: Model) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    shapes: dict[str, tuple[int, ...]] = {}
    shared: dict[str, set[str]] = {}
    for t in model.weights():
        assert t.name not in shapes, f"{t.name} stands twice"
        shapes[t.name] = t.shape
        shared.setdefault(t.alias_of or t.name, {t.alias_of or t.name}).add(t.name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def check(config: dict[str, Any], reference: Any) -> None:
    model = model_from(config)
    shapes, shared = own_parameters(model)
    expected_shapes, expected_shared = reference_parameters(reference)
    assert shapes == expected_shapes
    assert shared == expected_shared
    assert model.parameters.total == sum(p.numel() for p in reference.parameters())
    expected_buffers = {name: tuple(b.shape) for name, b in reference.named_buffers()}
    assert {t.name: t.shape for t in model.buffers()} == expected_buffers


def drawn(family: str, seed: int) -> dict[str, Any]:
    """One config of the table; the same for the same seed."""
    rng = random.Random(f"{family} {seed}")
    chosen: dict[str, Any] = {"model_type": family}
    for key, values in PERTURBED[family].items():
        value = rng.choice(values)
        chosen.update({key: value} if isinstance(key, str) else zip(key, value, strict=True))
    return chosen


def test_every_family_is_perturbed():
    assert set(FAMILIES) == set(PERTURBED)


@pytest.mark.parametrize("family", FAMILIES)
def test_default_config(family):
    config = cut(transformers.AutoConfig.for_model(family).to_dict())
    check(config, built(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_released_config(family):
    data = json.loads((DATA / f"{family}.json").read_text())
    config = cut(data["config"])
    reference = config
    if family == "t5":
        # The class ties whatever the config says; a checkpoint with a head of its own keeps it when it is loaded.
        config = {**config, "tie_word_embeddings": True}
    check(config, built(reference))


@pytest.mark.parametrize("seed", range(PERTURBATIONS))
@pytest.mark.parametrize("family", FAMILIES)
def test_perturbed_config(family, seed):
    config = drawn(family, seed)
    reference = built(config)
    check(config, reference)
    # As transformers writes it back, with every default spelt out.
    check({**reference.config.to_dict(), "architectures": None}, reference)
