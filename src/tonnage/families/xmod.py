"""X-MOD: RoBERTa with a small adapter for every language behind each feed-forward block (arXiv:2205.06266)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import (
    attention,
    classifier,
    encoder,
    feed_forward,
    lm_head,
    only_encoder,
    places,
    pooler,
    stem,
)
from tonnage.families._pieces import counted, layer_norm, matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``XmodForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.skip("default_language", "adapter_reuse_layer_norm", "ln_before_adapter")
    pre_norm = k.want("pre_norm", False)
    return encoder(
        k,
        "roberta",
        stem(k, "roberta", D, P=P, after_padding=True),
        (_layer(k, D, N),) * k.need("num_hidden_layers"),
        lm_head("roberta", D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        norm=layer_norm("roberta.encoder.LayerNorm", D) if pre_norm else None,
        pooler=pooler("roberta", D),
        classifier=classifier(D),
    )


def _layer(k: Keys, D: int, N: int) -> Layer:
    languages = k.optional("languages", list, ["en_XX"]) or []
    inner = D // k.size("adapter_reduction_factor", 2)
    if not inner:
        raise ConfigError("adapter_reduction_factor leaves the adapters no width", key="adapter_reduction_factor")
    adapters: list[Part] = []
    for language in languages:
        path = f"output.adapter_modules.{language}"
        adapters.append(matrix(f"{path}.dense1", ("D", D), ("F", inner), "feed_forward"))
        adapters.append(matrix(f"{path}.dense2", ("F", inner), ("D", D), "feed_forward"))
    if k.want("adapter_layer_norm", False):
        adapters.append(layer_norm("output.adapter_layer_norm", D))
    return Layer(
        sublayers=(
            Sublayer(block=attention(k, D, N), of_sum=layer_norm("attention.output.LayerNorm", D)),
            Sublayer(
                block=counted("X-MOD's adapters", feed_forward(k, D), layer_norm("output.LayerNorm", D), *adapters)
            ),
        )
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/xmod/modeling_xmod.py",
)
