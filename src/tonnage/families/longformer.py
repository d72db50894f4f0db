"""Longformer: RoBERTa that attends to a window and to chosen tokens by matrices of their own (arXiv:2004.05150)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, lm_head, places, pooler, stem, unrun
from tonnage.families._pieces import matrix
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``LongformerForMaskedLM`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    k.skip("attention_window", "onnx_export", "attention_mode", "ignore_attention_mask", "gradient_checkpointing")
    k.skip("attention_dilation", "autoregressive")
    sides = ("D", D)
    chosen = (matrix(f"attention.self.{part}_global", sides, sides, "attention") for part in ("query", "key", "value"))
    layer = unrun(k, D, "Longformer's attention", attention(k, D, N), *chosen)
    base = "longformer"
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, after_padding=True).but(buffers=()),
        (layer,) * k.need("num_hidden_layers"),
        lm_head(base, D, k.need("vocab_size"), tied=k.want("tie_word_embeddings", True)),
        positions=places(k, P),
        pooler=pooler(base, D),
        classifier=classifier(D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/longformer/"
    "modeling_longformer.py",
)
