"""Longformer: RoBERTa that attends to a window and to chosen tokens by matrices of their own (arXiv:2004.05150)."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from tonnage.arch.model import Layer, Model, Sublayer
from tonnage.arch.sparse.sliding import Sliding
from tonnage.arch.sparse.sparse_ends import Masked
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._encoder import classifier, encoder, feed_forward, lm_head, places, pooler, stem
from tonnage.families._pieces import layer_norm
from tonnage.keys import Keys
from tonnage.record import stated


def read(k: Keys) -> Model:
    """Build the model that ``LongformerForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    k.skip("onnx_export", "attention_mode", "ignore_attention_mask", "gradient_checkpointing")
    k.skip("attention_dilation", "autoregressive")
    windows, base = _windows(k, k.need("num_hidden_layers")), "longformer"

    @cache
    def layer(window: int) -> Layer:
        return _layer(k, D, N, window)

    table = stem(k, base, D, P=P, after_padding=True).but(buffers=())
    return encoder(
        k,
        base,
        Masked(**stated(table)),
        tuple(map(layer, windows)),
        lm_head(base, D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        pooler=pooler(base, D),
        classifier=classifier(D),
    ).but(eager_only=True)


def _windows(k: Keys, layers: int) -> list[int]:
    """Tokens that each layer's attention sees beside a token, on both sides together."""
    said = k.optional("attention_window", object, 512)
    found: list[Any] = said if isinstance(said, list) else [said] * layers
    if len(found) != layers or not all(isinstance(n, int) and n > 0 and n % 2 == 0 for n in found):
        raise ConfigError(
            f"attention_window is an even number, or one for each of the {layers} layers", key="attention_window",
            value=said, file=k.file,
        )  # fmt: skip
    return found


def _layer(k: Keys, D: int, N: int, window: int) -> Layer:
    block = Sliding(
        name="attention",
        D=D,
        N=N,
        H=k.divides("hidden_size", "num_attention_heads", D, N),
        w=window // 2,
        dropout=k.want("attention_probs_dropout_prob", 0.1),
    )
    dropout = k.want("hidden_dropout_prob", 0.1)
    attends = Sublayer(block=block, of_sum=layer_norm("attention.output.LayerNorm", D), dropout=dropout, named=True)
    mlp = Sublayer(block=feed_forward(k, D), of_sum=layer_norm("output.LayerNorm", D), dropout=dropout, named=True)
    return Layer(sublayers=(attends, mlp))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/longformer/"
    "modeling_longformer.py",
)
