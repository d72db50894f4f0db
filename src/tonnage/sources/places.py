"""Where a model's files lie: a folder, an address, a repository of the Hub. What reads them need not know which."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tonnage.errors import SourceError
from tonnage.sources._files import Opened, opened

if TYPE_CHECKING:
    from tonnage.sources.hub import Repo

Progress = Callable[[int, int], None]
"""Called with how many of a model's files are read, and how many there are."""


class Place(Protocol):
    """Files of a model, by their names in it.

    Args:
        title: what the model is called.
        words: the place in a sentence.
        remote: whether files come from a network.
    """

    title: str
    words: str
    remote: bool

    @property
    def down(self) -> SourceError | None:
        """Why not all of its files are known; None where they are."""
        ...

    @property
    def origin(self) -> str:
        """The place for the record."""
        ...

    def names(self) -> list[str]:
        """Of all files; those in folders of it with a slash."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def absent(self, name: str) -> SourceError:
        """The error for a file that is not there."""
        ...

    def path(self, name: str) -> str:
        """How a person names a file of it."""
        ...

    def reading(self, name: str, first: int = 0) -> AbstractContextManager[Opened]:
        """A file of it, open.

        Args:
            name: of the file.
            first: what is asked of a network at once, where that is known. [byte]
        """
        ...


class Located(NamedTuple):
    """What a text names.

    Args:
        place: where it lies.
        name: of the one file that is meant; None where all of the place is.
        quant: the quantization of a GGUF file, where that is how it was named.
    """

    place: Place
    name: str | None = None
    quant: str = ""


class Folder:
    """A folder of this machine.

    Args:
        path: as the user named it; empty for where the program was started.
        title: what the model is called, where that is not the folder's name.
    """

    remote = False
    down = None

    def __init__(self, path: str, title: str = "") -> None:
        self._path = path
        self.title = title or os.path.basename(os.path.abspath(path))
        self.words = f"the folder {path or '.'}"

    @property
    def origin(self) -> str:
        """The place for the record."""
        return f"folder: {self._path or '.'}"

    def names(self) -> list[str]:
        """Of the files that lie in it, not below it."""
        try:
            return sorted(os.listdir(self._path or "."))
        except OSError as e:
            raise SourceError(
                f"cannot read {self._path}: {e.strerror or e}", key="model", value=self._path, file=self._path
            ) from None

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return os.path.isfile(self.path(name))

    def absent(self, name: str) -> SourceError:
        """The error for a file that is not there."""
        path = self.path(name)
        return SourceError(f"cannot read {path}: No such file or directory", key="model", value=path, file=path)

    def path(self, name: str) -> str:
        """The file's path."""
        return os.path.join(self._path, name)

    def reading(self, name: str, first: int = 0) -> AbstractContextManager[Opened]:
        """A file of it, open."""
        return opened(self.path(name))


class Site:
    """Files at an address beside each other, which no one lists.

    Args:
        address: of one of them.
    """

    remote = True
    down = None

    def __init__(self, address: str) -> None:
        plain, mark, query = address.partition("?")
        self._base, _, self.name = plain.rpartition("/")
        # What follows one file's name is that file's alone.
        self._query = mark + query
        self.title = self._base.rpartition("/")[2] or self.name
        self.words = self._base

    @property
    def origin(self) -> str:
        """The place for the record."""
        return f"address: {self._base}"

    def names(self) -> list[str]:
        """Of the one that is known."""
        return [self.name]

    def has(self, name: str) -> bool:
        """True: only asking for it tells."""
        return True

    def absent(self, name: str) -> SourceError:
        """The error for a file that is not there."""
        path = self.path(name)
        return SourceError(f"cannot read {path}: there is no such file", key="model", value=path, file=path)

    def path(self, name: str) -> str:
        """The file's address."""
        return f"{self._base}/{name}" + (self._query if name == self.name else "")

    @contextmanager
    def reading(self, name: str, first: int = 0) -> Iterator[Opened]:
        """A file of it, open."""
        # Imported late: a file needs no network.
        from tonnage.sources.http import CHUNK, Remote

        yield Remote(self.path(name), first=first or CHUNK)


def of(path: str) -> Located:
    """The place of a path or an address, and the name of the file in it; a folder is meant whole."""
    if "://" in path:
        site = Site(path)
        return Located(site, site.name)
    if os.path.isdir(path):
        return Located(Folder(path))
    folder, name = os.path.split(path)
    return Located(Folder(folder), name)


def located(text: str) -> Located | None:
    """What a text names, other than a model of the catalogue; None where it names nothing that is known.

    What is there on this machine comes first, then the catalogue, then the Hub.

    Raises:
        InputError: it names something of the Hub that is no model.
        SourceError: huggingface_hub is not installed.
    """
    path = os.path.expanduser(text)
    if "\0" not in text and os.path.lexists(path):
        return of(path)
    # Imported late: most models are of the catalogue, or files.
    from tonnage.sources import catalogue, hub
    from tonnage.sources.weights import is_file

    repo = hub.named(text)
    if repo is not None and not catalogue.find(text):
        return _of_the_hub(repo, text)
    if "://" in text:
        return of(text)
    if is_file(text) or text.lower().endswith(".json") or text.startswith((".", "/", "~")):
        return of(path)
    return None


def _of_the_hub(repo: Repo, text: str) -> Located:
    from tonnage.sources import hub

    if "://" in text and repo.path and not find_spec("huggingface_hub"):
        # An open file needs no login, so it can be read at its address.
        return of(f"{hub.ENDPOINT}/{repo.id}/resolve/{repo.revision or 'main'}/{repo.path}")
    from tonnage.sources._hub import repository

    return Located(repository(repo), repo.path if hub.is_path(repo.path) else None, repo.quant)
