"""LED: BART whose encoder attends to a window and to chosen tokens by matrices of their own (arXiv:2004.05150)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.parts import Part, Parts
from tonnage.families import Family
from tonnage.families._pieces import counted, matrix
from tonnage.families._seq2seq import Builder, Style
from tonnage.keys import Keys


def _windowed(k: Keys, D: int, N: int) -> Parts:
    """Queries, keys and values twice, and the output."""
    k.divides("d_model", "encoder_attention_heads", D, N)
    names = [f"longformer_self_attn.{part}{kind}" for kind in ("", "_global") for part in ("query", "key", "value")]
    parts: list[Part] = [matrix(f"self_attn.{name}", ("D", D), ("D", D), "attention") for name in (*names, "output")]
    return counted("LED's attention", *parts)


STYLE: Final = Style(
    embedding_norm=True,
    path="led",
    sources="max_encoder_position_embeddings",
    targets="max_decoder_position_embeddings",
    encoder=_windowed,
    alone=False,
)


def read(k: Keys) -> Model:
    """Build ``LEDForConditionalGeneration``."""
    k.skip("attention_window", "classif_dropout", "gradient_checkpointing", "output_past", "max_position_embeddings")
    k.skip("attention_probs_dropout_prob")
    return Builder(k, STYLE).both()


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/led/modeling_led.py",
    attributes={
        "d_model": "hidden_size",
        "encoder_attention_heads": "num_attention_heads",
        "encoder_layers": "num_hidden_layers",
    },
)
