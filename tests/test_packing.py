"""Rows of several texts: what is refused, and what they take beside rows of one text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError

CONFIGS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "traces.json").read_text())["families"]
LLAMA: dict[str, Any] = {"config": CONFIGS["llama"]}
SHAPE: dict[str, Any] = {"precision": "bf16", "batch": 4, "seq": 512, "suggest": False}


def requested(**said: Any) -> int:
    found = tn.train(LLAMA, **(SHAPE | said))
    size: int = found.fullest.tier("requested")
    return size


def test_a_mask_by_hand() -> None:
    """One mask for the model, and one of numbers that each layer keeps; repeated keys and values as with padding."""
    tokens, layers = 4 * 512, CONFIGS["llama"]["num_hidden_layers"]
    one = requested(batch=1, seq=tokens, padded=True, first_step=True)
    flat = requested(packing="flat", first_step=True)
    # Positions of the batch lie there to the end of the step; those that the model makes are gone with its layers.
    assert flat == one + 8 * tokens
    plain = requested(batch=1, seq=tokens, first_step=True, attention="efficient")
    assert flat - plain >= tokens * tokens * 2 * layers


def test_flash_attention_takes_no_mask() -> None:
    """Bounds of texts in each layer: 4 B for each and one more."""
    layers = CONFIGS["llama"]["num_hidden_layers"]
    kept = [
        tn.train(LLAMA, **(SHAPE | {"packing": "flat", "attention": "flash_attention_2", "packed_texts": n}))
        for n in (4, 12)
    ]
    saved = [sum(c.bytes for c in r.components if c.name == "activations" and "saved by" in c.why) for r in kept]
    assert 0 < saved[1] - saved[0] <= 4 * 8 * layers
    assert not any("mask" in c for c in kept[0].caveats)


def test_rows_of_one_text_make_no_mask() -> None:
    assert requested(packing="rows", packed_texts=4) < requested(packing="rows", packed_texts=5)
    assert requested(packing="flat", batch=1, packed_texts=1) < requested(packing="flat", batch=1, packed_texts=2)


def test_a_mask_that_comes_along_is_shared() -> None:
    """LLaMA-Factory's: numbers that every layer takes as they are."""
    said = {"packing": "rows", "recompute": "none", "attention": "sdpa", "loss": "full"}
    assert requested(stack="llama-factory", **said) < requested(stack="axolotl", **said)


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        ({"packed_texts": 3}, InputError, "without packing"),
        ({"packing": "rows", "packed_texts": 3}, InputError, "fewer texts"),
        ({"packing": "flat", "padded": True}, UnsupportedError, "padded"),
        ({"packing": "flat", "attention": "math"}, UnsupportedError, "attention = math"),
        ({"packing": "flat", "attention": "flex"}, UnsupportedError, "attention = flex"),
        ({"packing": "flat", "stack": "torchtune"}, UnsupportedError, "torchtune"),
        ({"packing": "flat", "stack_version": "4.50"}, UnsupportedError, "before transformers 4.53"),
        ({"packing": "flat", "objective": "dpo"}, UnsupportedError, "objective"),
    ],
)
def test_what_is_not_answered_is_refused(said: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        tn.train(LLAMA, **(SHAPE | said))


def test_a_model_whose_packing_is_not_modelled_is_in_doubt() -> None:
    found = tn.train({"config": CONFIGS["bloom"]}, gpu="h100-sxm-80gb", **(SHAPE | {"packing": "flat"}))
    assert found.fit is not None
    assert found.fit.verdict == "uncertain"
    assert any("answered as rows of one text" in c for c in found.caveats)
