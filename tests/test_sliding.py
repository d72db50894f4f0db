"""Longformer's attention by hand: what a layer keeps, and the mask that the model makes for it."""

from __future__ import annotations

from typing import Any, Final

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError

B, T, D, N, H, F, W = 2, 64, 32, 4, 8, 64, 16
SMALL: Final[dict[str, Any]] = {
    "model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "vocab_size": 100, "hidden_size": D,
    "num_attention_heads": N, "intermediate_size": F, "max_position_embeddings": 130, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0, "type_vocab_size": 1, "sep_token_id": 2,
}  # fmt: skip


def asked(layers: int, config: dict[str, Any] | None = None, **said: Any) -> Any:
    given = {**SMALL, "num_hidden_layers": layers, "attention_window": [W] * layers, **(config or {})}
    return tn.train({"config": given}, **{"precision": "fp32", "batch": B, "seq": T, "suggest": False} | said)


def activations(result: Any) -> int:
    return sum(c.bytes for c in result.components if c.name == "activations")


def test_what_a_layer_keeps_by_hand() -> None:
    w, rows, chunks, stream = W // 2, B * N, T // (W // 2), 4 * B * T * D
    copies = 3 * stream  # Of the input with tokens first, one for each matrix.
    queries = keys = 4 * rows * (chunks - 1) * 2 * w * H
    ends = 2 * B * w * N * (w + 1)  # One byte each: what lies before the first token and behind the last.
    softmax = 4 * B * T * N * (2 * w + 1)
    weights = 4 * rows * chunks * w * (3 * w + 2)  # With as many zeros as move each row on by one.
    values = 4 * rows * chunks * 3 * w * H  # Each three times, in chunks that overlap.
    attention = copies + queries + keys + ends + softmax + weights + values
    output = stream + stream + 2 * 4 * B * T  # What the matrix is given, the sum, and mean and deviation of it.
    mlp = stream + 2 * 4 * B * T * F + stream + 2 * 4 * B * T
    found = [asked(layers) for layers in (8, 9)]
    assert {r.peak.name for r in found} == {"loss backward"}
    assert activations(found[1]) - activations(found[0]) == attention + output + mlp == 377_984


def test_the_mask_is_as_large_as_that_of_full_attention() -> None:
    """Made for every pair of tokens, a row of it is looked at; checkpoints of the layers hold all of it to the end."""
    short, long = (asked(2, seq=n, recompute="full", config={"max_position_embeddings": 4096}) for n in (1024, 2048))
    rest = activations(long) - 2 * activations(short)
    assert rest == pytest.approx(4 * B * (2048**2 - 2 * 1024**2), rel=0.001)


@pytest.mark.parametrize(
    "said",
    [
        {"lora_rank": 8, "lora_targets": ["query"]},
        {"quant": "nf4", "lora_rank": 8, "lora_targets": ["intermediate.dense"]},
    ],
)
def test_adapters_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="Longformer"):
        asked(2, **said)


def test_a_length_that_is_padded_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"multiple of its window of 16; --seq 80"):
        asked(2, seq=70)


@pytest.mark.parametrize("window", [15, [16], [16, 15], "16", 0])
def test_windows_are_even(window: object) -> None:
    with pytest.raises(InputError, match="attention_window"):
        asked(2, {"attention_window": window})
