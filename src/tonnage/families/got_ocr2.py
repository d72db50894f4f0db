"""GOT-OCR 2: Qwen 2 behind SAM's tower for images (arXiv:2409.01704)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Loose
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.families._composite import filled
from tonnage.families._decoder import used_window, windows
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, side, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

VISION: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "output_channels": 256,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 1024,
    "patch_size": 16,
    "window_size": 14,
    "global_attn_indexes": [2, 5, 8, 11],
    "mlp_dim": 3072,
}
TEXT: Final[dict[str, Any]] = {
    "vocab_size": 151860,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32768,
}
PATH: Final = "model.language_model"


def read(k: Keys) -> Model:
    """Build the model that ``GotOcr2ForConditionalGeneration`` builds."""
    k.skip("image_seq_length")
    tied = k.want("tie_word_embeddings", True)
    model = filled(k, "text_config", TEXT, _text)
    assert model.head is not None
    channels, tensors = filled(k, "vision_config", VISION, _tower)
    D = model.width
    projector = tower(
        "vision",
        "model.multi_modal_projector",
        *convolution("conv_upsampler1", channels, 2 * channels, 3, 3, bias=False),
        *convolution("conv_upsampler2", 2 * channels, D, 3, 3, bias=False),
        matrix("multimodal_projector", ("D", D), ("D", D), "vision"),
    )
    return model.but(
        model_type="got_ocr2",
        head=model.head.but(alias_of=f"{PATH}.embed_tokens.weight" if tied else None),
        extra=tensors + projector,
    )


def _text(k: Keys) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    window, first = used_window(k), k.want("max_window_layers", 21)
    seen = windows(k, L, window, lambda i: i >= first)
    norm = (("D", D),)
    token, mlp = attention(k, D, K=32, bias=True, o_bias=False), gated(k, D)
    layers = {
        tokens: Layer(
            sublayers=(
                Sublayer(
                    block=counted("a model that reads images", token.but(window=tokens)),
                    before=Norm("input_layernorm", norm),
                ),
                Sublayer(block=mlp, before=Norm("post_attention_layernorm", norm)),
            )
        )
        for tokens in set(seen)
    }
    return decoder(k, D, tuple(layers[tokens] for tokens in seen), width=token.H, positions=32768, path=PATH)


def _tower(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    """Output channels and tensors of SAM's tower: relative positions over the window, or the image in global layers."""
    D, F, N = k.need("hidden_size"), k.need("mlp_dim"), k.need("num_attention_heads")
    H = k.divides("hidden_size", "num_attention_heads", D, N)
    patch, channels, outs = side(k, "patch_size"), k.need("num_channels"), k.need("output_channels")
    grid, window = side(k, "image_size") // patch, k.need("window_size")
    whole = set(k.optional("global_attn_indexes", list) or ())
    relative, absolute, bias = k.want("use_rel_pos", True), k.want("use_abs_pos", True), k.want("qkv_bias", True)
    k.skip("hidden_act", "attention_dropout", "num_pos_feats", "mlp_ratio")
    path = "model.vision_tower"
    found = tower(
        "vision",
        path,
        *convolution("patch_embed.projection", channels, D, patch, patch),
        *convolution("neck.conv1", D, outs, 1, 1, bias=False),
        layer_norm("neck.layer_norm1", outs),
        *convolution("neck.conv2", outs, outs, 3, 3, bias=False),
        layer_norm("neck.layer_norm2", outs),
    )
    if absolute:
        found += (Tensor(f"{path}.pos_embed", (("B", 1), ("X", grid), ("P", grid), ("D", D)), "vision"),)
    for index in range(k.need("num_hidden_layers")):
        rows = 2 * (grid if index in whole or not window else window) - 1
        tables = (
            tuple(Tensor(f"attn.rel_pos_{at}", (("P", rows), ("H", H)), "vision") for at in "hw") if relative else ()
        )
        found += tower(
            "vision",
            f"{path}.layers.{index}",
            layer_norm("layer_norm1", D),
            matrix("attn.qkv", ("D", D), ("X", 3 * D), "vision", bias=bias),
            matrix("attn.proj", ("D", D), ("D", D), "vision"),
            Loose(tables),
            layer_norm("layer_norm2", D),
            *feed_forward("mlp", D, F, "lin1", "lin2"),
        )
    return outs, found


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/got_ocr2/"
    "modeling_got_ocr2.py",
    attributes={"image_token_index": "image_token_id"},
)
