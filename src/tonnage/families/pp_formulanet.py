"""PP-FormulaNet: mBART's decoder over SAM's tower, for formulas (arXiv:2503.18382)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import unpassed
from tonnage.families._pieces import matrix
from tonnage.families._sam import SAM, sam
from tonnage.families._seq2seq import Builder, Style
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 50000,
    "d_model": 512,
    "decoder_layers": 8,
    "decoder_ffn_dim": 2048,
    "decoder_attention_heads": 16,
    "max_position_embeddings": 2560,
    "tie_word_embeddings": False,
    "add_cross_attention": True,
}
VISION: Final[dict[str, Any]] = {**SAM, "image_size": 512, "mlp_dim": 3072}


def read(k: Keys) -> Model:
    """Build ``PPFormulaNetForConditionalGeneration``, whose head is never tied."""
    model = read_inner(k, "text_config", TEXT, _text, less=("model_type",))
    assert model.head is not None
    tensors = read_inner(k, "vision_config", VISION, _vision, less=("model_type",))
    k.skip("is_encoder_decoder", "tie_word_embeddings")
    model = model.but(model_type="pp_formulanet", head=model.head.but(alias_of=None), extra=model.extra + tensors)
    return unpassed(model, "a model that reads images")


def _text(k: Keys) -> Model:
    return Builder(k, Style(offset=2, embedding_norm=True, last_norm=True, pre_norm=True)).decoder_alone()


def _vision(k: Keys) -> tuple[Tensor, ...]:
    """The tower, and two convolutions and two matrices to the decoder's width."""
    _, tensors = sam(k, "model.encoder")
    ins, between = k.size("post_conv_in_channels", 256), k.size("post_conv_mid_channels", 512)
    outs, D = k.size("post_conv_out_channels", 1024), k.size("decoder_hidden_size", 512)
    return tensors + tower(
        "vision",
        "model.encoder.multi_modal_projector",
        *convolution("conv1", ins, between, 3, 3, bias=False),
        *convolution("conv2", between, outs, 3, 3, bias=False),
        matrix("linear_1", ("X", outs), ("X", outs), "vision"),
        matrix("linear_2", ("X", outs), ("D", D), "vision"),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/pp_formulanet/"
    "modeling_pp_formulanet.py",
)
