"""What a text says of the Hub: which repository, which revision, which of its files. Nothing is asked of the Hub here.

Understood are ``org/name``, ``org/name@revision``, ``org/name:Q4_K_M``, ``org/name/file.gguf``, each with ``hf:`` or
``hf.co/`` before it, and the addresses that a browser shows. ``hf:`` asks the Hub even where a folder or the catalogue
has the name.
"""

from __future__ import annotations

import os
import re
from typing import Final

from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.sources.weights import is_file

ENDPOINT: Final = "https://huggingface.co"
HOSTS: Final = ("huggingface.co/", "www.huggingface.co/", "hf.co/")
LONGEST: Final = 96
"""Of a repository's id. huggingface_hub 2.4.0 utils/_validators.py"""

_WORD: Final = r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?"
_ID: Final = re.compile(rf"{_WORD}(?:/{_WORD})?", re.ASCII)
_PAIR: Final = re.compile(rf"{_WORD}/{_WORD}", re.ASCII)
_FULL: Final = re.compile(r"refs/(?:pr/\d+|convert/\w+)|[^/]+")
"""A revision before a path: what has slashes itself is percent-encoded, but for these."""
_QUANT: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_OTHERS: Final = {
    "datasets": "a dataset", "spaces": "a space", "kernels": "a kernel", "buckets": "a bucket", "papers": "a paper",
    "collections": "a collection", "docs": "a page of documentation", "api": "an address for programs",
}  # fmt: skip
_FILES: Final = frozenset(["blob", "resolve", "raw"])
_KINDS: Final = _FILES | {"tree", "commit"}


class Repo(Record):
    """What is meant of the Hub.

    Args:
        id: ``org/name``; the oldest repositories have no organization.
        revision: a branch, a tag or a commit; None for the default branch.
        path: a file or a folder of it; empty for all of it.
        quant: the quantization of a GGUF file, where that is how it was named.
    """

    id: str
    revision: str | None = None
    path: str = ""
    quant: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return (
            f"{self.id}{revision}" + (f"/{self.path}" if self.path else "") + (f":{self.quant}" if self.quant else "")
        )


def named(text: str) -> Repo | None:
    """The repository that a text names; None where it names none. Whether a folder has that name is not looked at.

    Raises:
        InputError: it names something of the Hub that is no model.

    >>> named("hf:org/name@v1:Q4_K_M")
    Repo(id='org/name', revision='v1', path='', quant='Q4_K_M')
    >>> named("https://huggingface.co/org/name/blob/main/config.json").path
    'config.json'
    >>> named("llama-3.1-8b"), named("folder/config.json")
    (None, None)
    """
    rest = address(text)
    if rest is not None:
        return _page(rest, text)
    if text.startswith("hf:"):
        return _stated(text.removeprefix("hf:").removeprefix("//models/").removeprefix("//"), text)
    return _bare(text)


def address(text: str) -> str | None:
    """What follows the Hub in an address of it, without query; None for any other text."""
    plain = text.partition("#")[0].partition("?")[0]
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    if endpoint and plain.startswith(endpoint + "/"):
        return plain.removeprefix(endpoint + "/")
    lower = plain.lower()
    for host in HOSTS:
        for start in (f"https://{host}", f"http://{host}", host):
            if lower.startswith(start):
                return plain[len(start) :]
    return None


def _page(rest: str, text: str) -> Repo:
    """From the path of an address."""
    from urllib.parse import unquote

    parts = [unquote(part) for part in rest.split("/") if part]
    at = next((i for i, part in enumerate(parts[:3]) if i and part in _KINDS), 0)
    if not at or parts[0] in _OTHERS:
        # hf.co/org/name:Q4_K_M, as other programs take it.
        return _stated("/".join(parts), text)
    id, revision, path = "/".join(parts[:at]), "".join(parts[at + 1 : at + 2]), parts[at + 2 :]
    if revision == "refs" and len(path) >= 2:
        revision, path = "/".join(["refs", *path[:2]]), path[2:]
    if path and parts[at] in _FILES and not is_path(path[-1]):
        raise _no_model(text, "neither a config nor weights")
    return _checked(Repo(id, revision or None, "/".join(path)), text)


def _stated(spec: str, text: str) -> Repo:
    """From what follows ``hf:``, which can mean nothing else."""
    spec, colon, quant = spec.partition(":")
    id, at, revision = spec.partition("@")
    parts = id.split("/")
    id, path = "/".join(parts[:2]), "/".join(parts[2:])
    if parts[0] in _OTHERS:
        raise _no_model(text, f"{_OTHERS[parts[0]]} of the Hub, not a model")
    if (at and not revision) or (colon and not quant):
        raise _no_model(text, f"nothing follows the {'@' if at and not revision else 'colon'}")
    found = _FULL.match(revision)
    # A revision may have slashes; what ends as a file does follows it.
    if found is not None and is_path(revision) and revision[found.end() :].startswith("/"):
        revision, path = found[0], revision[found.end() + 1 :]
    return _checked(Repo(id, revision.replace("%2F", "/") or None, path, quant), text)


def is_path(text: str) -> bool:
    """Whether a text ends as a file's name does that is read.

    >>> is_path("a/model.gguf"), is_path("config.json"), is_path("unet")
    (True, True, False)
    """
    return is_file(text) or text.endswith(".json")


def _bare(text: str) -> Repo | None:
    """From a text that may as well be a path: two words, or two words and a file."""
    head = text.partition("@")[0].partition(":")[0]
    if "://" in text or len(text) > 1024:
        return None
    if _PAIR.fullmatch(head):
        return None if is_path(head) else _stated(text, text)
    parts = head.split("/")
    if len(parts) > 2 and is_path(head) and _PAIR.fullmatch("/".join(parts[:2])) and not os.path.isdir(parts[0]):
        return _stated(text, text)
    return None


def _checked(repo: Repo, text: str) -> Repo:
    if not _ID.fullmatch(repo.id) or len(repo.id) > LONGEST or "--" in repo.id or ".." in repo.id:
        raise _no_model(text, "no id of the Hub: that is org/name, of letters, digits and . - _")
    if repo.revision and (len(repo.revision) > 255 or any(c <= " " or c in "\\:?*[~^" for c in repo.revision)):
        raise _no_model(text, f"no revision: {repo.revision[:80]!r}")
    if ".." in repo.path.split("/") or "\\" in repo.path or any(c < " " for c in repo.path):
        raise _no_model(text, "no path of a file")
    if repo.quant and not _QUANT.fullmatch(repo.quant):
        raise _no_model(text, f"no quantization: {repo.quant[:80]!r}")
    return repo


def _no_model(text: str, what: str) -> InputError:
    return InputError(
        f"{text[:200]}: {what}",
        key="model",
        value=text[:200],
        hint="write org/name, org/name@revision or org/name:Q4_K_M",
    )
