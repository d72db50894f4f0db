"""What builds the model that a text names: a ``config.json``, or the metadata of a GGUF file."""

from __future__ import annotations

from tonnage.errors import InputError, SourceError, UnsupportedError
from tonnage.sources import RawModel, choice, config, places
from tonnage.sources.places import Located, Place, Progress
from tonnage.sources.weights import is_file

CONFIG = "config.json"
ADAPTER = "adapter_config.json"


def described(text: str, progress: Progress | None = None) -> RawModel | None:
    """What a path, an address or a name of the Hub describes; None where a text is none of those.

    Args:
        text: as it was given.
        progress: called as files of a network are read.

    Raises:
        SourceError: a file is not there or cannot be read.
        InputError: a file is no config, or several are meant.
        UnsupportedError: tensors without an architecture, or an adapter without its base.
    """
    at = places.located(text)
    if at is None:
        return None
    if at.name is None:
        return _whole(at, progress)
    if not is_file(at.name):
        return config.of(at.place, at.name)
    if at.name.lower().endswith(".gguf"):
        return _gguf(at.place, at.name, progress)
    return _beside(at.place, at.name)


def _gguf(place: Place, name: str, progress: Progress | None, title: str = "") -> RawModel:
    from tonnage.sources.gguf_config import described
    from tonnage.sources.headers import header

    found = header(place, name, progress)
    return described(found.but(name=title) if title else found)


def _whole(at: Located, progress: Progress | None) -> RawModel:
    """From all of a folder or a repository."""
    place = at.place
    if not at.quant:
        if place.has(CONFIG):
            return config.of(place, CONFIG)
        if place.has(ADAPTER):
            raise _adapter(place)
    weights = choice.weights(place, at.quant)
    if weights is not None and weights.lower().endswith(".gguf"):
        return _gguf(place, weights, progress, choice.title(place, weights))
    if place.down is not None:
        raise place.down
    there = ", ".join(name for name in place.names()[:12] if not name.startswith("."))
    raise SourceError(
        f"{place.words} has no {CONFIG}", key="model", value=place.title, file=place.words,
        hint=f"it holds {there}" if there else "nothing is there",
    )  # fmt: skip


def _beside(place: Place, name: str) -> RawModel:
    """The config in the folder of a weights file."""
    folder, slash, _ = name.rpartition("/")
    beside, path = f"{folder}{slash}{CONFIG}", place.path(name)
    if not place.has(name):
        raise place.absent(name)
    if not place.has(beside):
        raise UnsupportedError(
            f"{path} names tensors and no architecture", key="model", value=path, file=path,
            hint="put the model's config.json beside it; tonnage params answers from the header alone",
        )  # fmt: skip
    return config.of(place, beside)


def base_of(place: Place) -> str | None:
    """The model that an adapter is for, as its config names it; None where a place holds no adapter.

    Raises:
        InputError: the adapter's config is none.
    """
    if not place.has(ADAPTER):
        return None
    with place.reading(ADAPTER) as file:
        base = config.parsed(config.limited(file), file.path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise InputError("an adapter without base_model_name_or_path", key="model", file=place.path(ADAPTER))
    return base.strip()


def _adapter(place: Place) -> UnsupportedError:
    base = base_of(place)
    return UnsupportedError(
        f"{place.words} holds an adapter, not a model: it is for {base}", key="model", value=place.title,
        hint=f"give the model: {base}",
    )  # fmt: skip
