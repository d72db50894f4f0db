"""GOT-OCR 2: Qwen 2 behind SAM's tower for images (arXiv:2409.01704)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.families._composite import filled
from tonnage.families._decoder import used_window, windows
from tonnage.families._pieces import counted, matrix
from tonnage.families._sam import SAM, sam
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys

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
    channels, tensors = filled(
        k, "vision_config", {**SAM, "mlp_dim": 3072}, lambda inner: sam(inner, "model.vision_tower")
    )
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


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/got_ocr2/"
    "modeling_got_ocr2.py",
    attributes={"image_token_index": "image_token_id"},
)
