"""Whether a text names weights, and their header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tonnage.checkpoint import Header
    from tonnage.sources.places import Progress

ENDINGS: Final = (".safetensors", ".gguf", ".index.json", ".bin", ".pt", ".pth", ".ckpt")


def is_file(text: str) -> bool:
    """Whether a path or an address ends as a file of weights, or its index, does.

    >>> is_file("https://host/m.gguf?download=true"), is_file("config.json")
    (True, False)
    """
    return text.lower().partition("?")[0].endswith(ENDINGS)


def named(source: str, *, beside_config: bool = False, progress: Progress | None = None) -> Header | None:
    """The header of the weights that ``source`` names: a file, an index, or a folder or repository that holds some.

    Args:
        source: a path, an address, or what names something of the Hub.
        beside_config: whether a folder or repository counts that holds a ``config.json`` as well, which says more than
            a header does.
        progress: called as files are read.

    Returns:
        None where it names something else.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format.
    """
    # Imported late: most models are no weights.
    from tonnage.sources import places

    at = places.located(source.strip())
    if at is None or (at.name is not None and not is_file(at.name)):
        return None
    from tonnage.sources import headers

    if at.name is not None:
        return headers.header(at.place, at.name, progress)
    if not beside_config and not at.quant and at.place.has("config.json"):
        return None
    return headers.whole(at.place, at.quant, progress)
