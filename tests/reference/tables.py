"""What a table of perturbations is made of."""

from __future__ import annotations

from typing import Any

Table = dict[str | tuple[str, ...], tuple[Any, ...]]
"""Keys of a config and the values that they are drawn from; keys whose values depend on each other stand together."""

FLAGS = (True, False)


def without(table: Table, *keys: str) -> Table:
    return {k: v for k, v in table.items() if k not in keys}


READER: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
"""A language model inside of another model."""
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
"""A tower."""
CODER: dict[str, Any] = {"num_filters": 4, "downsampling_ratios": [2, 3], "depths": [1, 2, 3]}

LLAMA: Table = {
    "hidden_size": (96, 192),
    "intermediate_size": (64, 160),
    "num_hidden_layers": (1, 2, 3),
    "num_attention_heads": (6, 12),
    "num_key_value_heads": (1, 2, 3, 6),
    "vocab_size": (96, 101),
    "tie_word_embeddings": FLAGS,
}
MHA = without(LLAMA, "num_key_value_heads")
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
