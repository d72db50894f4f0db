"""Nyströmformer, MRA and YOSO: BERT with cheaper attention, and two more rows of positions."""

from __future__ import annotations

from typing import Final

from tonnage.arch.ends import Table
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._encoder import attention, classifier, encoder, only_encoder, predictions, stem, unrun
from tonnage.keys import Keys
from tonnage.tensors import Tensor

ACTS: Final = {"nystromformer": "gelu_new"}


def read(k: Keys) -> Model:
    """Build the model that ``NystromformerForMaskedLM``, ``MraForMaskedLM`` or ``YosoForMaskedLM`` builds."""
    base = str(k.config["model_type"])
    D, N, P = k.need("hidden_size"), k.need("num_attention_heads"), k.need("max_position_embeddings")
    only_encoder(k)
    k.skip("segment_means_seq_len", "num_landmarks", "inv_coeff_init_option", "block_per_row", "approx_mode")
    k.skip("initial_prior_first_n_blocks", "initial_prior_diagonal_n_blocks", "use_expectation", "hash_code_len")
    k.skip("num_hash", "use_fast_hash", "lsh_backward", "position_embedding_type", "layer_norm")
    act, tied = k.want("hidden_act", ACTS.get(base, "gelu")), k.want("tie_word_embeddings", True)
    key, default = ("conv_kernel_size", 65) if base == "nystromformer" else ("conv_window", None)
    kernel = None if base == "mra" else k.optional(key, int, default)
    parts: list[Part | Tensor] = [attention(k, D, N)]
    if kernel is not None:
        axes = (("N", N), ("X", 1), ("C", kernel), ("B", 1))
        parts.append(Tensor("attention.self.conv.weight", axes, "attention"))
    given = stem(k, base, D, P=P, types=2 if base == "nystromformer" else 1)
    tables = tuple(
        Table(name=t.name, rows=t.rows + 2, width=t.width) if t.name.endswith("position_embeddings") else t
        for t in given.tables
    )
    return encoder(
        k,
        base,
        given.but(tables=tables),
        (unrun(k, D, "this attention", *parts, act=act),) * k.need("num_hidden_layers"),
        predictions(base, D, k.need("vocab_size"), act, tied=tied),
        positions=P,
        classifier=classifier(D, act=act),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nystromformer/"
    "modeling_nystromformer.py",
)
