"""Model families: each reads a config into kinds of block and accounts for every key.

A module carries the name of its ``model_type``; ``_aliases.py`` names further types of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tonnage.arch.model import Model
from tonnage.errors import ConfigError, UnsupportedError, nearest
from tonnage.families._aliases import ALIASES
from tonnage.families._heads import wanted, with_head
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.registry import names, variant


class Family(Record):
    """How one family's configs are read.

    Args:
        read: config to model.
        source: the code that is followed.
        attributes: transformers' ``attribute_map``: other names under which a key may stand.
    """

    read: Callable[[Keys], Model]
    source: str
    attributes: Mapping[str, str] = {}


def model_from(
    config: Mapping[str, Any],
    *,
    file: str | None = None,
    ignored: frozenset[str] = frozenset(),
    lenient: bool = False,
    head: str | None = None,
) -> Model:
    """Build the model that a config describes.

    Args:
        config: as written.
        file: where it was read, for messages.
        ignored: keys to pass over.
        lenient: report keys that are not understood instead of refusing.
        head: the head to count instead of that of the config's class.

    Raises:
        ConfigError: a key is missing, mistyped or not understood.
        UnsupportedError: no family reads this ``model_type``.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ConfigError(
            "model_type is missing" if model_type is None else "model_type must be a text",
            key="model_type",
            value=model_type,
            file=file,
            hint="a config.json as transformers writes it names its model_type",
        )
    module = ALIASES.get(model_type, model_type.replace("-", "_"))
    if module not in names(__name__):
        raise UnsupportedError(
            f"the architecture {model_type!r} is not supported yet",
            key="model_type",
            value=model_type,
            file=file,
            nearest=nearest(model_type, (*names(__name__), *ALIASES)),
            hint="dimensions alone give an answer: tonnage params --hidden ... --layers ... --heads ... --vocab ...",
        )
    family = variant(__name__, module, "FAMILY", Family)
    keys = Keys(config, file=file, aliases=family.attributes, ignored=ignored, lenient=lenient)
    kind, labels = wanted(config, head, file=file)
    model = with_head(family.read(keys), kind, labels)
    scheme = keys.inner("quantization_config")
    keys.done()
    dtype = config.get("dtype", config.get("torch_dtype"))
    return model.but(
        dtype=model.dtype or (dtype if isinstance(dtype, str) else None),
        source=family.source,
        quantized=None if scheme is None else str(scheme.config.get("quant_method", "unknown")),
        class_name=str((config.get("architectures") or [""])[0]),
        defaulted=tuple(dict.fromkeys(keys.defaulted)),
        ignored=tuple(keys.ignored),
    )
