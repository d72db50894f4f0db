"""LUKE: BERT over words and entities, with queries of their own for each pair of kinds (arXiv:2010.01057)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, lm_head, places, pooler, stem, unrun
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "luke"


def read(k: Keys) -> Model:
    """Build the model that ``LukeForMaskedLM`` builds, with its pooler and both heads."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    V, tied = k.need("vocab_size"), k.want("tie_word_embeddings", True)
    queries = tuple(
        matrix(f"attention.self.{pair}_query", ("D", D), ("N", D), "attention")
        for pair in (("w2e", "e2w", "e2e") if k.want("use_entity_aware_attention", True) else ())
    )
    entities, behind = _entities(k, D, P, tied=tied)
    # Only the table of entities and the head's two biases are tied.
    head = lm_head(BASE, D, V, tied=tied).but(alias_of=None)
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=P, after_padding=True).but(buffers=()),
        (unrun(k, D, "attention between words and entities", attention(k, D, N, causal=False), *queries),)
        * k.need("num_hidden_layers"),
        head.but(extra=head.extra + behind),
        positions=places(k, P),
        causal=False,
        extra=entities + pooler(BASE, D),
    )


def _entities(k: Keys, D: int, P: int, *, tied: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The embedding of entities, and the head that predicts them."""
    E, rows, path = k.size("entity_emb_size", 256), k.size("entity_vocab_size", 500_000), f"{BASE}.entity_embeddings"
    before = [
        Tensor(f"{path}.entity_embeddings.weight", (("V", rows), ("D", E)), "embedding"),
        Tensor(f"{path}.position_embeddings.weight", (("P", P), ("D", D)), "position"),
        Tensor(f"{path}.token_type_embeddings.weight", (("P", k.size("type_vocab_size", 2)), ("D", D)), "position"),
        *layer_norm(f"{path}.LayerNorm", D).weights(),
    ]
    if E != D:
        before += matrix(f"{path}.entity_embedding_dense", ("D", E), ("D", D), "embedding", bias=False).weights()
    alias = f"{path}.entity_embeddings.weight" if tied else None
    behind = (
        *matrix("entity_predictions.transform.dense", ("D", D), ("D", E), "head").weights(),
        *layer_norm("entity_predictions.transform.LayerNorm", E).weights(),
        Tensor("entity_predictions.decoder.weight", (("V", rows), ("D", E)), "head", alias_of=alias),
        Tensor("entity_predictions.bias", (("V", rows),), "head"),
    )
    return tuple(before), behind


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/luke/modeling_luke.py",
)
