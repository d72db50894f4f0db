"""Granite Docling: Granite behind SigLIP's tower, whose layers are handed on by two ways of different fineness."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language, unpassed
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import clip_layer, convolution, repeated, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 133800,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 512,
    "patch_size": 16,
}
TOWER: Final = "model.vision_model"


def read(k: Keys) -> Model:
    """Build ``GraniteDoclingForConditionalGeneration``."""
    text = language(k, "model.text_model", "granite", fixed=True, always=TEXT)
    width, fine, tensors = read_inner(
        k, "vision_config", VISION, lambda inner: _vision(inner, text.model.width), less=("model_type",)
    )
    hidden = k.optional("density_router_hidden_size")
    k.skip("density_router_threshold", "density_router_loss_weight")
    if hidden is not None:
        if not fine:
            raise ConfigError("a density router needs use_fine_route", key="density_router_hidden_size", value=hidden)
        tensors += tower(
            "vision",
            "model.density_router",
            matrix("att", ("X", width), ("X", 1), "vision"),
            layer_norm("norm", width),
            matrix("fc1", ("X", width), ("F", hidden), "vision"),
            matrix("fc2", ("F", hidden), ("X", 1), "vision"),
        )
    model = headed(text.model, k.want("tie_word_embeddings", True), extra=tensors)
    return unpassed(model, "Granite Docling, whose layers take up what the tower sees")


def _vision(k: Keys, text: int) -> tuple[int, bool, tuple[Tensor, ...]]:
    """Width, whether there is a fine way, and tensors of the tower with its connector."""
    D, F, patch, outs = (
        k.need("hidden_size"),
        k.need("intermediate_size"),
        side(k, "patch_size"),
        k.size("out_hidden_size", 1024),
    )
    grid, factor, fine = side(k, "image_size") // patch, k.size("scale_factor", 4), k.want("use_fine_route", True)
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "attention_dropout")
    if outs != text:
        name = f"{k.path}out_hidden_size"
        raise ConfigError(f"{name} = {outs}, but the text model is {text} wide", key=name, value=outs, file=k.file)
    taken = k.optional("deepstack_visual_indexes", list)
    merged = len([3, 7, 10] if taken is None else taken)
    tensors = tower(
        "vision",
        TOWER,
        *convolution("embeddings.patch_embedding", k.need("num_channels"), D, patch, patch),
        Tensor("embeddings.position_embedding.weight", (("P", grid**2), ("D", D)), "vision"),
        Tensor("embeddings.position_ids", (("X", 1), ("P", grid**2)), "buffer", dtype="int64"),
        layer_norm("post_layernorm", D),
        layer_norm("connector.ln_in", D),
        layer_norm("connector.ln_mid", outs),
        layer_norm("connector.ln_out", outs),
        matrix("connector.mlp_fc2", ("D", outs), ("D", outs), "vision", bias=False),
    )
    tensors += repeated("vision", f"{TOWER}.encoder.layers", k.need("num_hidden_layers"), *clip_layer(D, F))
    for name, times in (("coarse", factor), *((("fine", factor // 2),) if fine else ())):
        tensors += _way(f"{TOWER}.connector.{name}", D * times**2, outs, (grid // times) ** 2, merged)
    return D, fine, tensors


def _way(path: str, ins: int, outs: int, cells: int, merged: int) -> tuple[Tensor, ...]:
    """Neighbouring patches as one, of the last layer and of ``merged`` earlier ones."""
    merger: tuple[Part, ...] = (
        layer_norm("layer_norm", ins),
        matrix("linear_1", ("X", ins), ("D", outs), "vision"),
        matrix("linear_2", ("D", outs), ("D", outs), "vision"),
    )
    first = tower(
        "vision",
        path,
        matrix("projection", ("X", ins), ("D", outs), "vision", bias=False),
        Tensor("pos_embed.pos_embed", (("P", cells), ("D", outs)), "buffer", dtype="fp32"),
    )
    return first + repeated("vision", f"{path}.deepstack_mergers", merged, *merger)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granite_docling/"
    "modeling_granite_docling.py",
)
