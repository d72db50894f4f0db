"""DeepSeek-OCR 2 and Unlimited-OCR: SAM's tower before another, and a language model of experts (arXiv:2510.18234)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.model import Layer, Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._composite import read_inner
from tonnage.families._decoder import chosen
from tonnage.families._experts import shared_expert, words
from tonnage.families._language import as_tower, headed, language
from tonnage.families._pieces import matrix
from tonnage.families._sam import SAM, sam
from tonnage.families._towers import convolution, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

DEEPSEEK: Final[dict[str, Any]] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "moe_intermediate_size": 1407,
}
UNLIMITED: Final[dict[str, Any]] = {
    "vocab_size": 129280,
    "hidden_size": 1280,
    "intermediate_size": 6848,
    "num_hidden_layers": 12,
    "num_attention_heads": 10,
    "moe_intermediate_size": 896,
    "num_experts_per_tok": 6,
}
TOWER: Final = "model.vision_tower"
PATH: Final = "model.language_model"
KEPT: Final = "reference_sliding_attention"
"""Attention to a window, and to the prompt and its images however far they are."""


def read(k: Keys) -> Model:
    """Build ``DeepseekOcr2ForConditionalGeneration`` or ``UnlimitedOcrForConditionalGeneration``."""
    unlimited = k.config["model_type"] == "unlimited_ocr"
    key = "language_config" if unlimited and "text_config" not in k.config else "text_config"
    names = {"num_experts": "n_routed_experts"}
    model = read_inner(
        k, key, UNLIMITED if unlimited else DEEPSEEK, lambda inner: _text(inner, unlimited), aliases=names,
        less=("model_type", "head_dim", "tie_word_embeddings"),
    )  # fmt: skip
    width, tensors = read_inner(k, "vision_config", {}, _unlimited if unlimited else _deepseek, less=("model_type",))
    D = model.width
    extra = (
        *tensors,
        *matrix("model.multi_modal_projector", ("X", width), ("D", D), "vision").weights(),
        Tensor("model.view_separator", (("D", D),), "vision"),
    )
    if unlimited:
        k.skip("sliding_window")
        extra += (Tensor("model.image_newline", (("D", D),), "vision"),)
    return headed(model, k.want("tie_word_embeddings", False), extra=extra).but(model_type=str(k.config["model_type"]))


def _text(k: Keys, unlimited: bool) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp_bias = attention(k, D), k.want("mlp_bias", False)
    dense = gated(k, D, bias=mlp_bias)
    E, F = k.size("n_routed_experts", 64), k.need("moe_intermediate_size")
    shared = shared_expert(D, F * k.want("n_shared_experts", 2), dense.act, bias=mlp_bias)
    experts = Experts(name="mlp", D=D, E=E, used=chosen(k, E, None), F=F, act=dense.act, shared=shared)
    k.skip("n_group", "topk_group", "topk_method", "routed_scaling_factor")
    routes = words(k, "mlp_layer_types", L, ("dense", "sparse"))
    if routes is None and not unlimited:
        raise ConfigError(f"{k.path}mlp_layer_types is missing", key=f"{k.path}mlp_layer_types", file=k.file)
    routes = ["dense", *["sparse"] * (L - 1)] if routes is None else routes
    if unlimited:
        # What is kept is the prompt and the window; how much is prompt is not known here, so that all of it counts.
        words(k, "layer_types", L, (KEPT,))
        k.skip("sliding_window")

    @cache
    def layer(kind: str) -> Layer:
        own: GroupedQuery = token
        channel = Untraced(block=experts, what="DeepSeek-OCR 2's experts") if kind == "sparse" else dense
        return normed_before(
            Untraced(block=own, what="DeepSeek-OCR 2's attention"),
            channel,
            D,
            kind="layer with experts" if kind == "sparse" else "dense layer",
        )

    layers = tuple(map(layer, routes))
    return decoder(k, D, layers, width=token.H, positions=2048, path=PATH).but(head=None)


def _sam(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of SAM's tower with two convolutions behind."""
    path, down = f"{TOWER}.sam_encoder", k.optional("downsample_channels", list)
    down = [512, 1024 if "unlimited" in str(k.config.get("model_type")) else 896] if down is None else down
    if len(down) != 2 or not all(isinstance(n, int) and n > 0 for n in down):
        raise ConfigError(f"{k.path}downsample_channels must be two numbers", key=f"{k.path}downsample_channels")
    k.skip("scale", "model_type")
    outs, tensors = sam(k, path)
    first = convolution("proj.conv1", outs, down[0], 3, 3, bias=False)
    second = convolution("proj.conv2", down[0], down[1], 3, 3, bias=False)
    return down[1], tensors + tower("vision", path, *first, *second)


def _deepseek(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """A language model over SAM's patches, and queries for either of two sizes of image."""
    _, tensors = read_inner(k, "sam_config", {**SAM, "model_type": "deepseek_ocr2_sam_vision_model"}, _sam)
    model = language(k, f"{TOWER}.vision_encoder", "qwen2", key="encoder_config", fixed=True).model
    D = model.width
    queries = tuple(
        Tensor(f"{TOWER}.query_{side}_resolution.weight", (("P", rows), ("D", D)), "vision")
        for side, rows in ((768, 144), (1024, 256))
    )
    return D, tensors + as_tower(model, "vision") + queries


def _unlimited(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """CLIP's tower over SAM's patches; what both see stands side by side."""
    beside, tensors = read_inner(k, "sam_config", {**SAM, "model_type": "unlimited_ocr_sam_vision_model"}, _sam)
    path = f"{TOWER}.vision_encoder"
    width, found = seen(k, path, "unlimited_ocr_vision_encoder", key="encoder_config", fixed=True)
    # Its patches come from the other tower, and nothing norms its output.
    without = (f"{path}.embeddings.patch_embedding.", f"{path}.post_layernorm.")
    return beside + width, tensors + tuple(t for t in found if not t.name.startswith(without))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_ocr2/"
    "modeling_deepseek_ocr2.py",
)
