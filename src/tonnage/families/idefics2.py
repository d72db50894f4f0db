"""Idefics 2: a tower, a gated block and a resampler of fixed length before any language model (arXiv:2405.02246)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import repeated, tower
from tonnage.families.towers import seen
from tonnage.keys import Keys
from tonnage.tensors import Tensor

PERCEIVER: Final[dict[str, Any]] = {
    "resampler_n_latents": 64,
    "resampler_depth": 3,
    "resampler_n_heads": 16,
    "resampler_head_dim": 96,
    "num_key_value_heads": 4,
}
PATH: Final = "model.connector"


def read(k: Keys) -> Model:
    """Build ``Idefics2ForConditionalGeneration``."""
    text = language(k, "model.text_model", "mistral")
    width, tensors = seen(k, "model.vision_model", "idefics2_vision", fixed=True)
    D, F = text.model.width, text.config.get("intermediate_size")
    if not isinstance(F, int):
        raise ConfigError("text_config.intermediate_size is missing", key="text_config.intermediate_size", file=k.file)
    gated = tower("vision", f"{PATH}.modality_projection", *_gated("", width, F, D))
    resampler = read_inner(
        k, "perceiver_config", PERCEIVER, lambda inner: _resampler(inner, D), less=("hidden_size", "model_type")
    )
    k.skip("perceiver_config", "image_seq_len")
    return headed(text.model, k.want("tie_word_embeddings", False), extra=tensors + gated + resampler)


def _gated(name: str, ins: int, F: int, outs: int) -> tuple[Part, ...]:
    path = f"{name}." if name else ""
    return (
        matrix(f"{path}gate_proj", ("X", ins), ("F", F), "vision", bias=False),
        matrix(f"{path}up_proj", ("X", ins), ("F", F), "vision", bias=False),
        matrix(f"{path}down_proj", ("F", F), ("D", outs), "vision", bias=False),
    )


def _resampler(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Latents that attend to the image, as wide as the language model whatever their config says."""
    N, K, H = k.need("resampler_n_heads"), k.need("num_key_value_heads"), k.need("resampler_head_dim")
    k.divides("resampler_n_heads", "num_key_value_heads", N, K)
    k.skip("hidden_act", "attention_dropout", "qk_layer_norms_perceiver")
    width, path = ("D", D), f"{PATH}.perceiver_resampler"
    layer: tuple[Part, ...] = (
        Norm("input_latents_norm", (width,)),
        Norm("input_context_norm", (width,)),
        matrix("self_attn.q_proj", width, ("X", N * H), "vision", bias=False),
        matrix("self_attn.k_proj", width, ("X", K * H), "vision", bias=False),
        matrix("self_attn.v_proj", width, ("X", K * H), "vision", bias=False),
        matrix("self_attn.o_proj", ("X", N * H), width, "vision", bias=False),
        Norm("post_attention_layernorm", (width,)),
        *_gated("mlp", D, 4 * D, D),
    )
    latents = Tensor("latents", (("P", k.need("resampler_n_latents")), width), "vision")
    first = tower("vision", path, latents, Norm("norm", (width,)))
    return first + repeated("vision", f"{path}.layers", k.need("resampler_depth"), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/idefics2/"
    "modeling_idefics2.py",
)
