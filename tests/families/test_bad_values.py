"""A value of another kind than its key's is told in one line, whatever family reads it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tonnage.errors import ConfigError, UnsupportedError
from tonnage.families import model_from

DATA = sorted((Path(__file__).parent / "data").glob("*.json"))
OTHERS: tuple[Any, ...] = (None, 0, -1, "x", [], [1], {"a": 1})


def places(config: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("number", range(len(DATA)), ids=lambda n: DATA[n].stem)
def test_a_strange_value_is_refused_or_read(number: int) -> None:
    """One value at every fifth key of the family's config, other keys and other values in every family."""
    config, told = json.loads(DATA[number].read_text())["config"], []
    for index, (*path, last) in enumerate(places(config)):
        if index % 5 != number % 5:
            continue
        changed = copy.deepcopy(config)
        inner = changed
        for key in path:
            inner = inner[key]
        inner[last] = OTHERS[(index + number) % len(OTHERS)]
        try:
            model_from(changed)
        except (ConfigError, UnsupportedError) as e:
            told.append(str(e))
    assert not [message for message in told if "\n" in message]


KNOWN = (
    ("fast_vlm", "vision_config.model_type", []),
    ("cosmos3_edge", "vision_config.spatial_merge_size", None),
    ("kimi_k25", "vision_config.merge_kernel_size", [1]),
    ("minicpm_ocr", "vision_config.window_kernel_size", [1]),
    ("modernbert", "classifier_dropout", "x"),
    ("nemotron_h_omni", "downsample_ratio", 0),
)
"""What once was no error of ours."""


@pytest.mark.parametrize(("family", "key", "value"), KNOWN)
def test_these_are_refused(family: str, key: str, value: Any) -> None:
    config = json.loads((Path(__file__).parent / "data" / f"{family}.json").read_text())["config"]
    *path, last = key.split(".")
    inner = config
    for part in path:
        inner = inner[part]
    inner[last] = value
    with pytest.raises((ConfigError, UnsupportedError)) as refused:
        model_from(config)
    assert str(refused.value.key).endswith(last)
