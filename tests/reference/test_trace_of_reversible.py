"""Reversible layers: the closed form of a step against a live trace of Reformer's code, to the byte."""

from __future__ import annotations

from typing import Any, Final

import pytest
from tracing_cases import most_by_part, traced, traced_by_part

import tonnage as tn
from tonnage.tracing import models
from tonnage.tracing.levels import levels

SMALL: Final[dict[str, Any]] = {
    "model_type": "reformer", "architectures": ["ReformerForMaskedLM"], "vocab_size": 100, "hidden_size": 32,
    "num_attention_heads": 4, "attention_head_size": 8, "feed_forward_size": 64, "axial_pos_shape": [8, 8],
    "axial_pos_embds_dim": [8, 24], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16,
    "max_position_embeddings": 64, "hidden_dropout_prob": 0.0, "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0, "is_decoder": False,
}  # fmt: skip
DROPS: Final = {
    "hidden_dropout_prob": 0.1, "local_attention_probs_dropout_prob": 0.1, "lsh_attention_probs_dropout_prob": 0.1,
}  # fmt: skip
DECODES: Final = {"is_decoder": True, "architectures": ["ReformerModelWithLMHead"]}
TABLE: Final = {"axial_pos_embds": False}
LOCAL, HASHED, MIXED = ["local", "local"], ["lsh", "lsh"], ["local", "lsh"]

CASES: Final[dict[str, tuple[list[str], dict[str, Any], dict[str, Any]]]] = {
    "local": (LOCAL, {}, {}),
    "local decoder": (LOCAL, DECODES, {}),
    "local, both sides": (LOCAL, {"local_num_chunks_before": 2, "local_num_chunks_after": 1}, {}),
    "local, own chunk": (LOCAL, {"local_num_chunks_before": 0}, {}),
    "hashed": (HASHED, {}, {}),
    "hashed decoder": (HASHED, DECODES, {}),
    "hashed, both sides": (HASHED, {"lsh_num_chunks_after": 1}, {}),
    "hashed, own chunk": (HASHED, {"lsh_num_chunks_before": 0}, {}),
    "hashed twice": (HASHED, {"num_hashes": 2}, {}),
    "hashed four times, decoder": (HASHED, DECODES | {"num_hashes": 4}, {}),
    "buckets of two factors": (HASHED, {"num_buckets": [4, 4]}, {}),
    "buckets of three factors": (HASHED, {"num_buckets": [2, 4, 4]}, {}),
    "mixed": (MIXED, {}, {}),
    "mixed chunks": (MIXED, {"local_attn_chunk_length": 32, "lsh_attn_chunk_length": 8}, {}),
    "local in one chunk": (MIXED, {"local_attn_chunk_length": 64}, {}),
    "hashed in one chunk": (MIXED, {"lsh_attn_chunk_length": 64}, {}),
    "hashed in one chunk of one": (MIXED, {"lsh_attn_chunk_length": 64}, {"batch": 1}),
    "one sequence": (MIXED, {}, {"batch": 1}),
    "one head": (MIXED, {"num_attention_heads": 1, "attention_head_size": 32}, {}),
    "feed-forward in pieces": (MIXED, {"chunk_size_feed_forward": 16}, {}),
    "head in pieces": (MIXED, {"chunk_size_lm_head": 16}, {}),
    "head in pieces of one": (MIXED, {"chunk_size_lm_head": 16}, {"batch": 1}),
    "three axes": (MIXED, {"axial_pos_shape": [4, 4, 4], "axial_pos_embds_dim": [8, 8, 16]}, {}),
    "table": (MIXED, TABLE, {}),
    "dropout": (MIXED, DROPS, {}),
    "dropout, table, pieces": (MIXED, DROPS | TABLE | {"chunk_size_feed_forward": 8}, {}),
    "gelu": (MIXED, {"hidden_act": "gelu"}, {}),
    "mixed precision": (MIXED, {}, {"precision": "bf16-mixed"}),
    "mixed precision, dropout": (MIXED, DROPS | DECODES, {"precision": "bf16-mixed"}),
    "bf16": (MIXED, TABLE, {"precision": "bf16"}),
    "fp16, dropout": (MIXED, TABLE | DROPS | DECODES | {"num_hashes": 2}, {"precision": "fp16"}),
    "bf16 under autocast": (MIXED, TABLE, {"precision": "bf16-autocast"}),
    "outputs": (MIXED, {}, {"retain": ["outputs"]}),
    "last outputs": (MIXED, {}, {"retain": ["last-outputs"]}),
    "accumulated": (MIXED, {}, {"accumulate": 4}),
    "first step": (MIXED, {}, {"first_step": True}),
}


def config(kinds: list[str], more: dict[str, Any]) -> dict[str, Any]:
    return {**SMALL, "attn_layers": kinds, **more}


def watched(said: dict[str, Any], monkeypatch: pytest.MonkeyPatch, c: dict[str, Any]) -> tuple[dict[str, int], Any]:
    """The most that tensors take in each part, as the trace names it, and the result. [byte]"""
    # The norm's own moments are the loss's in a trace.
    names = {"last norm": "loss", "last norm, backward": "loss backward"}
    most = most_by_part(monkeypatch, lambda step, name: names.get(name, name))
    return most, tn.train({"config": c}, suggest=False, replay=True, **said)


def same(kinds: list[str], more: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    c, said = config(kinds, more), {"precision": "fp32", "batch": 2, "seq": 64} | said
    most, result = watched(said, monkeypatch, c)
    found = levels(traced(c, layers="all", **said))
    got = traced_by_part(found)
    # What the function of all layers does between two of its layers has no layer in a trace.
    for parts in (most, got):
        del parts["backward embedding"]
    assert most == got
    tiers = [result.ranks[0].tier(tier) for tier in ("allocated", "reserved")]
    assert tiers == [found.samples[found.peak][1], found.reserved]
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_every_part_of_a_step_is_what_the_code_does(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same(*CASES[case], monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kinds", [MIXED, HASHED], ids=["mixed", "hashed"])
def test_the_embedding_s_gradient_is_the_code_s_as_well(kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From where the function of all layers has returned: its gradient, that of both streams, and their sum."""
    c = config(kinds, {})
    most, _ = watched({"precision": "fp32", "batch": 2, "seq": 64}, monkeypatch, c)
    found = levels(traced(c, layers="all", precision="fp32", batch=2, seq=64))
    last = [p for p in found.parts if p.name == "backward embedding"][-1]
    born = found.traced.born
    start = next(i for i in range(last.start, last.stop) if born[found.traced.order[i]].node == "CatBackward0")
    assert most["backward embedding"] == max(found.requested[start - 1 : last.stop])


@pytest.mark.filterwarnings("ignore")
def test_a_grid_of_positions_in_16_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a whole model is cast; loaded in 16 bit it fails."""
    build = models.build
    monkeypatch.setattr(models, "build", lambda *a, **how: build(*a, **how).to(models.DTYPES[how["dtype"]]))
    same(MIXED, DROPS, {"precision": "bf16"}, monkeypatch)
    import torch
    import transformers

    model = transformers.ReformerForMaskedLM._from_config(
        transformers.ReformerConfig(**config(MIXED, {})), dtype=torch.bfloat16
    )
    ids = torch.zeros(1, 64, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="dtype"):
        model(input_ids=ids)


@pytest.mark.filterwarnings("ignore")
def test_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace is given a label for every token. One for each sequence is made of these by the pass that takes them."""
    build = models.build

    def of_sequences(*a: Any, **how: Any) -> Any:
        model = build(*a, **how)
        forward = model.forward
        model.forward = lambda input_ids, labels: forward(
            input_ids=input_ids, labels=labels[:, 0].clone() if labels.dim() > 1 else labels
        )
        return model

    monkeypatch.setattr(models, "build", of_sequences)
    classes = {"architectures": ["ReformerForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    c, said = config(MIXED, DROPS | classes), {"precision": "fp32", "batch": 2, "seq": 64}
    most, _ = watched(said, monkeypatch, c)
    found = levels(traced(c, layers="all", **said))
    got = traced_by_part(found)
    labels = 2 * 8
    for name in ("forward embedding", "forward layer 0", "forward layer 1", "loss"):
        assert most[name] == got[name]
    for name in ("backward layer 1", "backward layer 0", "optimizer step"):
        assert most[name] == got[name] + labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["local", "lsh"])
def test_activations_do_not_grow_with_depth(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a bucket of every token and head that the function keeps, and parameters with all that is theirs."""
    peaks = {}
    for depth in (3, 6, 12):
        found = same([kind] * depth, {}, {"optimizer": "sgd"}, monkeypatch)
        start, stop = next((p.start, p.stop) for p in found.parts if p.name == "backward layer 1")
        born = found.traced.born
        kept = ("parameter", "buffer", "gradient", "state", "scratch", "workspace")
        alive = {n for n in found.alive(start) if born[n].kind not in kept}
        highest = now = sum(born[n].size for n in alive)
        for n in found.traced.order[start + 1 : stop]:
            b = born[n if n >= 0 else ~n]
            now += (b.size if n >= 0 else -b.size) if b.kind not in kept else 0
            highest = max(highest, now)
        peaks[depth] = highest
    buckets = 2 * 4 * 64 * 8 if kind == "lsh" else 0
    assert peaks[6] - peaks[3] == 3 * buckets
    assert peaks[12] - peaks[6] == 6 * buckets
