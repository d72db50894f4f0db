"""Tokens of a picture in models that see, from their configs."""

from __future__ import annotations

import pytest

import tonnage as tn

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
