"""VibeVoice-ASR: Qwen2 behind two tokenizers of sound, one for how it sounds and one for what is said."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import convolution, repeated, sizes, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``VibeVoiceAsrForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "qwen2").model
    D = text.width
    tensors: tuple[Tensor, ...] = ()
    projector: list[Part] = []
    for name, out in (("acoustic", 64), ("semantic", 128)):
        path, key = f"model.{name}_tokenizer_encoder", f"{name}_tokenizer_encoder_config"
        # What is filled in stands for a config that is left out, not for one that leaves it out.
        given: dict[str, Any] = {"hidden_size": out} if k.config.get(key) is None else {}
        width, found = read_inner(k, key, given, partial(encoder, path=path), less=("model_type",))
        tensors += found
        projector += [
            matrix(f"{name}_linear_1", ("X", width), ("D", D), "audio"),
            Norm(f"{name}_norm", (("D", D),)),
            matrix(f"{name}_linear_2", ("D", D), ("D", D), "audio"),
        ]
    # The class ties nothing, whatever the config says.
    k.skip("acoustic_tokenizer_chunk_size", "tie_word_embeddings")
    tensors += tower("audio", "model.multi_modal_projector", *projector)
    return headed(text, tied=False, extra=tensors).but(model_type="vibevoice_asr")


def encoder(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors of ``VibeVoiceAcousticTokenizerEncoderModel``: convolutions that lower the rate."""
    out, C, kernel = k.size("hidden_size", 64), k.size("num_filters", 32), k.size("kernel_size", 7)
    ratios = sizes(k, "downsampling_ratios", (2, 2, 4, 5, 5, 8))
    depths = sizes(k, "depths", (3, 3, 3, 3, 3, 3, 8))
    if len(depths) != len(ratios) + 1:
        raise ConfigError(
            f"{k.path}depths must be one more than downsampling_ratios", key=f"{k.path}depths", value=list(depths)
        )
    wide = k.size("ffn_expansion", 4)
    k.skip("layer_scale_init_value", "hidden_act", "vae_std")
    found = tower("audio", f"{path}.stem", *convolution("conv.conv", k.size("channels", 1), C, kernel))
    found += repeated("audio", f"{path}.stem.stage", depths[0], *_block(C, wide, kernel))
    for index, (ratio, depth) in enumerate(zip(ratios, depths[1:], strict=True)):
        at, ins = f"{path}.conv_layers.{index}", C << index
        found += tower("audio", at, *convolution("conv.conv", ins, 2 * ins, 2 * ratio))
        found += repeated("audio", f"{at}.stage", depth, *_block(2 * ins, wide, kernel))
    return out, found + tower("audio", path, *convolution("head.conv", C << len(ratios), out, kernel))


def _block(D: int, wide: int, kernel: int) -> Iterator[Part | Tensor]:
    """A ConvNeXt block."""
    width, inner = ("D", D), ("F", wide * D)
    yield from (Tensor(name, (width,), "audio") for name in ("gamma", "ffn_gamma"))
    yield from (Norm(name, (width,)) for name in ("norm", "ffn_norm"))
    yield matrix("ffn.linear1", width, inner, "audio")
    yield matrix("ffn.linear2", inner, width, "audio")
    yield from convolution("mixer.conv", 1, D, kernel)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/vibevoice_asr/"
    "modeling_vibevoice_asr.py",
)
