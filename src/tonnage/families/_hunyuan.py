"""What Hunyuan's models share: attention with norms of queries and keys behind the rotation."""

from __future__ import annotations

from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.families._blocks import attention, normed_heads
from tonnage.keys import Keys

UNREAD: Final = (
    "add_classification_head", "attention_head_dim", "cla_share_factor", "class_num", "dense_list", "im_end_id",
    "im_newline_id", "im_start_id", "mask_init_id", "mlp_bias", "norm_type", "org_vocab_size", "pad_id", "pool_type",
    "text_end_id", "text_start_id", "use_qk_norm", "use_rotary_pos_emb",
)  # fmt: skip
"""Keys of released configs that transformers' classes do not read."""


def hunyuan_attention(k: Keys, D: int) -> GroupedQuery:
    """Attention as Hunyuan's configs describe it; sharing keys and values across layers is refused."""
    k.skip(*UNREAD)
    k.refuse("use_cla")
    return normed_heads(attention(k, D), names=("query_layernorm", "key_layernorm"), norm_after_rotary=True)
