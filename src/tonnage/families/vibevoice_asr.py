"""VibeVoice-ASR: Qwen2 behind two tokenizers of sound, one for how it sounds and one for what is said."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.families._vibevoice import encoder
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


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/vibevoice_asr/"
    "modeling_vibevoice_asr.py",
)
