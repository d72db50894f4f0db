"""Cohere's North models: Command R7B's layers behind Qwen3-VL's tower, with positions in three dimensions."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated
from tonnage.families._composite import read_inner
from tonnage.families._decoder import window_of
from tonnage.families._experts import tables, turned, words
from tonnage.families._hybrid import FULL, SLIDING
from tonnage.families._pieces import counted
from tonnage.families.towers import seen
from tonnage.keys import Keys

TEXT: Final[dict[str, Any]] = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
}


def read(k: Keys) -> Model:
    """Build ``CohereCompassForConditionalGeneration``, or ``CohereCompassForCausalLM`` of a config of text alone."""
    if k.config["model_type"] == "cohere_compass_text":
        return _text(k, "model")
    path = "model.language_model"
    model = read_inner(k, "text_config", TEXT, lambda inner: _text(inner, path), less=("model_type",))
    _, tensors = seen(k, "model.visual", "cohere_compass_vision", fixed=True)
    tied = k.want("tie_word_embeddings", False)
    assert model.head is not None
    head = model.head.but(alias_of=f"{path}.embed_tokens.weight" if tied else None)
    return model.but(model_type="cohere_compass", head=head, extra=tensors)


def _text(k: Keys, path: str) -> Model:
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token, mlp = attention(k, D), gated(k, D)
    kinds = words(k, "layer_types", L, (FULL, SLIDING)) or [FULL] * L
    window = window_of(k, 4096)
    k.skip("logit_scale", "pooling", "head_dim", "sliding_window_pattern")
    norm = Norm("input_layernorm", (("D", D),), "layer-cohere")

    @cache
    def layer(kind: str) -> Layer:
        sees = token.but(window=window if kind == SLIDING else None)
        return Layer(
            sublayers=(
                Sublayer(block=counted("attention with positions in three dimensions", sees)),
                Sublayer(block=mlp),
            ),
            norm=norm,
            parallel=True,
            residual_first=True,
            kind="sliding layer" if kind == SLIDING else "full layer",
        )

    return decoder(
        k,
        D,
        tuple(map(layer, kinds)),
        width=token.H,
        positions=8192,
        tied=True,
        style="layer-cohere",
        path=path,
        rotary=tables(path, turned(k, token.H, kinds, dict.fromkeys(kinds, 1.0))),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/cohere_compass/"
    "modeling_cohere_compass.py",
)
