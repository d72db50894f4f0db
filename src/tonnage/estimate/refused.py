"""Methods of peft 0.21.2 that are known by name and refused, and why: what of a pass is not modelled."""

from __future__ import annotations

from typing import Final

REFUSED: Final[dict[str, str]] = {
    "cartridge": "its keys and values stand in a cache, whose gradients wait for the embedding's: not modelled",
    "multitask-prompt": "it takes task ids beside the tokens, which a step on token ids alone has not",
    "cpt": "its mask and loss by token types are not modelled",
    "adamss": "which subspaces it trains follows from clustering the weights",
    "frod": "which elements it trains follows from a joint decomposition of the weights",
    "shira": "its sparse sum with a copy of the matrix is not modelled",
    "supertuning": "its sparse sum with the matrix is not modelled",
    "delora": "its norms of both factors are not modelled",
    "gralora": "its products by blocks are not modelled",
    "glora": "its weighed copies of matrix and bias are not modelled",
    "pvera": "its draws from a normal distribution are not modelled",
    "psoft": "its rotation within the principal subspace is not modelled",
    "peanut": "its network over the weights is not modelled",
    "deft": "its projections of the weights are not modelled",
    "poly": "it takes task ids beside the tokens, which a step on token ids alone has not",
    "xlora": "it mixes adapters that are trained already, of which a workload names none",
    "shadow": "it trains a model of its own beside the frozen one",
}
"""By the name that tonnage gives them; ``methods.ALIASES`` has peft's other spellings."""
