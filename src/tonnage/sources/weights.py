"""Whether a text names weights, told without reading them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tonnage.checkpoint import Header

ENDINGS: Final = (".safetensors", ".gguf", ".index.json", ".bin", ".pt", ".pth", ".ckpt")


def is_file(text: str) -> bool:
    """Whether a path or an address ends as a file of weights, or its index, does.

    >>> is_file("https://host/m.gguf?download=true"), is_file("config.json")
    (True, False)
    """
    return text.lower().partition("?")[0].endswith(ENDINGS)


def named(source: str) -> Header | None:
    """The header of the weights that ``source`` names: a file, an index, or a folder that holds weights and no config.

    Returns:
        None where it names something else.

    Raises:
        SourceError: a file is missing or cannot be read.
        InputError: a file breaks a rule of its format.
    """
    path = os.path.expanduser(source.strip())
    folder = os.path.isdir(path)
    if not folder and not is_file(path):
        return None
    if folder and os.path.isfile(os.path.join(path, "config.json")):
        return None
    # Imported late: most models are no weights.
    from tonnage.sources import headers

    return None if folder and headers.within(path) is None else headers.read(path)
