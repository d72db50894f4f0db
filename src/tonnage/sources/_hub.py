"""A repository of the Hub as a place of files.

Small files come through huggingface_hub and stay in its cache; of weights, headers are read here by ranges, since its
own reader takes whole bodies, refuses headers beyond 25 MB and overlooks the cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from tonnage.errors import InputError, SourceError, nearest
from tonnage.sources import config
from tonnage.sources._files import Opened, opened
from tonnage.sources._hub_client import AbsentError, Client
from tonnage.sources.http import CHUNK, Headers, Remote
from tonnage.sources.hub import Repo, is_path
from tonnage.sources.weights import is_file

LARGEST: Final = 64 * 2**20
"""Of an index, which is fetched whole: that of DeepSeek-V3 has 8.9 MB. [byte]"""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


FRESH: Final = 60
"""How long what the Hub said of a repository is good for: one answer asks for its config and for its weights. [s]"""
_recent: dict[str, tuple[float, Repository]] = {}


def repository(repo: Repo) -> Repository:
    """A repository, asked anew where that was long ago or went wrong.

    Raises:
        SourceError: huggingface_hub is not installed.
    """
    since, found = _recent.get(str(repo), (0.0, None))
    if found is None or found.down or monotonic() - since > FRESH:
        if len(_recent) > 64:
            _recent.clear()
        found = Repository(repo)
        _recent[str(repo)] = monotonic(), found
    return found


class Repository:
    """A repository of the Hub, or a folder of one, at one commit.

    What the Hub says first counts; where it cannot be asked, what its cache has.

    Args:
        repo: which.
    """

    remote = True

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._client = Client(repo)
        self._below = f"{repo.path}/" if repo.path and not is_path(repo.path) else ""
        self.title = f"{repo.id}/{self._below}".rstrip("/")
        self.words = self.title
        self._commit = repo.revision if repo.revision and _COMMIT.fullmatch(repo.revision) else None
        self._names: list[str] | None = None
        self._fetched: dict[str, str | None] = {}

    @property
    def down(self) -> SourceError | None:
        """Why the Hub cannot be asked; the cache is all there is then."""
        return self._client.down

    @property
    def origin(self) -> str:
        """The repository with its commit, where that is known."""
        commit = self._commit or self._repo.revision
        return f"hub: {self.title}" + (f"@{commit}" if commit else "")

    def names(self) -> list[str]:
        """Of all files; of those that the cache has, where the Hub cannot be asked."""
        if self._names is None:
            self._names = self._listed()
        return [name.removeprefix(self._below) for name in self._names if name.startswith(self._below)]

    def _listed(self) -> list[str]:
        found = self._client.files()
        if found is not None:
            self._commit = found[0]
            return found[1]
        folder = self._client.snapshot()
        if folder is None:
            assert self.down is not None
            raise self.down
        paths = (os.path.join(at, name) for at, _, files in os.walk(folder) for name in files)
        return sorted(os.path.relpath(path, folder).replace(os.sep, "/") for path in paths)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if is_file(name) or (self._names is not None and not self.down):
            return name in self.names()
        return self._file(self._below + name) is not None

    def absent(self, name: str) -> SourceError:
        """The error for a file that is not there, or that cannot be asked for."""
        if self.down is not None:
            return self.down
        return SourceError(
            f"{self.words} has no file {name}", key="model", value=self.path(name),
            nearest=[self.path(n) for n in nearest(name, self.names())],
        )  # fmt: skip

    def path(self, name: str) -> str:
        """How a person names a file of it."""
        revision = f"@{self._repo.revision}" if self._repo.revision else ""
        return f"{self._repo.id}{revision}/{self._below}{name}"

    @contextmanager
    def reading(self, name: str, first: int = 0) -> Iterator[Opened]:
        """A file of it, open: from the cache, or from the Hub."""
        whole = not is_file(name) or name.endswith(".json")
        path = self._file(self._below + name) if whole else self._weights(name)
        if path is not None:
            with opened(path) as file:
                # Messages speak of what was asked for, not of the cache.
                file.path, file.name = self.path(name), name.rpartition("/")[2]
                yield file
        elif whole or self.down is not None:
            raise self.absent(name)
        else:
            yield _Ranges(self._client, self._below + name, self.path(name), self._commit, first or CHUNK)

    def _weights(self, name: str) -> str | None:
        """Where the cache has a file of weights of this commit."""
        if name not in self.names() and not self.down:
            raise self.absent(name)
        try:
            return self._client.cached(self._below + name, self._commit)
        except AbsentError:
            raise self.absent(name) from None

    def _file(self, name: str) -> str | None:
        """Where the cache has a small file, after it was fetched where need be; None where there is none."""
        if name not in self._fetched:
            try:
                self._fetched[name] = self._known(name) or self._asked(name)
            except AbsentError:
                self._fetched[name] = None
        return self._fetched[name]

    def _known(self, name: str) -> str | None:
        """From the cache alone, which is certain for a commit only."""
        return self._client.cached(name, self._commit) if self._commit else None

    def _asked(self, name: str) -> str | None:
        client = self._client
        stated = client.stated(name)
        if stated is not None:
            self._commit, size = stated
            most = LARGEST if is_file(name) else config.LARGEST
            if size is not None and size > most:
                raise InputError(f"{size:,} bytes are too large: more than {most:,}", key="model", file=self.path(name))
            path = self._known(name) or client.download(name)
            if path is not None:
                return path
        found = client.cached(name, self._commit)
        if found is None and self.down is not None:
            raise self.down
        return found


class _Ranges(Remote):
    """A file of the Hub, read by ranges with the login that huggingface_hub has.

    Args:
        client: asked for it.
        name: of the file.
        path: how a person names it.
        commit: of the file.
        first: what the first request asks for. [byte]
    """

    def __init__(self, client: Client, name: str, path: str, commit: str | None, first: int) -> None:
        self._client = client
        self._address = client.address(name, commit)
        self._away = False
        self._begin(path, name.rpartition("/")[2], first)

    def _open(self, headers: Mapping[str, str]) -> Any:
        answer = self._client.asked("GET", self._address, headers)
        self._away = answer.away
        return answer

    def _refused(self, status: int, headers: Headers) -> SourceError:
        if self._away:
            return self._failed(f"the storage that the Hub names answers {status}")
        if headers.get("X-Error-Code") == "EntryNotFound":
            return self._failed("there is no such file")
        return self._client.refused(status, headers)
