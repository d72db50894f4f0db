"""BLIP-2's querying transformer: learned queries that attend to what a tower sees (arXiv:2301.12597)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._towers import tower
from tonnage.keys import Keys
from tonnage.tensors import Axis, Tensor

QFORMER: Final[dict[str, Any]] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "cross_attention_frequency": 2,
}
"""Defaults of ``Blip2QFormerConfig``."""


def qformer(k: Keys, path: str, sees: int, *, reads: bool | None) -> tuple[int, tuple[Tensor, ...]]:
    """Width and tensors below ``path`` of the transformer over a tower of width ``sees``.

    ``reads``: it takes a text too, by an embedding of its own; where None, its layers are as its config says.
    """
    D, F, every = k.need("hidden_size"), k.need("intermediate_size"), k.need("cross_attention_frequency")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    k.skip("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "encoder_hidden_size")
    k.skip("position_embedding_type")
    text = k.want("use_qformer_text_input", False) if reads is None else reads
    V, P, width = k.need("vocab_size"), k.need("max_position_embeddings"), ("D", D)
    if reads:
        found = tower(
            "vision",
            f"{path}.embeddings",
            Tensor("word_embeddings.weight", (("V", V), width), "vision"),
            Tensor("position_embeddings.weight", (("P", P), width), "vision"),
            layer_norm("layernorm", D),
            Tensor("position_ids", (("X", 1), ("P", P)), "buffer", dtype="int64"),
        )
    else:
        found = tower("vision", path, layer_norm("layernorm", D))
    for index in range(k.need("num_hidden_layers")):
        parts = [*_attention("attention", D, width), *_dense(D, F, "_query")]
        if index % every == 0:
            parts += _attention("crossattention", D, ("X", sees))
        if text:
            parts += _dense(D, F, "")
        found += tower("vision", f"{path}.encoder.layer.{index}", *parts)
    return D, found


def _attention(name: str, D: int, sees: Axis) -> tuple[Part, ...]:
    width = ("D", D)
    return (
        matrix(f"{name}.attention.query", width, width, "vision"),
        matrix(f"{name}.attention.key", sees, width, "vision"),
        matrix(f"{name}.attention.value", sees, width, "vision"),
        matrix(f"{name}.output.dense", width, width, "vision"),
        layer_norm(f"{name}.output.LayerNorm", D),
    )


def _dense(D: int, F: int, ending: str) -> tuple[Part, ...]:
    return (
        matrix(f"intermediate{ending}.dense", ("D", D), ("F", F), "vision"),
        matrix(f"output{ending}.dense", ("F", F), ("D", D), "vision"),
        layer_norm(f"output{ending}.LayerNorm", D),
    )
