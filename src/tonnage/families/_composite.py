"""Configs that hold the config of a language model beside those of towers for images and sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tonnage.keys import Keys

T = TypeVar("T")


def nested(k: Keys, key: str, read: Callable[[Keys], T]) -> T | None:
    """What ``read`` makes of a nested config, every key of which it has to account for; None where there is none."""
    inner = k.inner(key)
    return None if inner is None else _closed(k, inner, read)


def filled(k: Keys, key: str, defaults: Mapping[str, Any], read: Callable[[Keys], T]) -> T:
    """The same where a nested config leaves out what its class fills in, or is left out itself."""
    stated = k.inner(key)
    given = {} if stated is None else stated.config
    path = f"{k.path}{key}."
    k.defaulted += [path + name for name in defaults if name not in given]
    inner = Keys({**defaults, **given}, file=k.file, ignored=k.allowed, lenient=k.lenient, path=path)
    return _closed(k, inner, read)


def _closed(k: Keys, inner: Keys, read: Callable[[Keys], T]) -> T:
    found = read(inner)
    inner.done()
    k.defaulted += inner.defaulted
    k.ignored += inner.ignored
    return found
