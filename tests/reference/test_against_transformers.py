"""Every family against the class that transformers builds: names, shapes and sharing of every parameter and buffer.

Each config is built on the meta device (nothing is allocated) and compared as a whole mapping: transformers' default
config, a released one from ``tests/families/data``, and perturbed small ones from the table below. Models are cut to a
few layers; widths stay.

Needs torch and transformers, and skips without them.
"""

from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from audiovisual import AUDIOVISUAL, LACKING
from composites import COMPOSITES, NEEDED, TIMM
from speech import SPEAKERS, SPEECH, STATED

from tonnage.arch.model import Model
from tonnage.families import model_from
from tonnage.families._aliases import ALIASES
from tonnage.registry import names

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# The auto class looks for Evolla's config under an older name of its type, and does not find it.
transformers.AutoModelForMultimodalLM._model_mapping._reverse_config_mapping["EvollaConfig"] = "evolla"

DATA = Path(__file__).parent.parent / "families" / "data"
PERTURBATIONS = 3
LAYERS = 4

DEPTHS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "depth",
)
"""Keys that tell how many layers there are."""

NOT_IN_TRANSFORMERS = {"plain"}
"""Families of our own: dimensions alone."""

SHALLOW: dict[str, dict[str, Any]] = {
    "esm": {"vocab_size": 33},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"per_layer_config": {"3": {"head_dim": 512}}},
    "gemma4_unified_text": {"per_layer_config": {"3": {"head_dim": 512}}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "zamba": {"num_hidden_layers": 5, "layers_block_type": ["linear_attention", *["hybrid", "linear_attention"] * 2]},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "funnel": {"num_decoder_layers": 2},
    "hrm_text": {"num_layers_per_stack": 2},
    "neomme": {"layer_types": ["sliding_attention"] * 3 + ["full_attention"], "per_layer_config": {}},
    "dots3_note_text": {
        "per_layer_config": {
            i: {"kv_lora_rank": 1024, "num_attention_heads": 64, "num_key_value_heads": 64, "qk_nope_head_dim": 192}
            for i in "23"
        }
    },
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

DELTA: Table = {
    "linear_num_key_heads": (2, 4),
    "linear_num_value_heads": (4, 8),
    "linear_key_head_dim": (8, 12),
    "linear_value_head_dim": (8, 16),
    "linear_conv_kernel_dim": (3, 4),
    "layer_types": (None,),
}

BERT: Table = {**MHA, "max_position_embeddings": (32, 77), "type_vocab_size": (1, 2, 3)}
NARROW: Table = {**BERT, "embedding_size": (48, 96, 192)}
BART: Table = {
    "d_model": (96, 192),
    "encoder_layers": (1, 2),
    "decoder_layers": (1, 2, 3),
    "encoder_attention_heads": (6, 12),
    "decoder_attention_heads": (3, 6),
    "encoder_ffn_dim": (64, 160),
    "decoder_ffn_dim": (64, 160),
    "vocab_size": (96, 101),
    "max_position_embeddings": (32, 77),
    "pad_token_id": (0, 1),
    "tie_word_embeddings": FLAGS,
}

KIMI: Table = {
    **without(LATENT, "q_lora_rank", "n_routed_experts", "n_group", "topk_group", "num_hidden_layers"),
    "num_hidden_layers": (5,),
    "num_local_experts": (4, 8),
    "attention_bias": FLAGS,
    "pad_token_id": (0,),
}

MAMBA2: Table = {
    ("mamba_n_heads", "mamba_d_head", "mamba_expand"): ((12, "auto", 2), (6, "auto", 1), (24, "auto", 4)),
    "mamba_d_state": (8, 16),
    "mamba_d_conv": (3, 4),
    "mamba_n_groups": (1, 2),
    "mamba_conv_bias": FLAGS,
    "mamba_proj_bias": FLAGS,
}

GEMMA4: Table = {
    "num_hidden_layers": (2, 7, 12),
    "num_kv_shared_layers": (0,),
    "head_dim": (16, 24),
    "global_head_dim": (32, 48),
    "num_global_key_value_heads": (None, 1),
    "attention_k_eq_v": FLAGS,
    "use_double_wide_mlp": FLAGS,
    "attention_bias": FLAGS,
    ("num_hidden_layers", "num_kv_shared_layers"): ((2, 0), (7, 0), (12, 6), (14, 2)),
}

TEXT: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 101,
}
"""The language model inside of a config that holds more than that."""

MLA = without(
    LATENT,
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "n_group",
    "topk_group",
)
HELIUM: Table = {("hidden_size", "num_attention_heads", "head_dim"): ((96, 6, 16), (192, 6, 32), (96, 12, 8))}

LOCAL: Table = {"num_local_experts": (4, 6), "num_experts_per_tok": (1, 2)}
ROUTED: Table = {
    "n_routed_experts": (4, 8),
    "n_shared_experts": (1, 2),
    "num_experts_per_tok": (1, 2),
    "moe_intermediate_size": (32, 48),
    "first_k_dense_replace": (0, 1),
}
SPARSE: Table = {
    "num_hidden_layers": (3,),
    "mlp_layer_types": (None, ["dense", "sparse", "sparse"], ["sparse"] * 3, ["sparse", "dense", "sparse"]),
}
INDEXED: Table = {"q_lora_rank": (24, 48), "index_n_heads": (2, 3), "index_head_dim": (16, 24)}
WINDOWED = {"head_dim": 32, "qk_nope_head_dim": 24}
DOTS: Table = {
    "hidden_size": (96,),
    "vocab_size": (96, 101),
    "pad_token_id": (0,),
    "intermediate_size": (64, 160),
    "moe_intermediate_size": (32, 48),
    "shared_experts_intermediate_size": (24, 40),
    "num_hidden_layers": (4,),
    "num_attention_heads": (4,),
    "num_key_value_heads": (4,),
    "q_lora_rank": (24, 48),
    "kv_lora_rank": (16, 40),
    "head_dim": (32,),
    "qk_rope_head_dim": (8,),
    "qk_nope_head_dim": (12, 24),
    "v_head_dim": (12, 20),
    "n_routed_experts": (4, 8),
    "num_experts_per_tok": (1, 2),
    "index_n_heads": (2, 3),
    "index_head_dim": (16, 24),
    "attention_bias": FLAGS,
    "per_layer_config": (
        {i: {"kv_lora_rank": 20, **WINDOWED, "num_attention_heads": 2, "num_key_value_heads": 2} for i in "23"},
        {**{i: {"v_head_dim": 8} for i in "01"}, **{i: {"q_lora_rank": 12, **WINDOWED} for i in "23"}},
    ),
}
INKLING: Table = {
    "hidden_size": (96, 192),
    "vocab_size": (96, 101),
    "unpadded_vocab_size": (90,),
    "num_attention_heads": (6, 12),
    "num_key_value_heads": (1, 2),
    "head_dim": (16, 24),
    "swa_num_attention_heads": (4, 8),
    "swa_num_key_value_heads": (2, 4),
    "swa_head_dim": (8, 16),
    "sliding_window_size": (8, 16),
    "d_rel": (4, 6),
    "rel_extent": (12, 20),
    "conv_kernel_size": (2, 4),
    "moe_intermediate_size": (32, 48),
    "n_routed_experts": (4, 6),
    "num_experts_per_tok": (1, 2),
    "layer_types": (None, ["hybrid", "hybrid_sliding", "hybrid"]),
}
T5: Table = {
    "d_model": (96, 192),
    "d_ff": (64, 160),
    "d_kv": (8, 24),
    "num_layers": (1, 2, 3),
    "num_decoder_layers": (None, 1, 2),
    "num_heads": (3, 6),
    "vocab_size": (96, 101),
    "relative_attention_num_buckets": (8, 32),
    "feed_forward_proj": ("relu", "gated-gelu", "gated-silu"),
}
MODERN_BERT: Table = {
    **MHA,
    "norm_bias": FLAGS,
    "attention_bias": FLAGS,
    "mlp_bias": FLAGS,
    "decoder_bias": FLAGS,
    "classifier_bias": FLAGS,
    "local_attention": (8, 16),
    "pad_token_id": (0,),
}
TEXT_PARTS = (
    {"hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
     "num_key_value_heads": 2, "vocab_size": 96, "pad_token_id": 0},
    {"hidden_size": 192, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 12,
     "num_key_value_heads": 6, "vocab_size": 101, "pad_token_id": 1, "tie_word_embeddings": True},
)  # fmt: skip
VISION_PARTS = (
    {"hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
     "patch_size": 8, "num_channels": 3},
    {"hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 48,
     "patch_size": 16, "num_channels": 1},
)  # fmt: skip

PAIRED: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 101,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
READS: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True}
"""A decoder that attends to an encoder."""
ENCODERS = tuple({k: v for k, v in text.items() if k != "num_key_value_heads"} for text in TEXT_PARTS)
SEAMLESS: Table = {
    **without(BART, "d_model", "pad_token_id"),
    "hidden_size": (96, 192),
    "speech_encoder_layers": (1, 2),
    "speech_encoder_attention_heads": (6, 12),
    "speech_encoder_intermediate_size": (64, 80),
    "feature_projection_input_dim": (20, 24),
    "conv_depthwise_kernel_size": (5, 7),
    "add_adapter": FLAGS,
    "num_adapter_layers": (1, 2),
    "t2u_encoder_layers": (1, 2),
    "t2u_decoder_layers": (1, 2),
    "t2u_encoder_ffn_dim": (64, 80),
    "t2u_decoder_ffn_dim": (48, 80),
    "t2u_vocab_size": (50, 60),
    "unit_embed_dim": (24, 40),
    "upsample_initial_channel": (32, 64),
    ("upsample_rates", "upsample_kernel_sizes"): (([5, 4], [11, 8]), ([5, 4, 2], [11, 8, 4])),
}

PERTURBED: dict[str, Table] = {
    "apertus": {**LLAMA, "attention_bias": FLAGS, "hidden_act": ("xielu", "relu2")},
    "arcee": {**LLAMA, "head_dim": (None, 24), "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "aria_text": {
        **LLAMA,
        "head_dim": (None, 24),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "moe_num_experts": (4, 6),
        "moe_topk": (1, 2),
        "moe_num_shared_experts": (1, 2),
    },
    "biogpt": {**MHA, "max_position_embeddings": (32, 77)},
    "bitnet": {**LLAMA, "attention_bias": FLAGS},
    "codegen": {**GPT2, "n_head": (4, 12), "rotary_dim": (4, 8)},
    "cpmant": {
        "hidden_size": (96, 192),
        "num_hidden_layers": (1, 2, 3),
        "num_attention_heads": (6, 12),
        "dim_head": (8, 24),
        "dim_ff": (64, 160),
        "vocab_size": (96, 101),
        "position_bias_num_buckets": (8, 32),
        "prompt_types": (2, 3),
        "prompt_length": (4, 5),
        "segment_types": (2, 5),
        "tie_word_embeddings": FLAGS,
    },
    "ctrl": {**without(GPT2, "n_inner"), "dff": (64, 160)},
    "cwm": {**LLAMA, "head_dim": (16, 24), "mlp_bias": FLAGS, "sliding_window": (8, 16)},
    "diffllama": {
        **without(LLAMA, "num_key_value_heads"),
        "num_key_value_heads": (None, 2, 6),
        "head_dim": (None, 24),
        "attention_bias": FLAGS,
    },
    "doge": {
        **LLAMA,
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "is_moe": FLAGS,
        "num_experts": (64, 70),
        "num_experts_per_tok": (2, 8),
        "sliding_window": (None, 8),
    },
    "ernie4_5": {**LLAMA, "head_dim": (None, 24), "use_bias": FLAGS},
    "exaone4": {**LLAMA, "num_hidden_layers": (3, 4, 5), "sliding_window": (8, 16), "sliding_window_pattern": (2, 3)},
    "fuyu": {
        "patch_size": (6, 10),
        "num_channels": (1, 3),
        "tie_word_embeddings": FLAGS,
        "text_config": tuple(
            {
                "model_type": "persimmon",
                "hidden_size": width,
                "intermediate_size": 160,
                "num_hidden_layers": layers,
                "num_attention_heads": 6,
                "vocab_size": 101,
                "qk_layernorm": normed,
            }
            for width, layers, normed in ((96, 2, True), (192, 1, False))
        ),
    },
    "glm": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS, "pad_token_id": (0,)},
    "gpt-sw3": GPT2,
    "gpt_bigcode": {**GPT2, "multi_query": FLAGS},
    "gpt_neox_japanese": {
        **without(MHA, "intermediate_size"),
        "intermediate_multiple_size": (2, 4),
        "rotary_pct": (0.5, 1.0),
    },
    "granite_swa": {
        **without(LLAMA, "num_hidden_layers"),
        ("num_hidden_layers", "layer_rope_theta"): ((2, None), (3, [0, 1000, 500.0]), (2, [10, 10])),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "helium": {
        **without(LLAMA, "hidden_size", "num_attention_heads"),
        **HELIUM,
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "hrm_text": {
        **MHA,
        "head_dim": (16, 24),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "num_layers_per_stack": (None, 2),
        "H_cycles": (1, 2),
        "L_cycles": (2, 3),
    },
    "hyperclovax": {
        **LLAMA,
        "head_dim": (None, 24),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "use_post_norm": FLAGS,
    },
    "internlm3": {**LLAMA, "head_dim": (None, 24), ("qkv_bias", "bias"): ((True, True), (False, False))},
    "iquestcoder": {**LLAMA, "head_dim": (None, 24), "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "jais2": {**LLAMA, "head_dim": (None, 24), "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "minicpm3": {
        **MLA,
        "v_head_dim": (None, 12, 20),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "ministral3": {**LLAMA, "head_dim": (16, 24), "sliding_window": (None, 8)},
    "nanochat": {**LLAMA, "attention_bias": FLAGS, "final_logit_softcapping": (None, 15.0)},
    "olmo3": {**LLAMA, "num_hidden_layers": (3, 4, 5), "attention_bias": FLAGS},
    "openai-gpt": without(GPT2, "n_inner"),
    "persimmon": {**MHA, "qk_layernorm": FLAGS, "partial_rotary_factor": (0.25, 0.5, 1.0)},
    "seed_oss": {
        **LLAMA,
        "head_dim": (None, 24),
        "attention_bias": FLAGS,
        "attention_out_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "vaultgemma": {**LLAMA, "head_dim": (16, 24), "attention_bias": FLAGS},
    "xglm": {
        "d_model": (96, 192),
        "ffn_dim": (64, 160),
        "num_layers": (1, 2, 3),
        "attention_heads": (6, 12),
        "vocab_size": (96, 101),
        "max_position_embeddings": (32, 77),
        "tie_word_embeddings": FLAGS,
    },
    "youtu": {**MLA, "attention_bias": FLAGS, "rope_interleave": FLAGS},
    "bart": BART,
    "bert": BERT,
    "bigbird_pegasus": {**BART, "use_bias": FLAGS},
    "blenderbot": BART,
    "blenderbot-small": BART,
    "m2m_100": BART,
    "marian": {**BART, "share_encoder_decoder_embeddings": FLAGS, "decoder_vocab_size": (None, 88, 101)},
    "mbart": BART,
    "mvp": {**BART, "use_prompt": FLAGS, "prompt_length": (5, 6), "prompt_mid_dim": (20, 24)},
    "pegasus": BART,
    "plbart": BART,
    "trocr": {
        **without(BART, "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim"),
        "use_learned_position_embeddings": FLAGS,
        "layernorm_embedding": FLAGS,
        "cross_attention_hidden_size": (None, 48),
    },
    "flaubert": {
        "emb_dim": (96, 192),
        "n_layers": (1, 2, 3),
        "n_heads": (6, 12),
        "vocab_size": (96, 101),
        "n_langs": (1, 3),
        "use_lang_emb": FLAGS,
        "max_position_embeddings": (32, 77),
        "tie_word_embeddings": FLAGS,
    },
    "xlm": {
        "emb_dim": (96, 192),
        "n_layers": (1, 2, 3),
        "n_heads": (6, 12),
        "vocab_size": (96, 101),
        "n_langs": (1, 3),
        "use_lang_emb": FLAGS,
        "max_position_embeddings": (32, 77),
        "tie_word_embeddings": FLAGS,
    },
    "xlnet": {
        "d_model": (96, 192),
        "n_layer": (1, 2, 3),
        "n_head": (6, 12),
        "d_inner": (64, 160),
        "vocab_size": (96, 101),
        "mem_len": (None, 16),
        "tie_word_embeddings": FLAGS,
    },
    "emu3": {"text_config": TEXT_PARTS},
    "git": {
        **without(BERT, "type_vocab_size"),
        "num_image_with_embedding": (None, 2),
        "vision_config": VISION_PARTS,
    },
    "got_ocr2": {
        "text_config": TEXT_PARTS,
        "tie_word_embeddings": FLAGS,
        "vision_config": tuple(
            {**{k: v for k, v in vision.items() if k != "intermediate_size"}, **more}
            for vision, more in zip(
                VISION_PARTS,
                (
                    {"mlp_dim": 40, "output_channels": 24, "window_size": 3, "global_attn_indexes": [1]},
                    {"mlp_dim": 48, "output_channels": 20, "qkv_bias": False, "use_abs_pos": False, "window_size": 2},
                ),
                strict=True,
            )
        ),
    },
    "mllama": {
        "text_config": tuple({**text, "cross_attention_layers": [1]} for text in TEXT_PARTS),
        "vision_config": (
            {
                "hidden_size": 48,
                "attention_heads": 4,
                "num_hidden_layers": 2,
                "num_global_layers": 1,
                "image_size": 32,
                "patch_size": 8,
                "vision_output_dim": 96,
                "intermediate_size": 56,
            },
            {
                "hidden_size": 32,
                "attention_heads": 4,
                "num_hidden_layers": 1,
                "num_global_layers": 2,
                "image_size": 48,
                "patch_size": 16,
                "vision_output_dim": 64,
                "intermediate_size": 40,
                "max_num_tiles": 2,
                "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
            },
        ),
    },
    "modernbert": MODERN_BERT,
    "modernbert-decoder": MODERN_BERT,
    "moshi": {
        **without(LLAMA, "intermediate_size", "tie_word_embeddings"),
        "ffn_dim": (64, 160),
        "head_dim": (None, 24),
        "sliding_window": (8, 16),
    },
    "moss_transcribe_diarize": {
        "text_config": TEXT_PARTS,
        "tie_word_embeddings": FLAGS,
        "projector_bias": FLAGS,
        "audio_merge_size": (2, 4),
        "audio_config": (
            {
                "hidden_size": 48,
                "intermediate_size": 56,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_mel_bins": 20,
                "max_source_positions": 30,
            },
            {
                "hidden_size": 64,
                "intermediate_size": 40,
                "num_hidden_layers": 1,
                "num_attention_heads": 8,
                "num_mel_bins": 16,
                "max_source_positions": 40,
            },
        ),
    },
    "phi4_multimodal": {
        **LLAMA,
        "pad_token_id": (0,),
        "vision_config": VISION_PARTS,
        "audio_config": (
            {
                "hidden_size": 48,
                "intermediate_size": 40,
                "num_blocks": 2,
                "num_attention_heads": 4,
                "input_size": 20,
                "ext_pw_out_channel": 48,
                "depthwise_separable_out_channel": 48,
                "nemo_conv_channels": 24,
            },
            {
                "hidden_size": 64,
                "intermediate_size": 56,
                "num_blocks": 1,
                "num_attention_heads": 8,
                "input_size": 33,
                "ext_pw_out_channel": 64,
                "depthwise_separable_out_channel": 56,
                "nemo_conv_channels": 16,
                "time_reduction": 4,
                "bias_symmetric": True,
                "bias_max_distance": 50,
                "depthwise_multiplier": 2,
                "kernel_size": 5,
                "downsample_rate": 2,
            },
        ),
    },
    "prophetnet": {
        "hidden_size": (96, 192),
        "num_encoder_layers": (1, 2),
        "num_decoder_layers": (1, 3),
        "num_encoder_attention_heads": (6, 12),
        "num_decoder_attention_heads": (3, 6),
        "encoder_ffn_dim": (64, 160),
        "decoder_ffn_dim": (64, 160),
        "vocab_size": (96, 101),
        "max_position_embeddings": (32, 77),
        "ngram": (2, 3),
        "num_buckets": (8, 32),
        "add_cross_attention": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "fsmt": {**without(BART, "vocab_size"), "src_vocab_size": (96, 101), "tgt_vocab_size": (96, 103)},
    "led": {
        **without(BART, "max_position_embeddings"),
        "max_encoder_position_embeddings": (40, 60),
        "max_decoder_position_embeddings": (32, 77),
    },
    "longt5": {**T5, "encoder_attention_type": ("local", "transient-global")},
    "mt5": T5,
    "nllb-moe": {
        **BART,
        "num_experts": (2, 4),
        "router_bias": FLAGS,
        "encoder_sparse_step": (0, 1, 2),
        "decoder_sparse_step": (1, 2),
    },
    "pegasus_x": {**BART, "num_global_tokens": (4, 8)},
    "switch_transformers": {
        **without(T5, "feed_forward_proj"),
        "num_layers": (2, 4),
        "num_decoder_layers": (None, 2, 3),
        "num_sparse_encoder_layers": (0, 1, 2),
        "num_sparse_decoder_layers": (0, 1, 2),
        "num_experts": (2, 4),
        "router_bias": FLAGS,
    },
    "umt5": T5,
    "albert": {**NARROW, "num_hidden_groups": (1, 2), "inner_group_num": (1, 2)},
    "deberta": {
        **BERT,
        "type_vocab_size": (0, 2),
        "position_biased_input": FLAGS,
        "relative_attention": FLAGS,
        "pos_att_type": (["c2p"], ["c2p", "p2c"], None),
        "max_relative_positions": (-1, 24),
    },
    "deberta-v2": {
        **BERT,
        "type_vocab_size": (0, 2),
        "position_biased_input": FLAGS,
        "relative_attention": FLAGS,
        "pos_att_type": (["c2p"], ["c2p", "p2c"], None),
        "max_relative_positions": (-1, 24),
        "position_buckets": (-1, 16),
        "share_att_key": FLAGS,
        "norm_rel_ebd": ("none", "layer_norm"),
        "conv_kernel_size": (0, 3),
    },
    "distilbert": {
        "dim": (96, 192),
        "hidden_dim": (64, 160),
        "n_layers": (1, 2, 3),
        "n_heads": (6, 12),
        "vocab_size": (96, 101),
        "max_position_embeddings": (32, 77),
        "sinusoidal_pos_embds": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "esm": {
        **without(BERT, "type_vocab_size"),
        "position_embedding_type": ("absolute", "rotary"),
        "emb_layer_norm_before": (None, True, False),
        "pad_token_id": (1,),
    },
    "eurobert": {**LLAMA, "pad_token_id": (0,), "attention_bias": FLAGS, "mlp_bias": FLAGS},
    "layoutlm": {**BERT, "max_2d_position_embeddings": (40, 60)},
    "longformer": {**BERT, "attention_window": (16,)},
    "mpnet": {**without(BERT, "type_vocab_size"), "relative_attention_num_buckets": (8, 32)},
    "mra": BERT,
    "nomic_bert": {**BERT, "head_dim": (16, 24)},
    "nystromformer": {**BERT, "conv_kernel_size": (5, 7)},
    "yoso": {**BERT, "conv_window": (None, 5)},
    "whisper": {
        **without(BART, "max_position_embeddings"),
        "max_source_positions": (40, 60),
        "max_target_positions": (32, 77),
        "num_mel_bins": (20, 24),
    },
    "bert-generation": without(BERT, "type_vocab_size"),
    "big_bird": {**BERT, "use_bias": FLAGS, "attention_type": ("block_sparse", "original_full"), "pad_token_id": (0,)},
    "camembert": BERT,
    "data2vec-text": BERT,
    "electra": NARROW,
    "ernie": {**BERT, "use_task_id": FLAGS, "task_type_vocab_size": (2, 3)},
    "megatron-bert": BERT,
    "rembert": {
        **without(BERT, "tie_word_embeddings"),
        "input_embedding_size": (24, 40),
        "output_embedding_size": (56, 72),
    },
    "roberta": BERT,
    "roberta-prelayernorm": BERT,
    "roc_bert": {
        **BERT,
        "enable_pronunciation": FLAGS,
        "enable_shape": FLAGS,
        "concat_input": FLAGS,
        "pronunciation_embed_dim": (24, 40),
        "pronunciation_vocab_size": (30, 31),
        "shape_embed_dim": (16, 20),
        "shape_vocab_size": (50, 51),
    },
    "roformer": {**NARROW, "embedding_size": (None, 48, 96)},
    "xlm-roberta": BERT,
    "xlm-roberta-xl": BERT,
    "xmod": {
        **BERT,
        "adapter_reduction_factor": (2, 4),
        "adapter_layer_norm": FLAGS,
        "languages": (["en_XX"], ["en_XX", "de_DE"], []),
        "pre_norm": FLAGS,
    },
    # Encoders of further structures.
    "convbert": {**NARROW, "head_ratio": (1, 2, 3, 16), "conv_kernel_size": (5, 9), "num_groups": (1, 2, 4)},
    "encoder-decoder": {
        "encoder": tuple({"model_type": kind, **PAIRED} for kind in ("bert", "roberta", "distilbert", "modernbert")),
        "decoder": (
            *(
                {**PAIRED, **READS, "model_type": kind}
                for kind in ("bert", "xlm-roberta", "bert-generation", "rembert")
            ),
            {**PAIRED, **READS, "model_type": "electra", "embedding_size": 48},
            {**PAIRED, **READS, "model_type": "roberta", "hidden_size": 192},
            {
                "model_type": "gpt2",
                "n_embd": 48,
                "n_layer": 2,
                "n_head": 6,
                "vocab_size": 101,
                "add_cross_attention": True,
            },
            {**{key: values[0] for key, values in BART.items()}, **READS, "model_type": "bart", "d_model": 96},
        ),
    },
    "esmc": {**MHA, "head_dim": (None,), "attention_bias": FLAGS, "mlp_bias": FLAGS, "pad_token_id": (0,)},
    "fnet": {**without(BERT, "num_attention_heads"), "pad_token_id": (0,)},
    "funnel": {
        "d_model": (96, 192),
        "n_head": (6, 12),
        "d_head": (8, 24),
        "d_inner": (64, 160),
        "vocab_size": (96, 101),
        ("block_sizes", "block_repeats"): (([1, 2], None), ([2, 1, 1], [1, 2, 1])),
        "num_decoder_layers": (1, 2),
        "tie_word_embeddings": FLAGS,
    },
    "gte": {**BERT, "type_vocab_size": (0, 1, 2)},
    "ibert": {**BERT, "pad_token_id": (0, 1)},
    "jina_embeddings_v3": BERT,
    "luke": {
        **BERT,
        "entity_vocab_size": (50, 60),
        "entity_emb_size": (24, 96, 192),
        "use_entity_aware_attention": FLAGS,
        "pad_token_id": (1,),
    },
    "mobilebert": {
        **BERT,
        "embedding_size": (24, 48),
        "trigram_input": FLAGS,
        "use_bottleneck": FLAGS,
        "intra_bottleneck_size": (48, 60),
        "use_bottleneck_attention": FLAGS,
        "key_query_shared_bottleneck": FLAGS,
        "num_feedforward_networks": (1, 2, 3),
        "normalization_type": ("no_norm", "layer_norm"),
    },
    "modernvbert": {
        "text_config": tuple(
            {**text, "norm_bias": bias, "decoder_bias": bias} for text, bias in zip(ENCODERS, FLAGS, strict=True)
        ),
        "vision_config": VISION_PARTS,
        "pixel_shuffle_factor": (2, 4),
        "tie_word_embeddings": FLAGS,
    },
    "neomme": {
        **without(LLAMA, "num_hidden_layers", "head_dim"),
        "num_hidden_layers": (2, 3),
        "head_dim": (16, 32),
        "embedding_rank": (24, 40),
        "patch_size": (4, 6),
        "layer_types": (None,),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "pad_token_id": (0,),
    },
    "perceiver": {
        "d_model": (48, 64),
        "d_latents": (96, 192),
        "num_latents": (7, 9),
        "num_blocks": (1, 2),
        "num_self_attends_per_block": (1, 3),
        "qk_channels": (None, 32),
        "v_channels": (None, 64),
        "cross_attention_shape_for_attention": ("q", "kv"),
        "self_attention_widening_factor": (1, 3),
        "cross_attention_widening_factor": (1, 2),
        "vocab_size": (96, 101),
        "max_position_embeddings": (32, 77),
    },
    "reformer": {
        ("hidden_size", "axial_pos_shape", "axial_pos_embds_dim"): (
            (96, [4, 8], [32, 64]),
            (96, [2, 3, 4], [16, 16, 64]),
        ),
        "axial_pos_embds": FLAGS,
        "attn_layers": (["lsh"], ["local", "local"], ["local", "lsh", "local"]),
        "attention_head_size": (8, 24),
        "feed_forward_size": (64, 160),
        "num_attention_heads": (2, 3),
        "num_hashes": (1, 2),
        "max_position_embeddings": (32, 77),
        "vocab_size": (96, 101),
    },
    "squeezebert": {
        **without(BERT, "hidden_size"),
        ("hidden_size", "embedding_size"): ((96, 96), (192, 192)),
        "q_groups": (1, 2, 4),
        "k_groups": (1, 4),
        "v_groups": (2, 4),
        "post_attention_groups": (1, 3),
        "intermediate_groups": (1, 4),
        "output_groups": (2, 4),
    },
    "tapas": {**without(BERT, "type_vocab_size"), "type_vocab_sizes": ([3, 4, 5], [2])},
    "ultrabert": {
        **LLAMA,
        "num_hidden_layers": (2, 3, 4),
        "head_dim": (None, 24),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "prediction_head_size": (40, 56),
        "sliding_window": (8, 16),
    },
    "ultravbert": {
        "text_config": tuple({**text, "model_type": "ultrabert", "prediction_head_size": 40} for text in TEXT_PARTS),
        "vision_config": VISION_PARTS,
        "pixel_shuffle_factor": (2, 4),
        "tie_word_embeddings": FLAGS,
    },
    "seamless_m4t": SEAMLESS,
    "seamless_m4t_v2": {**SEAMLESS, "left_max_position_embeddings": (5, 9), "right_max_position_embeddings": (0, 3)},
    "t5gemma": {
        "encoder": tuple({**text, "head_dim": 24} for text in TEXT_PARTS),
        "decoder": tuple({**text, "head_dim": 16, "attention_bias": True} for text in TEXT_PARTS),
        "tie_word_embeddings": FLAGS,
    },
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
    "qwen3_next": {
        **LLAMA,
        **EXPERTS,
        **DELTA,
        "num_hidden_layers": (3, 4, 5),
        "head_dim": (16, 24),
        "shared_expert_intermediate_size": (32, 48),
        "decoder_sparse_step": (1, 2),
        "mlp_only_layers": ([], [0]),
        "attention_bias": FLAGS,
    },
    "qwen3_5_text": {**LLAMA, **DELTA, "num_hidden_layers": (3, 4, 5), "head_dim": (16, 24), "attention_bias": FLAGS},
    "qwen3_5_moe_text": {
        **without(LLAMA, "intermediate_size"),
        **EXPERTS,
        **DELTA,
        "num_hidden_layers": (3, 4, 5),
        "head_dim": (16, 24),
        "shared_expert_intermediate_size": (32, 48),
    },
    "olmo_hybrid": {
        **LLAMA,
        "num_hidden_layers": (2, 4, 5),
        "layer_types": (None,),
        "linear_num_key_heads": (None, 6),
        "linear_num_value_heads": (12, 24),
        "linear_key_head_dim": (None, 8),
        "linear_value_head_dim": (None, 24),
        "linear_conv_kernel_dim": (3, 4),
        "attention_bias": FLAGS,
        "pad_token_id": (0,),
    },
    "qwen3_5": {"text_config": ({**TEXT, "num_hidden_layers": 5}, {**TEXT, "linear_num_key_heads": 4, "head_dim": 24})},
    "qwen3_5_moe": {
        "text_config": (
            {**TEXT, "num_hidden_layers": 5},
            {**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 24},
        )
    },
    "kimi_linear": {
        **KIMI,
        "q_lora_rank": (None, 24),
        "linear_num_heads": (3, 4),
        "linear_head_dim": (8, 12),
        "linear_conv_kernel_dim": (3, 4),
        "linear_attn_config": (
            {},
            {"num_heads": 5, "head_dim": 16, "short_conv_kernel_size": 2},
            {"kda_layers": [1, 3, 4, 5], "full_attn_layers": [2]},
        ),
    },
    "bailing_hybrid": {
        **KIMI,
        "head_dim": (8, 12),
        "short_conv_kernel_size": (3, 4),
        "layer_group_size": (2, 3),
        "n_group": (1, 2),
        "topk_group": (1,),
        "pad_token_id": (0,),
    },
    "minimax": {
        **LLAMA,
        "head_dim": (None, 24),
        "block_size": (8, 12),
        "layer_types": (None,),
        "num_local_experts": (4, 6),
        "num_experts_per_tok": (1, 2),
    },
    "falcon_mamba": {
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
    "bamba": {
        **LLAMA,
        **MAMBA2,
        "attn_layer_indices": (None, [0], [1, 2]),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "falcon_h1": {
        **LLAMA,
        **MAMBA2,
        ("mamba_n_heads", "mamba_d_head", "mamba_expand", "mamba_d_ssm"): ((12, "auto", 2, None), (6, 8, 2, 48)),
        "mamba_rms_norm": FLAGS,
        "projectors_bias": FLAGS,
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "granitemoehybrid": {
        **LLAMA,
        **MAMBA2,
        ("num_hidden_layers", "layer_types"): (
            (2, None),
            (3, ["mamba", "attention", "mamba"]),
            (1, ["full_attention"]),
        ),
        "num_local_experts": (0, 4, 6),
        "num_experts_per_tok": (1, 2),
        "shared_intermediate_size": (32, 48),
        "position_embedding_type": (None, "rope"),
        "attention_bias": FLAGS,
    },
    "zamba": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (5, 8, 10),
        "num_attention_heads": (6, 12),
        "num_key_value_heads": (2, 3, 6),
        "attention_head_dim": (None, 24),
        "vocab_size": (96, 101),
        "attn_layer_period": (2, 3),
        "attn_layer_offset": (0, 1),
        "n_mamba_heads": (1, 2, 4),
        "mamba_d_state": (8, 16),
        "mamba_d_conv": (3, 4),
        "mamba_dt_rank": ("auto", 5),
        "mamba_proj_bias": FLAGS,
        "mamba_conv_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "zamba2": {
        "hidden_size": (96, 192),
        "intermediate_size": (None, 64, 160),
        ("num_hidden_layers", "layers_block_type"): (
            (6, ["mamba", "hybrid", "hybrid", "mamba", "hybrid", "hybrid"]),
            (4, ["linear_attention", "hybrid", "linear_attention", "hybrid"]),
            (3, ["mamba", "hybrid", "mamba"]),
        ),
        "num_attention_heads": (6, 12),
        "num_key_value_heads": (None, 2, 3),
        "vocab_size": (96, 101),
        "n_mamba_heads": (4, 8),
        "mamba_ngroups": (1, 2),
        "mamba_d_state": (8, 16),
        "num_mem_blocks": (1, 2),
        "adapter_rank": (4, 6),
        "use_shared_attention_adapter": FLAGS,
        "use_mem_rope": FLAGS,
        "add_bias_linear": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "nemotron_h": {
        **without(LLAMA, "num_hidden_layers"),
        "layers_block_type": (
            None,
            ["linear_attention", "moe", "mlp"],
            ["mamba", "attention", "mlp", "mamba", "moe", "moe"],
        ),
        "head_dim": (16, 24),
        "mamba_num_heads": (4, 8),
        "mamba_head_dim": (8, 12),
        "ssm_state_size": (8, 16),
        "n_groups": (1, 2),
        "conv_kernel": (3, 4),
        "n_routed_experts": (4, 6),
        "n_shared_experts": (1, 2),
        "moe_intermediate_size": (32, 48),
        "moe_shared_expert_intermediate_size": (32, 40),
        "moe_latent_size": (None, 24),
        "use_bias": FLAGS,
        "use_conv_bias": FLAGS,
        "mlp_bias": FLAGS,
        "pad_token_id": (0,),
    },
    # Mixtures of experts, sparse and compressed attention.
    "granitemoe": {**LLAMA, **LOCAL, "attention_bias": FLAGS},
    "granitemoeshared": {**LLAMA, **LOCAL, "attention_bias": FLAGS, "shared_intermediate_size": (0, 40)},
    "granitemoe_swa": {
        **LLAMA,
        **LOCAL,
        "shared_intermediate_size": (0, 40),
        "sliding_window": (8, 16),
        ("num_hidden_layers", "layer_types", "layer_rope_theta"): (
            (2, None, None),
            (3, ["sliding_attention", "full_attention", "full_attention"], [0, 10000.0, 500.0]),
        ),
    },
    "phimoe": {**LLAMA, **LOCAL, "attention_bias": FLAGS, "lm_head_bias": FLAGS},
    "flex_olmo": {**LLAMA, **without(EXPERTS, "moe_intermediate_size"), "attention_bias": FLAGS, "pad_token_id": (0,)},
    "glm4_moe": {**LLAMA, **ROUTED, "use_qk_norm": FLAGS, "attention_bias": FLAGS, "head_dim": (16, 24)},
    "solar_open": {**without(LLAMA, "intermediate_size"), **ROUTED, "attention_bias": FLAGS, "head_dim": (16, 24)},
    "glm4_moe_lite": {**without(LATENT, "first_k_dense_replace"), **SPARSE, "attention_bias": FLAGS},
    "axk1": {**without(LATENT, "num_hidden_layers"), **SPARSE, "q_lora_rank": (24, 48), "attention_bias": FLAGS},
    "ernie4_5_moe": {
        **LLAMA,
        "use_bias": FLAGS,
        "moe_num_experts": (4, 6),
        "moe_k": (1, 2),
        "moe_intermediate_size": (32, 48),
        "moe_num_shared_experts": (0, 1, 2),
        "moe_layer_interval": (1, 2),
        "moe_layer_start_index": (0, 1),
        "moe_layer_end_index": (-1, 1),
    },
    "exaone_moe": {
        **without(LLAMA, "num_hidden_layers"),
        **EXPERTS,
        **SPARSE,
        "num_shared_experts": (1, 2),
        "sliding_window": (8, 16),
        "sliding_window_pattern": (2, 3),
        "n_group": (1,),
    },
    "afmoe": {
        **LLAMA,
        **EXPERTS,
        "head_dim": (16, 24),
        "num_dense_layers": (0, 1),
        "num_shared_experts": (1, 2),
        "global_attn_every_n_layers": (2, 3),
        "attention_bias": FLAGS,
        "mup_enabled": FLAGS,
    },
    "hy_v3": {
        **without(LLAMA, "num_hidden_layers"),
        **EXPERTS,
        **SPARSE,
        "head_dim": (16, 24),
        "num_shared_experts": (0, 1, 2),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
    },
    "minimax_m2": {**LLAMA, **LOCAL, "head_dim": (16, 24), "rotary_dim": (None, 8)},
    "mellum": {
        **without(LLAMA, "num_hidden_layers"),
        **EXPERTS,
        **SPARSE,
        "head_dim": (16, 24),
        "layer_types": (None, ["sliding_attention", "full_attention", "sliding_attention"], ["sliding_attention"] * 3),
        "attention_bias": FLAGS,
    },
    "laguna": {
        **without(LLAMA, "num_hidden_layers"),
        **EXPERTS,
        **SPARSE,
        "head_dim": (16, 24),
        "shared_expert_intermediate_size": (24, 40),
        "layer_types": (None, ["sliding_attention", "full_attention", "sliding_attention"], ["sliding_attention"] * 3),
        "num_attention_heads_per_layer": (None, [6, 12, 6]),
        "gating": (True, "per-head", "per-element"),
        "attention_bias": FLAGS,
    },
    "kolibri1": {
        **without(LLAMA, "intermediate_size"),
        **EXPERTS,
        "head_dim": (16, 24),
        "shared_expert_intermediate_size": (24, 40),
        "sliding_window": (8, 16),
    },
    "cohere2_moe": {
        **without(LLAMA, "num_hidden_layers"),
        **without(EXPERTS, "moe_intermediate_size"),
        **SPARSE,
        "head_dim": (16, 24),
        "prefix_dense_intermediate_size": (None, 72),
        "num_shared_experts": (0, 1, 2),
        "rms_norm_eps": (None, 1e-5),
        "attention_bias": FLAGS,
    },
    "flint": {
        **LLAMA,
        **EXPERTS,
        "head_dim": (16, 24),
        "shared_expert_intermediate_size": (24, 40),
        "decoder_sparse_step": (1, 2),
        "mlp_only_layers": (None, [], [1]),
        "attention_bias": FLAGS,
    },
    "mimo_v2_flash": {
        **without(LLAMA, "num_hidden_layers", "num_key_value_heads"),
        **without(ROUTED, "n_shared_experts", "first_k_dense_replace"),
        **SPARSE,
        "num_key_value_heads": (1, 3),
        "head_dim": (24, 32),
        "v_head_dim": (12, 20),
        "layer_types": (None, ["sliding_attention", "full_attention", "sliding_attention"], ["sliding_attention"] * 3),
        "attention_bias": FLAGS,
    },
    "beam": {
        **without(LLAMA, "num_hidden_layers"),
        **EXPERTS,
        **SPARSE,
        "head_dim": (16, 24),
        "n_group": (2,),
        "topk_group": (1,),
        "layer_types": (None, ["sliding_attention", "full_attention", "sliding_attention"]),
        "attention_bias": FLAGS,
    },
    "jetmoe": {
        **without(LLAMA, "num_attention_heads"),
        "kv_channels": (16, 24),
        "num_local_experts": (4, 6),
        "num_experts_per_tok": (1, 2),
    },
    "longcat_flash": {
        **without(LLAMA, "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        ("num_attention_heads", "num_key_value_heads"): ((6, 6), (12, 12)),
        "num_layers": (1, 2),
        "ffn_hidden_size": (64, 80),
        "expert_ffn_hidden_size": (32, 48),
        "q_lora_rank": (24, 48),
        "kv_lora_rank": (16, 40),
        ("qk_rope_head_dim", "head_dim"): ((8, 8), (16, 16)),
        "qk_nope_head_dim": (12, 24),
        "v_head_dim": (12, 20),
        "n_routed_experts": (4, 6),
        "zero_expert_num": (0, 2, 3),
        "moe_topk": (2, 3),
        "attention_bias": FLAGS,
        "router_bias": FLAGS,
    },
    "deepseek_v32": {**without(LATENT, "q_lora_rank"), **INDEXED, "attention_bias": FLAGS},
    "glm_moe_dsa": {
        **without(LATENT, "num_hidden_layers", "q_lora_rank"),
        **INDEXED,
        **SPARSE,
        "indexer_types": (None, ["full", "shared", "full"], ["full", "shared", "shared"]),
        "attention_bias": FLAGS,
    },
    "axk2": {
        **without(LATENT, "num_hidden_layers", "q_lora_rank"),
        **INDEXED,
        **SPARSE,
        "gated_norm_rank": (4, 6),
        "attention_bias": FLAGS,
    },
    "hy_v4": {
        **without(LATENT, "num_hidden_layers", "q_lora_rank", "first_k_dense_replace"),
        **INDEXED,
        **SPARSE,
        "hc_mult": (2, 3),
        "indexer_types": (None, ["full", "shared", "full"]),
        "pad_token_id": (0,),
        "attention_bias": FLAGS,
    },
    "deepseek_v4": {
        **without(LLAMA, "num_hidden_layers", "intermediate_size", "num_key_value_heads"),
        **INDEXED,
        "num_hidden_layers": (3,),
        "layer_types": (
            None,
            ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
            ["compressed_sparse_attention", "sliding_attention", "compressed_sparse_attention"],
        ),
        "mlp_layer_types": (None, ["hash_moe", "moe", "moe"], ["moe"] * 3),
        "compress_rates": (None, {"compressed_sparse_attention": 2, "heavily_compressed_attention": 16}),
        "head_dim": (16, 32),
        "moe_intermediate_size": (32, 48),
        "n_routed_experts": (4, 6),
        "num_experts_per_tok": (1, 2),
        "o_groups": (2, 3),
        "o_lora_rank": (8, 12),
        "hc_mult": (2, 3),
        "mlp_bias": FLAGS,
    },
    "dots3_note_text": DOTS,
    "dots3_note": {
        "text_config": (
            {"model_type": "dots3_note_text", **{key: values[-1] for key, values in DOTS.items()}},
            {"model_type": "dots3_note_text", **{key: values[0] for key, values in DOTS.items()}},
        ),
        ("vision_config", "audio_config"): (({"adapter_out_dim": 96}, {"adapter_out_dim": 96}),),
    },
    "inkling_text": {**INKLING, **SPARSE, "n_shared_experts": (1, 2), "intermediate_size": (40, 64)},
    "inkling2_text": {**INKLING, "num_hidden_layers": (3,)},
    "minimax_m3_vl_text": {
        **without(LLAMA, "num_hidden_layers"),
        **without(LOCAL, "num_hidden_layers"),
        **SPARSE,
        "head_dim": (16, 24),
        "dense_intermediate_size": (64, 72),
        "shared_intermediate_size": (24, 40),
        "index_n_heads": (1, 2),
        "index_head_dim": (8, 12),
        "layer_types": (None, ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"]),
    },
    "lfm2": {
        **LLAMA,
        ("num_hidden_layers", "layer_types"): (
            (3, None),
            (2, ["conv", "full_attention"]),
            (3, ["conv", "conv", "conv"]),
        ),
        "full_attn_idxs": (None, [1]),
        "block_auto_adjust_ff_dim": FLAGS,
        "block_ffn_dim_multiplier": (None, 1.0, 1.5),
        "block_multiple_of": (8, 48),
        "conv_L_cache": (3, 5),
        "conv_bias": FLAGS,
    },
    "lfm3": {
        **LLAMA,
        "num_hidden_layers": (3, 5, 6),
        "layer_types": (None,),
        "head_dim": (16, 24),
        "conv_L_cache": (3, 5),
        "conv_bias": FLAGS,
        "attention_bias": FLAGS,
        "use_sandwich_norm": FLAGS,
        "use_attention_gate": FLAGS,
        "sliding_window": (8,),
        "pad_token_id": (0,),
    },
    "recurrent_gemma": {
        **LLAMA,
        "num_hidden_layers": (2, 3, 5),
        "lru_width": (None, 48, 120),
        "conv1d_width": (3, 4),
        "attention_window_size": (8, 16),
        "attention_bias": FLAGS,
        "block_types": (["recurrent", "recurrent", "attention"], ["recurrent", "attention"]),
    },
    "rwkv": {
        "hidden_size": (96, 192),
        "attention_hidden_size": (None, 96),
        "intermediate_size": (None, 64),
        "num_hidden_layers": (1, 2, 3),
        "vocab_size": (96, 101),
        "tie_word_embeddings": FLAGS,
    },
    "xlstm": {
        "hidden_size": (128, 256),
        "num_hidden_layers": (1, 2, 3),
        "num_heads": (2, 4),
        "vocab_size": (96, 101),
        "qk_dim_factor": (0.5, 1.0),
        "v_dim_factor": (1.0, 2.0),
        "ffn_proj_factor": (2.667, 1.5),
        "ffn_round_up_to_multiple_of": (16, 64),
        "use_bias": FLAGS,
        "weight_mode": ("single", "fused"),
    },
    "gemma3n_text": {
        **LLAMA,
        "num_hidden_layers": (5, 6, 7),
        "num_key_value_heads": (1, 2, 3),
        "intermediate_size": (64, 160),
        "head_dim": (16, 24),
        "layer_types": (None,),
        "num_kv_shared_layers": (0, 1),
        "hidden_size_per_layer_input": (8, 12),
        "vocab_size_per_layer_input": (90, 96),
        "altup_num_inputs": (2, 4),
        "laurel_rank": (4, 8),
        "attention_bias": FLAGS,
    },
    "gemma4_text": {
        **LLAMA,
        **GEMMA4,
        ("enable_moe_block", "num_experts", "top_k_experts", "moe_intermediate_size"): (
            (False, None, None, None),
            (True, 4, 2, 48),
        ),
        "hidden_size_per_layer_input": (0, 8, 12),
        "vocab_size_per_layer_input": (90, 96),
    },
    "gemma4_unified_text": {**LLAMA, **GEMMA4},
    "gemma4": {
        "text_config": (
            {**TEXT, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 90},
            {**TEXT, "hidden_size_per_layer_input": 0, "global_head_dim": 32},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "gemma4_unified": {
        "text_config": (TEXT, {**TEXT, "num_hidden_layers": 7, "head_dim": 24}),
        "tie_word_embeddings": FLAGS,
    },
    "llama4_text": {
        **LLAMA,
        "num_hidden_layers": (3, 4, 5),
        "head_dim": (16, 24),
        "intermediate_size_mlp": (80, 96),
        "num_local_experts": (2, 4),
        "num_experts_per_tok": (1, 2),
        "interleave_moe_layer_step": (1, 2, 3),
        "no_rope_layer_interval": (2, 4),
        "attention_chunk_size": (8, 16),
        "attention_bias": FLAGS,
    },
    "llama4": {"text_config": (TEXT, {**TEXT, "head_dim": 24, "interleave_moe_layer_step": 2})},
    "blt": {
        "encoder_config": ({}, {"num_hidden_layers": 2, "cross_attn_all_layers": True, "hidden_size": 512}),
        "decoder_config": ({"num_hidden_layers": 2}, {"num_hidden_layers": 3, "cross_attn_all_layers": False}),
        "global_config": ({"num_hidden_layers": 2}, {"num_hidden_layers": 1, "num_key_value_heads": 4}),
        "patcher_config": ({"num_hidden_layers": 2}, {"num_hidden_layers": 1, "hidden_size": 96}),
        "encoder_hash_byte_group_size": (None, [3, 4]),
        "encoder_hash_byte_group_vocab": (100, 202),
        "cross_attn_k": (2, 3),
        "patch_in_forward": FLAGS,
    },
    "zaya": {
        **without(LLAMA, "intermediate_size"),
        ("num_hidden_layers", "layer_types"): ((2, None), (3, ["hybrid", "hybrid_sliding", "hybrid"])),
        "num_key_value_heads": (2, 6),
        "head_dim": (16, 24),
        "sliding_window": (8,),
        "moe_intermediate_size": (32, 48),
        "num_experts": (2, 4),
        "router_hidden_size": (8, 12),
        "cca_time0": (2, 3),
        "cca_time1": (2, 3),
        "attention_bias": FLAGS,
        "lm_head_bias": FLAGS,
    },
}
"""For each model type the keys that are perturbed and the values they are drawn from; any combination is valid.

Keys whose values depend on each other are drawn together.
"""

TOWERS: dict[str, tuple[dict[str, Any], ...]] = {
    "Gemma3ForConditionalGeneration": (
        {"text_config": TEXT, "vision_config": {}},
        {
            "text_config": {**TEXT, "num_hidden_layers": 3},
            "vision_config": {
                "num_hidden_layers": 2,
                "hidden_size": 48,
                "num_attention_heads": 4,
                "intermediate_size": 40,
                "image_size": 42,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
    ),
    "Llama4ForConditionalGeneration": (
        {"text_config": TEXT, "vision_config": {"num_hidden_layers": 2}},
        {
            "text_config": TEXT,
            "vision_config": {
                "num_hidden_layers": 1,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "intermediate_size": 48,
                "image_size": 42,
                "projector_input_dim": 40,
                "projector_output_dim": 40,
                "vision_output_dim": 40,
            },
        },
    ),
    "Qwen3_5ForConditionalGeneration": (
        {"text_config": TEXT, "vision_config": {}},
        {
            "text_config": {**TEXT, "num_hidden_layers": 4},
            "vision_config": {"depth": 2, "hidden_size": 64, "num_heads": 4, "intermediate_size": 48, "patch_size": 8},
            "tie_word_embeddings": True,
        },
    ),
    "Gemma4ForConditionalGeneration": (
        {
            "text_config": {**TEXT, "vocab_size_per_layer_input": 90},
            "vision_config": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 48},
            "audio_config": {"num_hidden_layers": 2, "hidden_size": 64, "conv_kernel_size": 3},
        },
        {
            "text_config": {**TEXT, "hidden_size_per_layer_input": 0},
            "vision_config": {
                "num_hidden_layers": 2,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "head_dim": 32,
                "patch_size": 8,
                "use_clipped_linears": True,
                "standardize": True,
            },
            "audio_config": {
                "num_hidden_layers": 1,
                "use_clipped_linears": False,
                "subsampling_conv_channels": [16, 8],
                "output_proj_dims": 48,
            },
        },
    ),
    "Gemma4UnifiedForConditionalGeneration": (
        {"text_config": TEXT, "vision_config": {}, "audio_config": {}},
        {
            "text_config": TEXT,
            "vision_config": {"patch_size": 8, "mm_embed_dim": 48, "mm_posemb_size": 20, "output_proj_dims": 48},
            "audio_config": {"audio_embed_dim": 40},
        },
    ),
    **{
        f"SeamlessM4T{name}": (
            {key: values[0] for key, values in SEAMLESS.items() if isinstance(key, str)},
            {key: values[-1] for key, values in SEAMLESS.items() if isinstance(key, str)},
        )
        for name in (
            "Model",
            "ForTextToSpeech",
            "ForSpeechToSpeech",
            "v2Model",
            "v2ForTextToSpeech",
            "v2ForSpeechToSpeech",
        )
    },
    "FunnelBaseModel": ({"d_model": 96, "n_head": 6, "d_inner": 64, "vocab_size": 101, "block_sizes": [1, 2]},),
    "PerceiverModel": ({"d_model": 48, "d_latents": 96, "num_self_attends_per_block": 2},),
    "Qwen3_5MoeForConditionalGeneration": (
        {
            "text_config": {**TEXT, "num_experts": 12},
            "vision_config": {"depth": 3, "spatial_merge_size": 3, "temporal_patch_size": 4, "out_hidden_size": 96},
        },
    ),
}
"""Classes that hold towers or a voice beside a language model, or less than one, with small configs of theirs."""

COMPOSITES.update(AUDIOVISUAL)
if find_spec("timm") is None:
    NOT_IN_TRANSFORMERS.update(TIMM)
else:
    COMPOSITES.update(TIMM)
FAMILIES = [name for name in names("tonnage.families") if name not in NOT_IN_TRANSFORMERS]
PERTURBED.update({**COMPOSITES, **SPEECH})
SHALLOW.update({**NEEDED, **LACKING, **STATED})
TOWERS.update(SPEAKERS)
TYPES = sorted(PERTURBED)


def module(model_type: str) -> str:
    return ALIASES.get(model_type, model_type.replace("-", "_"))


def cut(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with a few layers."""
    depths = {k: config[k] for k in DEPTHS if isinstance(config.get(k), int)}
    config = {k: min(v, LAYERS) if k in depths else v for k, v in config.items()}
    for key, value in config.items():
        if isinstance(value, list) and len(value) in depths.values() and len(value) > LAYERS:
            config[key] = value[:LAYERS]
        elif isinstance(value, dict) and "model_type" in value and config["model_type"] in COMPOSITES:
            config[key] = cut(value)
    return {**config, **SHALLOW.get(config["model_type"], {})}


def classes(model_type: str) -> dict[str, str]:
    """Its language models and what builds them: causal, for masked tokens, of sequence to sequence."""
    from transformers.models.auto import modeling_auto as auto

    tables = {
        "CausalLM": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "MaskedLM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "Seq2SeqLM": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "SpeechSeq2Seq": auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        **({"MultimodalLM": auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES} if model_type in COMPOSITES else {}),
    }
    found: dict[str, str] = {}
    for kind, table in tables.items():
        if model_type in table:
            found.setdefault(table[model_type], f"AutoModelFor{kind}")
    return found


DEMANDS: dict[str, dict[str, Any]] = {
    "ReformerModelWithLMHead": {"is_decoder": True},
    "ReformerForMaskedLM": {"is_decoder": False},
}
"""What a class wants its config to say, which changes no tensor."""


def built(config: dict[str, Any]) -> Any:
    """transformers' model of a config, on the meta device: the class that it names, else the type's first."""
    kept = {k: v for k, v in config.items() if k not in ("model_type", "transformers_version", "architectures")}
    found = classes(config["model_type"])
    named = (config.get("architectures") or [None])[0]
    kept.update(DEMANDS.get(named if named in found else next(iter(found)), {}))
    reference = transformers.AutoConfig.for_model(config["model_type"], **kept)
    with torch.device("meta"):
        return getattr(transformers, found.get(named, next(iter(found.values())))).from_config(reference)


def reference_parameters(model: Any) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    """Names to shapes, and which names share one tensor."""
    shapes, shared = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = tuple(parameter.shape)
        shared.setdefault(id(parameter), set()).add(name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def of_class(config: dict[str, Any], auto: str, **more: Any) -> Any:
    """The class that an ``AutoModel...`` makes of a config, on the meta device."""
    kept = {k: v for k, v in config.items() if k != "model_type"}
    reference = transformers.AutoConfig.for_model(config["model_type"], **kept, **more)
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(reference)


def own_parameters(model: Model) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    shapes: dict[str, tuple[int, ...]] = {}
    shared: dict[str, set[str]] = {}
    for t in model.weights():
        assert t.name not in shapes, f"{t.name} stands twice"
        shapes[t.name] = t.shape
        shared.setdefault(t.alias_of or t.name, {t.alias_of or t.name}).add(t.name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def check(config: dict[str, Any], reference: Any, head: str | None = None) -> None:
    model = model_from(config, head=head)
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
    assert {module(name) for name in PERTURBED} == set(FAMILIES)
    assert set(ALIASES) - set(PERTURBED) <= {
        "fast_vlm",
        "perception_lm",
        "gemma3",
        "emu3_text_model",
        "mllama_text_model",
    }


@pytest.mark.parametrize("family", TYPES)
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


@pytest.mark.parametrize(
    ("family", "named"), [(family, named) for family in TYPES for named in list(classes(family))[1:]], ids=str
)
def test_other_class(family, named):
    for seed in range(PERTURBATIONS):
        config = {**drawn(family, seed), "architectures": [named]}
        check(config, built(config))


@pytest.mark.parametrize("seed", range(PERTURBATIONS))
@pytest.mark.parametrize("family", TYPES)
def test_perturbed_config(family, seed):
    config = drawn(family, seed)
    reference = built(config)
    check(config, reference)
    # As transformers writes it back, with every default spelt out.
    check({**reference.config.to_dict(), "architectures": None}, reference)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_towers(name):
    kind = getattr(transformers, name)
    for config in TOWERS[name]:
        reference = kind.config_class(**config)
        with torch.device("meta"):
            model = kind(reference)
        check({**config, "model_type": kind.config_class.model_type, "architectures": [name]}, model)
        check({**reference.to_dict(), "architectures": [name]}, model)


def classified() -> list[str]:
    """Types that have a classifier of sequences, but for those whose classifier is refused."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    return sorted((set(TYPES) & set(CLASSIFIERS)) - {"mt5", "qwen3_5", "t5", "umt5"})


@pytest.mark.parametrize("family", classified())
def test_classifier(family):
    config = drawn(family, 0)
    model = of_class(config, "AutoModelForSequenceClassification", num_labels=3)
    check(config, model, "classify:3")
    check({**config, "num_labels": 3, "architectures": [type(model).__name__]}, model)


@pytest.mark.parametrize("family", sorted(set(classified()) - {"funnel"}))
def test_bare_class(family):
    config = drawn(family, 0)
    model = of_class(config, "AutoModel")
    check(config, model, "none")
    check({**config, "architectures": [type(model).__name__]}, model)


FORMATS = {"float32": "fp32", "bfloat16": None, "int64": "int64", "int32": "int32", "bool": "bool"}
"""Formats of buffers; None for that of the model."""


@pytest.mark.parametrize("family", sorted(set(TYPES) - {"ctrl"}))
def test_buffers_have_the_format_that_they_are_loaded_in(family):
    """CTRL's table of positions is cast when it is first used."""
    for named, auto in classes(family).items():
        config = {**drawn(family, 0), **DEMANDS.get(named, {}), "architectures": [named]}
        kept = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
        reference = transformers.AutoConfig.for_model(family, **kept)
        with torch.device("meta"):
            model = getattr(transformers, auto).from_config(reference, dtype=torch.bfloat16)
        wide = tuple(model._keep_in_fp32_modules_strict or ())
        expected = {
            name: "fp32" if any(part in name for part in wide) else FORMATS[str(buffer.dtype).removeprefix("torch.")]
            for name, buffer in model.named_buffers()
        }
        own = model_from(config)
        found = {t.name: t.dtype for t in own.buffers()}
        found |= {name: "fp32" for name in found if any(part in name for part in own.fp32)}
        assert {name: None if form == "bf16" else form for name, form in found.items()} == expected
