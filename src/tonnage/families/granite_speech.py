"""Granite Speech: Granite behind a conformer and a querying transformer (arXiv:2505.08699).

transformers builds it without the LoRA adapter that the checkpoint stores beside it.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._omni import heard
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._qformer import QFORMER, qformer
from tonnage.families._towers import batch_norm, convolution, repeated, tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ENCODER: Final[dict[str, Any]] = {"input_dim": 160, "num_layers": 10, "hidden_dim": 1024, "num_heads": 8}
NAMES: Final = {
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "input_dim": "num_mel_bins",
}
PATH: Final = "model.encoder"


def read(k: Keys) -> Model:
    """Build the model that ``GraniteSpeechForConditionalGeneration`` or its like builds."""
    text = language(k, "model.language_model", "granite").model
    tensors = read_inner(k, "encoder_config", ENCODER, _encoder, aliases=NAMES, less=("model_type",))
    stated = k.inner("projector_config")
    if stated is not None and stated.want("model_type", "blip_2_qformer") != "blip_2_qformer":
        k.refuse("projector_config")
    sees = 1408 if stated is None else stated.size("encoder_hidden_size", 1408)
    wide, queries = read_inner(
        k, "projector_config", QFORMER, lambda inner: qformer(inner, "model.projector.qformer", sees, reads=None)
    )
    asked = k.size("window_size", 15) // k.size("downsample_rate", 5)
    k.skip("has_lora_adapter")
    tensors += heard("audio", queries) + tower(
        "audio",
        "model.projector",
        Tensor("query", (("B", 1), ("T", asked), ("D", wide)), "audio"),
        matrix("linear", ("X", wide), ("D", text.width), "audio"),
    )
    tied = k.want("tie_word_embeddings", True)
    return headed(text, tied, extra=tensors).but(model_type=str(k.config["model_type"]))


def _encoder(k: Keys) -> tuple[Tensor, ...]:
    """A conformer that tells letters half-way."""
    D, N, out = k.need("hidden_dim"), k.need("num_heads"), k.size("output_dim", 42)
    H = k.optional("dim_head") or k.divides("hidden_dim", "num_heads", D, N)
    F, C, seen = D * k.size("feedforward_mult", 4), D * k.size("conv_expansion_factor", 2), k.size("context_size", 200)
    rows = k.size("max_pos_emb", 512)
    if seen > rows:
        raise ConfigError(
            f"{k.path}context_size = {seen} exceeds max_pos_emb = {rows}", key=f"{k.path}context_size", value=seen
        )
    k.skip("dropout", "cat_hidden_layers")
    width, inner = ("D", D), ("X", N * H)
    layer: tuple[Part | Tensor, ...] = (
        *_half("ff1", D, F),
        layer_norm("attn.pre_norm", D),
        matrix("attn.to_q", width, inner, "audio", bias=False),
        matrix("attn.to_kv", width, ("X", 2 * N * H), "audio", bias=False),
        matrix("attn.to_out", inner, width, "audio"),
        Tensor("attn.rel_pos_emb.weight", (("P", 2 * rows + 1), ("H", H)), "audio"),
        layer_norm("conv.norm", D),
        *convolution("conv.up_conv", D, 2 * C, 1),
        *convolution("conv.depth_conv.conv", 1, C, k.size("conv_kernel_size", 15), bias=False),
        *batch_norm("conv.batch_norm", C),
        *convolution("conv.down_conv", C, D, 1),
        *_half("ff2", D, F),
        layer_norm("post_norm", D),
    )
    ends = tower(
        "audio",
        PATH,
        matrix("input_linear", ("X", k.need("input_dim")), width, "audio"),
        matrix("out", width, ("V", out), "audio"),
        matrix("out_mid", ("V", out), width, "audio"),
        Tensor("attention_dists", (("T", seen), ("T", seen)), "buffer", dtype="int64"),
    )
    return ends + repeated("audio", f"{PATH}.layers", k.need("num_layers"), *layer)


def _half(name: str, D: int, F: int) -> tuple[Part, ...]:
    return (
        layer_norm(f"{name}.pre_norm", D),
        matrix(f"{name}.up_proj", ("D", D), ("F", F), "audio"),
        matrix(f"{name}.down_proj", ("F", F), ("D", D), "audio"),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/granite_speech/"
    "modeling_granite_speech.py",
    attributes={"audio_token_id": "audio_token_index"},
)
