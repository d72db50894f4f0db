"""Reversible layers by hand: what is alive where most is, what is refused, and what a sequence may be."""

from __future__ import annotations

from typing import Any, Final

import pytest

import tonnage as tn
from tonnage.arch.sparse.adjacent import Neighbourhood
from tonnage.arch.sparse.hashed import Hashed
from tonnage.errors import InputError, UnsupportedError

B, T, D, N, H, L = 2, 64, 32, 4, 8, 16
SMALL: Final[dict[str, Any]] = {
    "model_type": "reformer", "architectures": ["ReformerForMaskedLM"], "vocab_size": 100, "hidden_size": D,
    "num_attention_heads": N, "attention_head_size": H, "feed_forward_size": 64, "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [8, 24], "local_attn_chunk_length": L, "lsh_attn_chunk_length": L,
    "max_position_embeddings": T, "hidden_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0, "is_decoder": False,
}  # fmt: skip

DECODES: Final = {"is_decoder": True, "architectures": ["ReformerModelWithLMHead"]}


def asked(kinds: list[str], config: dict[str, Any] | None = None, **said: Any) -> Any:
    given = {**SMALL, "attn_layers": kinds, **(config or {})}
    return tn.train({"config": given}, **{"precision": "fp32", "batch": B, "suggest": False, "replay": False} | said)


def activations(result: Any) -> int:
    return sum(c.bytes for c in result.components if c.name == "activations")


@pytest.mark.parametrize("depth", [3, 6, 12])
def test_local_attention_by_hand(depth: int) -> None:
    """Where the gradient of the log-sum-exp is taken in the lowest layer, whose heads together are as wide as it."""
    stream, scores, rows = 4 * B * T * D, 4 * B * N * T * 2 * L, 4 * B * N * T
    function = 2 * stream + 2 * stream  # What it saved of the last layer, and the gradient that it was given.
    above = 4 * stream  # Both streams behind the layer and their gradients.
    here = 2 * stream  # The second one before it, and the first one's gradient.
    norm = stream + 2 * 4 * B * T
    kept = stream + 2 * stream + 2 * stream + scores + rows + scores  # Queries, keys, values, scores, sums, weights.
    output = stream + stream  # Of the heads, transposed, and of the block.
    back = 2 * stream + scores + rows + 3 * scores  # Of values, of the scores so far, of sums, and three on the way.
    result = asked(["local"] * depth)
    assert result.peak.name == "backward layer 0"
    assert activations(result) == function + above + here + norm + kept + output + back == 726_016


def test_buckets_are_all_that_grows() -> None:
    """A number of 8 B a token, head and round, which the function keeps of every layer."""
    found = [asked(["lsh"] * depth, {"num_hashes": 2}) for depth in (3, 6)]
    loss = [next(c.bytes for c in r.components if c.name == "loss") for r in found]
    assert activations(found[1]) - activations(found[0]) + loss[1] - loss[0] == 3 * 8 * B * T * N * 2


@pytest.mark.parametrize(
    ("tokens", "chunk", "positions", "factors"),
    [(4096, 64, 4096, (128,)), (64, 16, 64, (8,)), (524_288, 64, 524_288, (128, 128)), (16_384, 8, 16_384, (64, 64))],
)
def test_buckets_follow_from_the_length(tokens: int, chunk: int, positions: int, factors: tuple[int, ...]) -> None:
    """``_set_num_buckets``: twice as many as chunks, in two factors beyond twice the larger of two sizes."""
    near = Neighbourhood(chunk=chunk, before=1, after=0)
    assert Hashed(name="attention", D=D, N=N, H=H, near=near, positions=positions).factors(tokens) == factors


def test_a_sequence_is_as_long_as_the_grid() -> None:
    assert asked(["local"]).workload["seq"] == T
    with pytest.raises(InputError, match=r"seq = 32: reformer trains on sequences of 64 tokens alone.*--seq 64"):
        asked(["local"], seq=32)


def test_a_sequence_is_a_multiple_of_the_chunks() -> None:
    table = {"axial_pos_embds": False, "lsh_attn_chunk_length": 24}
    assert asked(["local", "lsh"], table).workload["seq"] == 48
    with pytest.raises(InputError, match=r"a multiple of 48 tokens, its chunks; --seq 48"):
        asked(["local", "lsh"], table, seq=32)
    assert asked(["local", "lsh"], table, seq=15).workload["seq"] == 15
    with pytest.raises(InputError, match="chunk_size_feed_forward = 24"):
        asked(["local"], {"chunk_size_feed_forward": 24})


@pytest.mark.parametrize(
    "said",
    [
        {"recompute": "full"}, {"lora_rank": 8}, {"quant": "nf4"}, {"padded": True}, {"compile": True},
        {"optimizer_in_backward": True, "optimizer": "sgd"}, {"stack": "trl"}, {"offload": "save-on-cpu"},
        {"train_only": ("lm_head",)}, {"eval_batch": 1}, {"objective": "dpo"}, {"loss": "chunked"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_modelled_is_refused(said: dict[str, Any]) -> None:
    key = next(iter(said))
    with pytest.raises(UnsupportedError) as e:
        asked(["local"], **said)
    assert e.value.key == key
    assert "reformer" in str(e.value)


def test_16_bit_is_told() -> None:
    said = [c for c in asked(["local"], precision="bf16").caveats if "grid of positions" in str(c)]
    assert len(said) == 1
    assert not [c for c in asked(["local"]).caveats if "grid of positions" in str(c)]


def test_odd_buckets_are_refused() -> None:
    with pytest.raises(InputError, match="num_buckets"):
        asked(["lsh"], {"num_buckets": 3})


def test_serving_is_told_by_its_cache() -> None:
    """By hand: what went into each layer, and the bucket of every token and head; the working set is not modelled."""
    config = {**SMALL, "attn_layers": ["local", "lsh"], **DECODES}
    result = tn.serve({"config": config}, context=64, dtype="fp32")
    cache = next(c.bytes for c in result.components if c.name == "kv_cache")
    assert cache == 64 * (2 * D * 4 + N * 8)
    assert any("a reversible layer" in str(n) for n in result.not_modelled)
