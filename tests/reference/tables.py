"""What a table of perturbations is made of."""

from __future__ import annotations

from typing import Any

Table = dict[str | tuple[str, ...], tuple[Any, ...]]
"""Keys of a config and the values that they are drawn from; keys whose values depend on each other stand together."""

FLAGS = (True, False)


def without(table: Table, *keys: str) -> Table:
    return {k: v for k, v in table.items() if k not in keys}


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
