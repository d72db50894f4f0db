"""Fun-ASR-Nano: Qwen3 behind layers of attention with memory, and an adaptor (arXiv:2509.12508)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import convolution, feed_forward, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

TEXT: Final[dict[str, Any]] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
}
PATH: Final = "model.audio_tower"


def read(k: Keys) -> Model:
    """Build the model that ``FunAsrNanoForConditionalGeneration`` builds."""
    text = language(k, "model.language_model", "qwen3", given=TEXT).model
    width, tensors = read_inner(k, "audio_config", {}, _encoder, less=("model_type",))
    adaptor = read_inner(k, "adaptor_config", {}, lambda inner: _adaptor(inner, width))
    tied = k.want("tie_word_embeddings", True)
    return headed(text, tied, extra=tensors + adaptor).but(model_type="fun_asr_nano")


def _layer(D: int, F: int, *, ins: int | None = None) -> tuple[Part, ...]:
    """A layer of either; the encoder's first is fed by stacked frames, ``ins`` wide."""
    width, fed = ("D", D), ins or D
    return (
        *(matrix(f"self_attn.{x}_proj", ("X", fed), width, "audio") for x in "qkv"),
        matrix("self_attn.o_proj", width, width, "audio"),
        *feed_forward("mlp", D, F),
        layer_norm("input_layernorm", fed),
        layer_norm("post_attention_layernorm", D),
    )


def _encoder(k: Keys) -> tuple[int, tuple[Tensor, ...]]:
    D, F, L = k.size("hidden_size", 512), k.size("intermediate_size", 2048), k.size("num_hidden_layers", 70)
    ins, kernel = k.size("num_mel_bins", 80) * k.size("num_stacked_frames", 7), k.size("fsmn_kernel_size", 11)
    timed, rows = k.size("num_timestamp_prediction_layers", 20), k.size("max_position_embeddings", 2049)
    k.divides("hidden_size", "num_attention_heads", D, k.size("num_attention_heads", 4))
    k.skip("hidden_dropout", "attention_dropout", "hidden_act")
    memory = convolution("self_attn.fsmn.conv", 1, D, kernel, bias=False)
    table = Tensor("position_embeddings.positional_embedding", (("P", rows), ("X", ins)), "buffer", dtype="fp32")
    tensors = tower("audio", PATH, table)
    for index in range(L):
        # What is told of the time, and the end, stand behind a further norm.
        last = (layer_norm("final_layernorm", D),) if index in (L - 1, L - 1 - timed) else ()
        layer = _layer(D, F, ins=None if index else ins)
        tensors += tower("audio", f"{PATH}.layers.{index}", *layer, *memory, *last)
    return D, tensors


def _adaptor(k: Keys, sees: int) -> tuple[Tensor, ...]:
    D, F, inner = k.size("hidden_size", 1024), k.size("intermediate_size", 256), k.size("projector_hidden_size", 2048)
    k.divides("hidden_size", "num_attention_heads", D, k.size("num_attention_heads", 8))
    k.skip("hidden_dropout", "attention_dropout", "hidden_act", "projector_hidden_act")
    path = "model.multi_modal_projector"
    first = tower(
        "audio",
        path,
        matrix("linear_1", ("X", sees), ("F", inner), "audio"),
        matrix("linear_2", ("F", inner), ("D", D), "audio"),
    )
    return first + repeated("audio", f"{path}.layers", k.size("num_hidden_layers", 2), *_layer(D, F))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/fun_asr_nano/"
    "modeling_fun_asr_nano.py",
)
