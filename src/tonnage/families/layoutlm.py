"""LayoutLM: BERT that also embeds where on its page a token stands (arXiv:1912.13318)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Table
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, pooler, predictions, stem, unrun
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``LayoutLMForMaskedLM`` builds, its pooler included."""
    base = "layoutlm"
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    rows = k.size("max_2d_position_embeddings", 1024)
    k.skip("position_embedding_type", "gradient_checkpointing")
    act, tied = k.want("hidden_act", "gelu"), k.want("tie_word_embeddings", True)
    sides = tuple(
        Table(name=f"{base}.embeddings.{side}_position_embeddings", rows=rows, width=D, buffered=True)
        for side in "xyhw"
    )
    return encoder(
        k,
        base,
        stem(k, base, D, P=P, type_ids=False, extra=sides),
        (unrun(k, D, "a model of pages", attention(k, D, N)),) * k.need("num_hidden_layers"),
        predictions(base, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        extra=pooler(base, D),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/layoutlm/"
    "modeling_layoutlm.py",
)
