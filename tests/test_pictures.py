"""Tokens of a picture in models that see, from their configs."""

from __future__ import annotations

import pytest

import tonnage as tn
from tonnage.families import model_from

TOKENS = [
    ("gemma-3-4b", None, (896 // 14 // 4) ** 2),
    ("gemma-3-27b", None, 256),
    ("llava-1.5-7b", None, (336 // 14) ** 2),
    ("mistral-small-3.1-24b", None, 55 * (55 + 1)),
    ("mistral-small-3.1-24b", "1024x768", 28 * (37 + 1)),
    ("paligemma-3b-pt-224", None, (224 // 14) ** 2),
]
"""Model, size, and what a picture of it becomes, by hand from patches and what they are merged by."""


@pytest.mark.parametrize(("name", "size", "tokens"), TOKENS)
def test_tokens_of_a_picture(name: str, size: str | None, tokens: int) -> None:
    eye = tn.load(name).eye
    assert eye is not None
    assert eye.tokens(eye.pictures(1, size)) == tokens
    assert eye.tokens(eye.pictures(3, size)) == 3 * tokens


@pytest.mark.parametrize(("size", "rows", "columns"), [("512x512", 32, 32), ("1024x768", 48, 64), ("2048x512", 16, 64)])
def test_tokens_of_a_picture_that_pixtral_sees(size: str, rows: int, columns: int) -> None:
    """A token for each patch of 16 pixels, and one behind each row of them; the longest side is 1,024."""
    sizes = {"hidden_size": 5120, "num_hidden_layers": 1, "intermediate_size": 14336, "num_attention_heads": 32}
    config = {
        "model_type": "llava", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
        "text_config": {"model_type": "mistral", "vocab_size": 131072, **sizes},
        "vision_config": {"model_type": "pixtral", "image_size": 1024},
    }  # fmt: skip
    eye = model_from(config).eye
    assert eye is not None
    assert eye.tokens(eye.pictures(1, size)) == rows * (columns + 1)
