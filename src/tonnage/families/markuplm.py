"""MarkupLM: BERT that also embeds where in its tree of markup a token stands (arXiv:2110.08518)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._encoder import attention, encoder, only_encoder, places, pooler, stem, unrun
from tonnage.families._pieces import matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor

BASE: Final = "markuplm"


def read(k: Keys) -> Model:
    """Build the model that ``MarkupLMModel`` builds."""
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.size("max_position_embeddings", 512)
    only_encoder(k)
    k.skip("tag_pad_id", "subs_pad_id", "position_embedding_type", "max_tree_id_unit_embeddings", "tree_pad_id")
    return encoder(
        k,
        BASE,
        stem(k, BASE, D, P=P, type_ids=False),
        (unrun(k, D, "a model of markup", attention(k, D, N)),) * k.need("num_hidden_layers"),
        None,
        positions=places(k, P, padding=0),
        pooler=pooler(BASE, D),
        extra=_paths(k, D),
    )


def _paths(k: Keys, D: int) -> tuple[Tensor, ...]:
    """Tables of tags and of their numbers for every depth of the tree, and matrices that join them."""
    U, depth = k.size("xpath_unit_hidden_size", 32), k.size("max_depth", 50)
    rows = {
        "tag": k.size("max_xpath_tag_unit_embeddings", 256),
        "subs": k.size("max_xpath_subs_unit_embeddings", 1024),
    }
    joined, inner = ("X", U * depth), ("F", 4 * D)
    return tower(
        "position",
        f"{BASE}.embeddings.xpath_embeddings",
        matrix("xpath_unitseq2_embeddings", joined, ("D", D), "position"),
        matrix("xpath_unitseq2_inner", joined, inner, "position"),
        matrix("inner2emb", inner, ("D", D), "position"),
        *(
            Tensor(f"xpath_{name}_sub_embeddings.{i}.weight", (("P", n), ("D", U)), "position")
            for name, n in rows.items()
            for i in range(depth)
        ),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/markuplm/"
    "modeling_markuplm.py",
)
