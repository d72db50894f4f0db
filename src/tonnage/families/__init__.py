"""Model families: each reads a config into kinds of block and accounts for every key.

A module carries the name of its ``model_type``; ``_aliases.py`` names further types of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tonnage.arch.model import Model
from tonnage.errors import ConfigError, InputError, UnsupportedError, nearest
from tonnage.families._aliases import ALIASES
from tonnage.families._heads import wanted, with_head
from tonnage.formats import storage_format
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.registry import names, variant


class Family(Record):
    """How one family's configs are read.

    Args:
        read: config to model.
        source: the code that is followed.
        attributes: transformers' ``attribute_map``: other names under which a key may stand.
        classes: heads whose class is another structure than what ``read`` builds, with what reads it (BART's causal
            class is its decoder alone).
        whole: types for which transformers has no bare class: its ``AutoModel`` builds the one with a head (Llama 4).
    """

    read: Callable[[Keys], Model]
    source: str
    attributes: Mapping[str, str] = {}
    classes: Mapping[str, Callable[[Keys], Model]] = {}
    whole: tuple[str, ...] = ()


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
    config = _lifted(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ConfigError(
            "model_type is missing" if model_type is None else "model_type must be a text",
            key="model_type",
            value=model_type,
            file=file,
            hint="a config.json as transformers writes it names its model_type",
        )
    family = family_of(model_type, file=file)
    keys = Keys(config, file=file, aliases=family.attributes, ignored=ignored, lenient=lenient)
    kind, labels = wanted(config, head, file=file)
    if kind == "none" and model_type in family.whole:
        kind = "conditional"
    reader = family.classes.get("seq2seq" if kind == "conditional" else kind or "", family.read)
    model = with_head(reader(keys), model_type, kind, labels)
    _sensible(model, file)
    scheme = keys.inner("quantization_config")
    quantized = None if scheme is None else _quantized(scheme, keys)
    keys.done()
    return model.but(
        dtype=model.dtype or _dtype(config, file),
        reach=_reach(config, model.positions),
        source=family.source,
        quantized=quantized,
        quantization=None if scheme is None else scheme.config,
        class_name=str((config.get("architectures") or [""])[0]),
        whole_type=model_type,
        sight=_sight(config),
        defaulted=tuple(dict.fromkeys(keys.defaulted)),
        ignored=tuple(keys.ignored),
        config=config,
    )


def family_of(model_type: str, *, key: str = "model_type", file: str | None = None) -> Family:
    """What reads this type; ``key`` is where the config names it.

    Raises:
        UnsupportedError: nothing does.
    """
    module = ALIASES.get(model_type, model_type.replace("-", "_"))
    if module in names(__name__):
        return variant(__name__, module, "FAMILY", Family)
    raise UnsupportedError(
        f"the architecture {model_type!r} is not supported yet",
        key=key,
        value=model_type,
        file=file,
        nearest=nearest(model_type, (*names(__name__), *ALIASES)),
        hint="dimensions alone give an answer: tonnage params --hidden ... --layers ... --heads ... --vocab ...",
    )


def _sensible(model: Model, file: str | None) -> None:
    """Refuse sizes that together leave nothing of a tensor, or less."""
    for _, tensors in model.groups():
        for t in tensors:
            # A model may have shared experts of no width; torch builds them, and they hold nothing.
            if any(n < (0 if t.role == "shared_expert" else 1) for _, n in t.axes):
                raise ConfigError(
                    f"the sizes make no model: {t.name} would be {list(t.shape)}", key=t.name, value=t.shape, file=file
                )


def _reach(config: Mapping[str, Any], positions: int | None) -> int | None:
    """Tokens that scaled angles reach: positions times a linear or dynamic factor, YaRN's from what it was trained for.

    >>> _reach({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 32768)
    131072
    """
    inner = config.get("text_config")
    told = config.get("rope_scaling") or config.get("rope_parameters")
    if not told and isinstance(inner, Mapping):
        told = inner.get("rope_scaling") or inner.get("rope_parameters")
    if isinstance(told, Mapping) and isinstance(told.get("full_attention"), Mapping):
        told = told["full_attention"]
    if positions is None or not isinstance(told, Mapping):
        return None
    kind, factor = told.get("rope_type") or told.get("type"), told.get("factor")
    if kind not in ("linear", "dynamic", "yarn") or isinstance(factor, bool) or not isinstance(factor, int | float):
        return None
    start = told.get("original_max_position_embeddings") if kind == "yarn" else positions
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 < start * factor < 1 << 40:
        return None
    found = int(start * factor)
    return found if found > positions else None


def _sight(config: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """Layers and width that the config of an encoder of pictures states under the usual names."""
    inner = config.get("vision_config")
    if not isinstance(inner, Mapping):
        return None
    layers, width = inner.get("num_hidden_layers"), inner.get("hidden_size")
    return (layers if isinstance(layers, int) else None, width if isinstance(width, int) else None)


def _dtype(config: Mapping[str, Any], file: str | None) -> str | None:
    """The format that the config says its checkpoint is in."""
    for key in ("dtype", "torch_dtype"):
        name = config.get(key)
        if name in (None, "auto"):
            continue
        if not isinstance(name, str):
            raise ConfigError(f"{key} must be a text, not {name!r}", key=key, value=name, file=file)
        try:
            return storage_format(name, key=key).name
        except InputError as e:
            raise ConfigError(e.message, key=key, value=name, file=file, nearest=e.nearest) from None
    return None


def _lifted(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config with its scheme where engines look for it.

    Kimi K2.5 and K3 state it in ``text_config`` alone, DeepSeek-V4 the format of its experts beside it.
    """
    text, scheme, experts = config.get("text_config"), config.get("quantization_config"), config.get("expert_dtype")
    if isinstance(scheme, Mapping) and experts is not None and "expert_dtype" not in scheme:
        return {**config, "quantization_config": {**scheme, "expert_dtype": experts}}
    if scheme is not None or not isinstance(text, Mapping) or text.get("quantization_config") is None:
        return config
    rest = {key: value for key, value in text.items() if key != "quantization_config"}
    return {**config, "text_config": rest, "quantization_config": text["quantization_config"]}


def _quantized(scheme: Keys, keys: Keys) -> str:
    """The method of a ``quantization_config``. One that is not modelled is refused by the answers that need it."""
    from tonnage import quant

    try:
        read = quant.recipe(scheme.config, file=scheme.file, ignored=scheme.allowed, lenient=scheme.lenient)
        keys.ignored += read.ignored
    except UnsupportedError:
        pass
    return quant.method(scheme.config)
