"""Florence-2: an encoder and a decoder of any type behind a tower of windows and channels (arXiv:2311.06242)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import language, unpassed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "depths": [1, 1, 9, 1],
    "patch_size": [7, 3, 3, 3],
    "patch_prenorm": [False, True, True, True],
    "embed_dim": [128, 256, 512, 1024],
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
}
STAGES: Final = tuple(VISION)
TOWER: Final = "model.vision_tower"


def read(k: Keys) -> Model:
    """Build ``Florence2ForConditionalGeneration``."""
    text = language(k, "model.language_model", "bart")
    model, D = text.model, text.model.width
    tied, table = k.want("tie_word_embeddings", True), f"{model.stacks[0].stem.name}.weight"
    if table != "model.language_model.shared.weight":
        raise UnsupportedError(
            "a text model without an embedding for both its stacks is not modelled", key="text_config"
        )
    tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    head = Head(name="lm_head", D=D, V=model.vocabulary, alias_of=table if tied else None)
    k.skip("is_encoder_decoder")
    model = model.but(model_type="florence2", head=head, extra=model.extra + tensors)
    return unpassed(model, "a model that reads images")


def _vision(k: Keys) -> tuple[Tensor, ...]:
    """The stages of the tower, and the projection of their output with its positions."""
    lists = {name: k.need(name, list) for name in STAGES}
    stages = len(lists["embed_dim"])
    for name, values in lists.items():
        if len(values) != stages:
            raise ConfigError(f"{k.path}{name} has {len(values)} entries for {stages} stages", key=k.path + name)
    ins, bias, times = k.size("in_channels", 3), k.want("qkv_bias", True), k.want("mlp_ratio", 4.0)
    k.skip("patch_stride", "patch_padding", "window_size", "drop_path_rate", "activation_function")
    found: tuple[Tensor, ...] = ()
    for index, (D, patch, first) in enumerate(
        zip(lists["embed_dim"], lists["patch_size"], lists["patch_prenorm"], strict=True)
    ):
        for what in ("num_heads", "num_groups"):
            k.divides("embed_dim", what, D, lists[what][index])
        found += tower(
            "vision",
            f"{TOWER}.convs.{index}",
            *convolution("conv", ins, D, patch, patch),
            layer_norm("norm", ins if first else D),
        )
        for depth in range(lists["depths"][index]):
            found += tower("vision", f"{TOWER}.blocks.{index}.{depth}", *_block(D, int(D * times), bias))
        ins = D
    return found + _projector(k, ins)


def _block(D: int, F: int, bias: bool) -> tuple[Part | Tensor, ...]:
    """Attention over a window of patches, then over channels."""
    parts: list[Part | Tensor] = []
    for name, what in (("spatial_block", "window_attn"), ("channel_block", "channel_attn")):
        parts += [
            *convolution(f"{name}.conv1", 1, D, 3, 3),
            layer_norm(f"{name}.norm1", D),
            matrix(f"{name}.{what}.qkv", ("D", D), ("X", 3 * D), "vision", bias=bias),
            matrix(f"{name}.{what}.proj", ("D", D), ("D", D), "vision"),
            *convolution(f"{name}.conv2", 1, D, 3, 3),
            layer_norm(f"{name}.norm2", D),
            *feed_forward(f"{name}.ffn", D, F),
        ]
    return tuple(parts)


def _projector(k: Keys, ins: int) -> tuple[Tensor, ...]:
    outs, rows = k.size("projection_dim", 1024), k.size("max_position_embeddings", 50)
    frames = k.size("max_temporal_embeddings", 100)
    return tower(
        "vision",
        "model.multi_modal_projector",
        matrix("image_projection", ("X", ins), ("D", outs), "vision", bias=False),
        layer_norm("image_proj_norm", outs),
        Tensor("image_position_embed.row_embeddings.weight", (("P", rows), ("X", ins // 2)), "vision"),
        Tensor("image_position_embed.column_embeddings.weight", (("P", rows), ("X", ins - ins // 2)), "vision"),
        Tensor("visual_temporal_embed.pos_idx_to_embed", (("P", frames), ("X", ins)), "buffer"),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/florence2/"
    "modeling_florence2.py",
)
