"""Aria: a language model of experts, and learned queries that attend to a tower's patches (arXiv:2410.05993)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build ``AriaForConditionalGeneration``."""
    text = language(k, "model.language_model", "aria_text", fixed=True)
    width, tensors = seen(k, "model.vision_tower", "idefics3_vision")
    D, sees, name = text.model.width, ("D", width), "cross_attn"
    projector = tower(
        "vision",
        "model.multi_modal_projector",
        Tensor("query", (("P", _queries(k)), sees), "vision"),
        *(matrix(f"{name}.{x}_proj", sees, sees, "vision", bias=False) for x in "qkv"),
        Tensor(f"{name}.multihead_attn.in_proj_weight", (("X", 3), sees, sees), "vision", (2, 1)),
        Tensor(f"{name}.multihead_attn.in_proj_bias", (("X", 3), sees), "vision", (2,)),
        matrix(f"{name}.multihead_attn.out_proj", sees, sees, "vision"),
        matrix(f"{name}.linear", sees, sees, "vision"),
        layer_norm(f"{name}.layer_norm", width),
        layer_norm(f"{name}.layer_norm_kv", width),
        layer_norm("layer_norm", width),
        matrix("feed_forward.linear_in", sees, ("F", D), "vision", bias=False),
        matrix("feed_forward.linear_out", ("F", D), ("D", D), "vision", bias=False),
    )
    k.skip("vision_feature_layer")
    return headed(text.model, k.want("tie_word_embeddings", False), extra=tensors + projector)


def _queries(k: Keys) -> int:
    """The most queries that any number of patches is given."""
    counts = k.optional("projector_patch_to_query_dict", dict) or {1225: 128, 4900: 256}
    k.skip("max_value_projector_patch_to_query_dict")
    if not all(isinstance(n, int) and n > 0 for n in counts.values()):
        raise ConfigError(
            "projector_patch_to_query_dict must tell numbers of queries", key="projector_patch_to_query_dict"
        )
    return int(max(counts.values()))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/aria/modeling_aria.py",
    attributes={"image_token_id": "image_token_index"},
)
