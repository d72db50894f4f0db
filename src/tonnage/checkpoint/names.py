"""What a tensor's name tells: what it is for, and the layer it belongs to.

A header has no other word for it. The rules know the names of transformers, of Meta's and Mistral's own files, of GGUF
and of diffusers; what they do not know is "other", never a guess.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

OTHER: Final = "other"

_MASK: Final = bytes(35 if 48 <= i < 58 else i for i in range(256))
_DIGIT: Final = re.compile(r"\d", re.ASCII)
_RUN: Final = re.compile(r"#+")
_LAYER: Final = re.compile(
    r"(?:^|\.)(?:layers?|h|blocks?|blk|encoder|decoder|double_blocks|single_blocks|transformer_blocks|resblocks)\.(#+)\."
)
_LAST: Final = frozenset(["weight", "bias", "beta", "gamma", "base_layer"])

# Quantization's side tensors stand behind the weight's own name or beside it.
_SIDE: Final = re.compile(
    r"(?:\.(?:weight\.)?(?:absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.[\w#]+|nested_offset)"
    r"|\.(?:scb|weight_format|g_idx|qzeros|qscales|scales|zeros|meta|scale_weight|scale_input|input_scale|output_scale"
    r"|weight_scale|weight_scale_inv|weight_scale_#+|weight_global_scale|input_global_scale|weight_zero_point|input_zero_point"
    r"|weight_g_idx|weight_shape|activation_scale|activation_scale_inv|k_scale|v_scale|q_scale|scale_inv"
    r"|k_proj\.output_scale|v_proj\.output_scale)"
    r"|_scales|_scale_inv|_input_scale|_weight_scale)$"
)

_RULES: Final = (
    (
        "buffer",
        r"rotary_emb|inv_freq|rope_freqs|rope_factors|embed_scale$|(?:position|token_type)_ids$|e_score_correction_bias$"
        r"|exp_probs_b(?:\.|$)|\.attn\.(?:masked_)?bias$|\.attention\.(?:masked_)?bias$|attn\.embed_positions$"
        r"|num_batches_tracked$|running_(?:mean|var)$|(?:weight|bias)_integer$|_scaling_factor$|\.x_(?:min|max)$"
        r"|mask_value_float#$",
    ),
    (
        "router",
        r"(?:^|\.)(?:routers?|gate_inp|ffn_gate_inp|expert_bias)(?:\.|$)|(?:mlp|moe|ffn|feed_forward)\.gate(?:\.|$)",
    ),
    ("shared_expert", r"shared_expert|_shexp|shared_mlp"),
    ("expert", r"(?:^|\.)experts?(?:\.|_|$)|_exps(?:\.|$)|ffn_(?:gate|up|down)\.#\."),
    (
        "position",
        r"(?:^|[._])wpe(?:\.|$)|position_embd|embed_positions|position_embeddings?|positional_embedding|positions_embed"
        r"|pos_embed(?:ding)?s?(?:\.|$)|relative_attention_bias|attn_rel_b|token_type_embeddings|token_types(?:\.|$)",
    ),
    (
        "head",
        r"(?:^|\.)lm_head(?:\.|$)|^output(?:\.|$)|(?:^|\.)embed_out(?:\.|$)|shared_head[._]head|project_out(?:\.|$)|(?:^|\.)output_projection(?:\.|$)"
        r"|^(?:score|classifier|qa_outputs|generator_lm_head|generator_predictions|lm_loss|proj_out|head|cls)(?:\.|$)",
    ),
    ("pooler", r"(?:^|\.)pooler(?:\.|$)"),
    (
        "embedding",
        r"(?:^|\.)(?:wte|embed_tokens|word_embeddings?|embed_in|token_embd|tok_embeddings|token_embedding|project_in|tokens_embed"
        r"|embed_tokens_per_layer|per_layer_token_embd)(?:\.|$)|(?:^|\.)shared(?:\.|$)|backbone\.embeddings?(?:\.|$)"
        r"|^(?:\w+\.)?embeddings?(?:\.weight|$)|embeddings?_(?:project|hidden_mapping_in)(?:\.|$)",
    ),
    (
        "mixer",
        r"(?:^|\.)(?:mixer|mamba|ssm|linear_attn|time_mix\w*|recurrent|short_?conv|conv)(?:\.|_|$)|(?:^|\.)ssm_"
        r"|^rwkv\.blocks\.#\.attention\.",
    ),
    (
        "feed_forward",
        r"(?:^|\.)(?:mlp|ffn|feed_forward|feedforward|ff|ff_context|densereludense|channel_mix\w*|intermediate|eh_proj)"
        r"(?:\.|_|$)",
    ),
    (
        "attention",
        r"attn|attention|indexer|(?:^|\.)(?:wqkv?|wk|wv|wo|[qkvo]_proj|qkv|qkv_proj|query_key_value)(?:\.|$)",
    ),
    (
        "feed_forward",
        r"(?:^|\.)(?:fc_?#|fc_in|fc_out|w#|wi|wi_#|c_fc|gate_proj|up_proj|down_proj|gate_up_proj|linear#)(?:\.|$)"
        r"|layers?\.#\.output\.dense",
    ),
)
_COMPILED: Final = tuple((role, re.compile(pattern)) for role, pattern in _RULES)
_NORM: Final = re.compile(r"norm(?:_?[a-z#])?$|norm_embedding$|norm_(?:enc|dec|final|#)$|(?:^|_)ln(?:_[\w#]+|#)?$")

_TOWERS: Final = (
    (
        "audio",
        re.compile(
            r"(?:^|\.)(?:audio_\w+|speech_encoder|talker|token#wav|code#wav|codec_model|(?:acoustic|semantic)_\w+)\.|^a\."
        ),
    ),
    (
        "vision",
        re.compile(
            r"(?:^|\.)(?:vision_\w+|visual\w*|vqmodel|image_(?:encoder|embed)|perceiver_resampler|multi_modal_projector"
            r"|(?:spatial|layerwise)_projectors)\.|^(?:v|mm)\."
        ),
    ),
)
"""All of a tower has its role, whatever it is inside."""

_MOST: Final = 10_000


class About(NamedTuple):
    """What all names of one pattern have in common; a pattern keeps every place, so ends are those of each name.

    Args:
        role: what the tensor is for.
        stem: end of the name of the weight that a side tensor belongs to; 0 for a weight.
        layer: start of the layer's index; 0 outside the layers.
        end: end of it.
    """

    role: str
    stem: int
    layer: int
    end: int


_known: dict[bytes, About] = {}
"""By name with ``#`` for digits: headers have few different ones."""


def about(name: str) -> About:
    """What a name tells."""
    # Bytes, since translating a text takes twenty times as long.
    key = name.encode().translate(_MASK)
    found = _known.get(key)
    if found is None:
        if len(_known) > _MOST:
            _known.clear()
        masked = _DIGIT.sub("#", name)
        plain = masked.lower()
        # Lower case of some letters is longer; such a name has no side that is known.
        side = _SIDE.search(plain) if len(plain) == len(masked) else None
        layers = _LAYER.search(masked)
        found = _known[key] = About(
            _role(_RUN.sub("#", plain)),
            0 if side is None else side.start(),
            0 if layers is None else layers.start(1),
            0 if layers is None else layers.end(1),
        )
    return found


def role(name: str) -> str:
    """What a tensor is for: one of ``tensors.ROLES`` or "other"; of a side tensor, what its weight is for.

    >>> role("model.layers.3.mlp.experts.17.down_proj.weight_scale_inv"), role("blk.0.attn_q_norm.weight")
    ('expert', 'norm')
    """
    return about(name).role


def _role(masked: str) -> str:
    plain = _SIDE.sub("", masked)
    for found, pattern in _TOWERS:
        if pattern.search(plain):
            return found
    parts = plain.split(".")
    while len(parts) > 1 and parts[-1] in _LAST:
        parts.pop()
    if _NORM.search(parts[-1]):
        return "norm"
    for found, pattern in _COMPILED:
        if pattern.search(plain):
            return found
    return OTHER


def beside(name: str) -> str | None:
    """The stem of the weight that a side tensor belongs to, such as scales to packed numbers; None for a weight.

    >>> beside("model.layers.0.mlp.up_proj.weight_scale_inv"), beside("model.layers.0.mlp.up_proj.weight")
    ('model.layers.0.mlp.up_proj', None)
    """
    stem = about(name).stem
    return name[:stem] if stem else None


def layer(name: str) -> tuple[str, int] | None:
    """The stack and the index of the layer that a tensor belongs to; None outside the layers.

    >>> layer("model.layers.12.self_attn.q_proj.weight"), layer("lm_head.weight")
    (('model.layers', 12), None)
    """
    found = about(name)
    return (name[: found.layer - 1], int(name[found.layer : found.end])) if found.layer else None
