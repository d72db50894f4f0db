"""Speech2Text: BART's encoder and decoder behind convolutions over filter banks (arXiv:2010.05171)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Head, Stem
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._hybrid import whole_numbers
from tonnage.families._seq2seq import Builder, Style
from tonnage.families._towers import convolution, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

STYLE: Final = Style(
    act="relu",
    offset=2,
    last_norm=True,
    pre_norm=True,
    table="buffer",
    sources="max_source_positions",
    targets="max_target_positions",
)
TABLE: Final = "model.decoder.embed_tokens"


def read(k: Keys) -> Model:
    """Build the model that ``Speech2TextForConditionalGeneration`` builds."""
    made = Builder(k, STYLE)
    D, V = made.D, made.V
    rows = k.size("max_source_positions", 6000) + STYLE.offset
    positions = Tensor("model.encoder.embed_positions.weights", (("P", rows), ("D", D)), "buffer")
    sound = Stem(name="", V=V, D=D, buffers=(positions,))
    return made.model(
        (
            made.stack("encoder", sound, (made.encoder_layer(),) * k.need("encoder_layers")),
            made.stack(
                "decoder", made.stem("decoder", TABLE), (made.decoder_layer(alone=False),) * k.need("decoder_layers")
            ),
        ),
        Head(name="lm_head", D=D, V=V, alias_of=f"{TABLE}.weight" if made.tied else None),
        extra=_convolutions(k, D),
    )


def _convolutions(k: Keys, D: int) -> tuple[Tensor, ...]:
    """What lowers the rate; a gated unit halves the channels behind each of them."""
    kernels, C = whole_numbers(k, "conv_kernel_sizes") or [5, 5], k.size("conv_channels", 1024)
    if k.size("num_conv_layers", 2) != len(kernels):
        raise ConfigError(
            f"conv_kernel_sizes has {len(kernels)} entries, num_conv_layers is another number",
            key="conv_kernel_sizes",
            value=kernels,
            file=k.file,
        )
    ins = k.size("input_feat_per_channel", 80) * k.size("input_channels", 1)
    parts: list[Tensor] = []
    for index, size in enumerate(kernels):
        outs = C if index < len(kernels) - 1 else 2 * D
        parts += convolution(f"conv_layers.{index}", C // 2 if index else ins, outs, size)
    return tower("audio", "model.encoder.conv", *parts)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/speech_to_text/"
    "modeling_speech_to_text.py",
    attributes={
        "num_attention_heads": "encoder_attention_heads",
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
    },
)
