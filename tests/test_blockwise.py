"""BigBird's attention by hand: what a layer keeps, the matrix that it hands back, and what is refused."""

from __future__ import annotations

from typing import Any, Final

import pytest

import tonnage as tn
from tonnage.errors import UnsupportedError

B, T, D, N, H, F, S, R = 2, 128, 32, 4, 8, 64, 8, 2
SMALL: Final[dict[str, Any]] = {
    "model_type": "big_bird", "architectures": ["BigBirdForMaskedLM"], "vocab_size": 100, "hidden_size": D,
    "num_attention_heads": N, "intermediate_size": F, "max_position_embeddings": 4096, "block_size": S,
    "num_random_blocks": R, "hidden_dropout_prob": 0.0, "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip


def asked(layers: int, config: dict[str, Any] | None = None, **said: Any) -> Any:
    given = {**SMALL, "num_hidden_layers": layers, **(config or {})}
    return tn.train({"config": given}, **{"precision": "fp32", "batch": B, "seq": T, "suggest": False} | said)


def activations(result: Any) -> int:
    return sum(c.bytes for c in result.components if c.name == "activations")


def test_what_a_layer_keeps_by_hand() -> None:
    stream, block, blocks = 4 * B * T * D, 4 * B * N * S * H, T // S
    ends = 2 * (block + stream + 4 * B * N * S * T + stream)  # Queries, keys, weights and values of first and last.
    rows = (4 + R) * block
    edges = 2 * (rows + rows + block + 4 * B * N * S * (4 + R) * S)  # Keys, values, queries, weights.
    between = blocks - 4
    neighbours = 2 * 3 * between * block
    queries = 4 * between * block  # One copy for each of four products.
    random = 2 * between * R * block
    globals_ = 4 * block  # Keys and values of the first and the last block.
    weights = 4 * B * N * between * S * (5 + R) * S
    chosen = 8 * B * N * (blocks - 2) * R
    gathered = 2 * stream  # Keys and values themselves.
    attention = ends + edges + neighbours + queries + random + globals_ + weights + chosen + gathered
    output = stream + stream + 8 * B * T  # What the matrix is given, the sum, mean and deviation.
    mlp = stream + 2 * 4 * B * T * F + stream + 8 * B * T
    given = stream  # The layer's input.
    found = [asked(layers) for layers in (8, 9)]
    assert {r.peak.name for r in found} == {"forward layer 7", "forward layer 8"}
    assert activations(found[1]) - activations(found[0]) == attention + output + mlp + given


def test_weights_of_all_tokens_are_made_though_attention_is_sparse() -> None:
    """12 heads of 4,096 tokens in fp32: 768 MiB a sequence, in the forward pass of every layer and in no graph."""
    base = {"num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072, "block_size": 64}
    result = asked(1, base | {"num_random_blocks": 3}, seq=4096, batch=1)
    whole = 4 * 12 * 4096**2
    assert result.peak.name == "forward layer 0"
    assert whole == 768 * 2**20
    assert activations(result) > whole


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"seq": 72}, r"at most 72 tokens, of which attention is full.*--seq 80"),
        ({"seq": 100}, r"that are padded.*--seq 104"),
        ({"lora_rank": 8, "lora_targets": ["query"]}, "adapters"),
    ],
)
def test_what_is_not_modelled_is_refused(said: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        asked(2, **said)


def test_full_attention_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="BigBird's full attention"):
        asked(2, {"attention_type": "original_full"})
