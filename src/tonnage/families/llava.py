"""LLaVA and its like: a language model of any type behind a tower of any type and two matrices (arXiv:2304.08485)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.naming import moved
from tonnage.arch.parts import Part
from tonnage.arch.sight.anyres import Unpadded
from tonnage.arch.sight.blocks import Merged, Row
from tonnage.arch.sight.joined import Chosen
from tonnage.arch.sight.towers import Upright
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import chosen_layers, tower
from tonnage.families.towers import numbers, sighted
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Tensor

CLIP: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
SIGLIP: Final[dict[str, Any]] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}


FASTVIT: Final[dict[str, Any]] = {
    "architecture": "fastvit_mci3",
    "hidden_size": 3072,
    "model_args": {"inference_mode": True},
}
FASTVLM: Final[dict[str, Any]] = {
    "hidden_size": 3584,
    "vocab_size": 152128,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
}


STRATEGIES: Final = ("default", "full")
"""Whether the tower's first row is left out."""


SHAPES: Final = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Heights and widths that LLaVA-NeXT brings pictures to where the config has none."""
MANY: Final = tuple((384 * h, 384 * w) for h in range(1, 7) for w in range(1, 7))
"""The same of LLaVA-OneVision."""


class Kind(Record):
    """What differs between the types.

    Args:
        text: type of the language model where the config names none.
        tower: type of the tower where the config names none.
        given: the tower where the config has none.
        towers: their modules.
        newline: a learned vector stands between the rows of an image.
        joined: the language model's config ties the head too.
        layers: what the projector is given where the config does not say.
        normed: the projector begins with a norm.
        sizes: of the language model where the config has none.
        strategy: whether the tower's first row is left out where the config does not say.
        sees: its pass over pictures is modelled.
        tells: the class hands ``use_cache`` on.
        follows: the head is tied as in the language model's config where the one around it says nothing.
    """

    text: str = "llama"
    tower: str = "clip_vision_model"
    given: dict[str, Any] = CLIP
    towers: tuple[str, ...] = ("vision_tower",)
    newline: bool = False
    joined: bool = False
    layers: int | tuple[int, ...] = -2
    normed: bool = False
    sizes: dict[str, Any] | None = None
    follows: bool = False
    tells: bool = False
    strategy: str = "default"
    sees: bool = False


KINDS: Final = {
    "llava": Kind(joined=True, sees=True),
    "llava_next": Kind(newline=True, tells=True, sees=True),
    "llava_next_video": Kind(newline=True, joined=True, tells=True),
    "llava_onevision": Kind(
        text="qwen2",
        tower="siglip_vision_model",
        given=SIGLIP,
        newline=True,
        joined=True,
        layers=-1,
        tells=True,
        strategy="full",
        sees=True,
    ),
    "video_llava": Kind(given={**CLIP, "image_size": 224}, towers=("image_tower", "video_tower"), tells=True),
    "vipllava": Kind(layers=(-2, -5, -8, -11, 6), normed=True),
    "fast_vlm": Kind(text="qwen2", tower="timm_wrapper", given=FASTVIT, joined=True, layers=-1, sizes=FASTVLM),
    "perception_lm": Kind(tower="timm_wrapper", given={}, layers=-1, follows=True),
}


def read(k: Keys) -> Model:
    """Build the model that ``LlavaForConditionalGeneration`` or its like builds."""
    name = str(k.config["model_type"])
    kind = KINDS[name]
    text = language(k, "model.language_model", kind.text, given=kind.sizes)
    D = text.model.width
    tensors: tuple[Tensor, ...] = ()
    for path in kind.towers:
        sight = sighted(k, f"model.{path}", kind.tower, given=kind.given)
        tensors += sight.tensors
    layers = chosen_layers(k, kind.layers)
    ins = sight.width * len(layers)
    # Its own bias is a key of every type but ViP-LLaVA and Perception LM.
    bias = kind.normed or kind.follows or k.want("multimodal_projector_bias", True)
    projector: list[Part] = [layer_norm("projector_layernorm", ins)] if kind.normed else []
    first = matrix("linear_1", ("X", ins), ("D", D), "vision", bias=bias)
    second = matrix("linear_2", ("D", D), ("D", D), "vision", bias=bias)
    projector += [first, second]
    tensors += tower("vision", "model.multi_modal_projector", *projector)
    if kind.newline:
        tensors += (Tensor("model.image_newline", (("D", D),), "vision"),)
    act = k.optional("projector_hidden_act", str, "gelu") or "gelu"
    strategy = k.optional("vision_feature_select_strategy", str, kind.strategy) or kind.strategy
    k.skip("image_seq_length", "video_seq_length")
    pinned = k.optional("image_grid_pinpoints", list)
    k.skip("spatial_pool_mode", "spatial_pool_stride")
    most = _most(k) if name == "llava_onevision" else None
    k.skip("projector_layernorm_eps", "use_image_newline_parameter", "vocab_size", "pad_token_id")
    k.skip("vision_use_cls_token", "projector_pooling_ratio")
    own = k.optional("tie_word_embeddings", bool, None if kind.follows else False)
    tied = bool(own) or (text.tied and (kind.joined or (kind.follows and own is None)))
    model = headed(text.model, tied, extra=tensors, tells=kind.tells)
    taken = numbers(sight, layers)
    if name == "llava" and isinstance(sight.tower, Row) and strategy == "full" and len(taken) == 1:
        first, second = (moved(part, "model.multi_modal_projector.".__add__) for part in (first, second))
        return model.but(eye=Merged(tower=sight.tower, taken=taken, first=first, second=second, act=act))
    if not kind.sees or not isinstance(sight.tower, Upright) or not taken or strategy not in STRATEGIES:
        return model
    first, second = (moved(part, "model.multi_modal_projector.".__add__) for part in (first, second))
    eye = Chosen(
        tower=sight.tower, taken=taken, cuts=strategy == "default", first=first, second=second, act=act
    )  # fmt: skip
    if not kind.newline:
        return model.but(eye=eye)
    shapes, side = _shapes(k, pinned, MANY if most else SHAPES), sight.tower.image
    # Else what is laid beside others is no square of patches, or there is nothing to lay.
    if min(map(min, shapes), default=0) < side or eye.rows != (side // sight.tower.patches.side) ** 2:
        return model
    return model.but(eye=Unpadded(**vars(eye), shapes=shapes, newline="model.image_newline", most=most))


def _most(k: Keys) -> int:
    """Tiles behind ``anyres_max_``."""
    said = k.want("vision_aspect_ratio", "anyres_max_9")
    number = str(said).removeprefix("anyres_max_")
    if number.isdecimal() and int(number):
        return int(number)
    name = f"{k.path}vision_aspect_ratio"
    raise ConfigError(f"{name} must be anyres_max_ and a number", key=name, value=said, file=k.file)


def _shapes(k: Keys, said: list[Any] | None, known: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of sizes."""
    if said is None:
        return known
    for pair in said:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
            name = f"{k.path}image_grid_pinpoints"
            raise ConfigError(f"{name} must be a list of heights and widths", key=name, value=pair, file=k.file)
    return tuple((h, w) for h, w in said)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/llava/modeling_llava.py",
    attributes={
        "image_token_id": "image_token_index",
        "video_token_id": "video_token_index",
        "vision_feature_layers": "vision_feature_layer",
    },
)
