"""pi0: Gemma as an expert for a robot's actions beside PaliGemma (arXiv:2410.24164)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import Text, as_tower, language, unpassed
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "model_type": "gemma",
    "hidden_size": 2048,
    "num_hidden_layers": 18,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "vocab_size": 257152,
}
VISION: Final[dict[str, Any]] = {
    "model_type": "siglip_vision_model",
    "intermediate_size": 4304,
    "hidden_size": 1152,
    "patch_size": 14,
    "image_size": 224,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "vision_use_head": False,
}
EXPERT: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "num_hidden_layers": 18,
    "intermediate_size": 4096,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 256,
}
OVERRULED: Final = ("use_bidirectional_attention", "is_causal", "num_image_tokens")


def read(k: Keys) -> Model:
    """Build ``PI0ForConditionalGeneration``, whose head tells a robot's actions."""
    given = {} if k.config.get("vlm_config") is not None else {"text_config": TEXT, "vision_config": VISION}
    text, tensors = read_inner(k, "vlm_config", given, _sees, less=("model_type",))
    # Its vocabulary is the other model's.
    less = (*OVERRULED, "vocab_size")
    V = {"vocab_size": text.model.vocabulary}
    expert = language(k, "model.dit", "gemma", key="dit_config", given=EXPERT, always=V, less=less).model
    D, moves, states = expert.width, k.size("max_action_dim", 32), k.size("max_state_dim", 32)
    k.skip("chunk_size", "num_inference_steps", "time_sampling_beta_alpha", "time_sampling_beta_beta", "loss_reduction")
    k.skip("time_sampling_scale", "time_sampling_offset", "min_period", "max_period")
    table = tuple(expert.decoder.stem.but(rotary=(), buffers=()).weights())
    actions = tower(
        "vision",
        "embed_action_time",
        matrix("action_in_proj", ("X", moves), ("D", D), "vision"),
        matrix("state_proj", ("X", states), ("D", D), "vision"),
        matrix("action_time_mlp_in", ("X", 2 * D), ("D", D), "vision"),
        matrix("action_time_mlp_out", ("D", D), ("D", D), "vision"),
        Tensor("sinusoid_embeds.sinusoid_freq", (("X", D // 2),), "buffer", dtype="fp32"),
    )
    head = Head(name="action_out_proj", D=D, V=moves, bias=True)
    extra = (*text.model.extra, *tensors, *table, *as_tower(expert, "feed_forward"), *actions)
    model = text.model.but(model_type="pi0", head=head, extra=extra)
    return unpassed(model, "pi0, whose expert works beside its language model")


def _sees(k: Keys) -> tuple[Text, tuple[Tensor, ...]]:
    """PaliGemma without its head."""
    text = language(k, "model.vlm.language_model", "gemma", given=TEXT, less=OVERRULED)
    width, tensors = seen(k, "model.vlm.vision_tower", "siglip_vision_model", given=VISION)
    D = k.size("projection_dim", 2048)
    k.skip("vocab_size", "hidden_size", "tie_word_embeddings", "image_token_index", "num_hidden_layers")
    projector = matrix("model.vlm.multi_modal_projector.linear", ("X", width), ("D", D), "vision")
    return text, (*tensors, *projector.weights())


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pi0/modeling_pi0.py",
)
