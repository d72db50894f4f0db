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
    return read_inner(k, key, defaults, read)


def read_inner(
    k: Keys,
    key: str,
    defaults: Mapping[str, Any],
    read: Callable[[Keys], T],
    *,
    aliases: Mapping[str, str] | None = None,
    less: tuple[str, ...] = (),
) -> T:
    """The same with other names that its keys go by, without the keys ``less``, which the class around overrules."""
    stated = k.inner(key)
    given = {} if stated is None else {name: value for name, value in stated.config.items() if name not in less}
    path, others = f"{k.path}{key}.", aliases or {}
    absent = {name: v for name, v in defaults.items() if name not in given and others.get(name) not in given}
    k.defaulted += [path + name for name in absent]
    config = {**absent, **given}
    inner = Keys(config, file=k.file, aliases=aliases, ignored=k.allowed, lenient=k.lenient, path=path)
    return _closed(k, inner, read)


def _closed(k: Keys, inner: Keys, read: Callable[[Keys], T]) -> T:
    found = read(inner)
    inner.done()
    k.defaulted += inner.defaulted
    k.ignored += inner.ignored
    return found
