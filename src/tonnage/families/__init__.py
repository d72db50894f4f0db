"""Model families: each reads a config into kinds of block and accounts for every key.

A module carries the name of its ``model_type``; ``_aliases.py`` names further types of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tonnage.arch.model import Model
from tonnage.errors import ConfigError, UnsupportedError, nearest
from tonnage.families._aliases import ALIASES
from tonnage.keys import Keys
from tonnage.registry import names, variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family's configs are read.

    Args:
        read: config to model.
        source: the code that is followed.
        attributes: transformers' ``attribute_map``: other names under which a key may stand.
    """

    read: Callable[[Keys], Model]
    source: str
    attributes: Mapping[str, str] = field(default_factory=dict)


def model_from(
    config: Mapping[str, Any],
    *,
    file: str | None = None,
    ignored: frozenset[str] = frozenset(),
    lenient: bool = False,
) -> Model:
    """Build the model that a config describes.

    Args:
        config: as written.
        file: where it was read, for messages.
        ignored: keys to pass over.
        lenient: report keys that are not understood instead of refusing.

    Raises:
        ConfigError: a key is missing, mistyped or not understood.
        UnsupportedError: no family reads this ``model_type``.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ConfigError(
            "model_type is missing" if kind is None else "model_type must be a text",
            key="model_type",
            value=kind,
            file=file,
            hint="a config.json as transformers writes it names its model_type",
        )
    module = ALIASES.get(kind, kind)
    if module not in names(__name__):
        raise UnsupportedError(
            f"the architecture {kind!r} is not supported yet",
            key="model_type",
            value=kind,
            file=file,
            nearest=nearest(kind, (*names(__name__), *ALIASES)),
            hint="dimensions alone give an answer: tonnage params --hidden ... --layers ... --heads ... --vocab ...",
        )
    family = variant(__name__, module, "FAMILY", Family)
    keys = Keys(config, file=file, aliases=family.attributes, ignored=ignored, lenient=lenient)
    model = family.read(keys)
    keys.done()
    dtype = config.get("dtype", config.get("torch_dtype"))
    return replace(
        model,
        dtype=model.dtype or (dtype if isinstance(dtype, str) else None),
        source=family.source,
        defaulted=tuple(keys.defaulted),
        ignored=tuple(keys.ignored),
    )
