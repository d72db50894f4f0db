"""Where a model's description comes from. Each source gives the same shape; none knows a formula."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tonnage.errors import InputError
from tonnage.record import Record

if TYPE_CHECKING:
    from tonnage.sources.places import Progress


class RawModel(Record):
    """A config as written, and where it was found.

    Args:
        config: its keys and values.
        name: what the model is called.
        origin: the source in words.
        file: for messages about keys; None where there is no file.
    """

    config: Mapping[str, Any]
    name: str
    origin: str
    file: str | None = None


def described(source: str | os.PathLike[str] | Mapping[str, Any], progress: Progress | None = None) -> RawModel:
    """The config that a source stands for: a name, a path, an address, a repository, or a config itself.

    Raises:
        InputError: unknown name, or no config.
        SourceError: the file is not there, or the Hub does not give it.
    """
    if isinstance(source, Mapping):
        inline = source.get("config", source)
        if not isinstance(inline, Mapping):
            raise InputError("an inline config is an object", key="model", value=type(inline).__name__)
        return RawModel(config=inline, name=str(source.get("name", "")), origin="inline")
    from tonnage.sources import catalogue

    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if not isinstance(source, str):
        raise InputError(f"a model is a name, a path or a config, not {source!r}", key="model", value=source)
    text = source.strip()
    if not text:
        raise InputError("no model is named", key="model", value=source, hint="tonnage models lists the catalogue")
    if text.startswith("{"):
        from tonnage.sources.config import parsed

        return described(parsed(text, None), progress)
    if not os.path.lexists(text):
        found = catalogue.find(text)
        if found is not None:
            return found
    from tonnage.sources.model import described as read

    raw = read(text, progress)
    if raw is None:
        raise catalogue.unknown(text)
    return raw
