"""Files of weights at an address: headers by ranges, never a body.

A server that ignores ``Range`` sends the whole file: reading stops after the bytes that were asked for.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from tonnage.errors import InputError, SourceError, TonnageError
from tonnage.sources._files import wrong

CHUNK: Final = 256 * 1024
"""What one request asks for at least: most headers of one shard are smaller. [byte]"""
MOST: Final = 200 * 2**20
"""Of one file, all requests together. [byte]"""
MOST_REDIRECTS: Final = 5
TIMEOUT: Final = 30
"""Between two packets. [s]"""
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

_TOLD: Final = {
    401: ("it needs a login", "fetch its config.json and header with the tool that you are logged in with"),
    403: ("access is refused", "the file may be gated: fetch it with the tool that you are logged in with"),
    404: ("there is no such file", None),
    410: ("the file is gone", None),
    429: ("the server limits the rate of requests", None),
}


def is_address(text: str) -> bool:
    """Whether a text is an address.

    >>> is_address("https://host/model.gguf"), is_address("model.gguf")
    (True, False)
    """
    return text.lower().startswith(("https://", "http://"))


def checked(address: str) -> str:
    """An address that is asked: https, or plain http on this machine.

    Raises:
        InputError: any other.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host, parts = None, urlsplit("")
    if not host or any(c <= " " or c > "~" for c in address):
        raise InputError("not an address", key="model", value=address[:200])
    scheme = parts.scheme.lower()
    if scheme != "https" and not (scheme == "http" and host in LOOPBACK):
        raise InputError("only https addresses are read", key="model", value=address[:200], hint="write https://")
    if parts.username or parts.password:
        raise InputError(
            "an address with a password in it is not read", key="model", value=f"{parts.scheme}://...@{host}"
        )
    return address


class Headers(Protocol):
    """Of an answer; names in any case."""

    def get(self, name: str, default: str | None = None, /) -> str | None:
        """The value of one."""
        ...


_RESET: Final = re.compile(r'"[^"]*"\s*;\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})')
"""What is left of a rate, and seconds until there is more. IETF draft-ietf-httpapi-ratelimit-headers-09"""


def later(headers: Headers) -> str:
    """When to ask again, as far as a server that limits the rate of requests says it.

    >>> later({"Retry-After": "37"}), later({"ratelimit": '"api";r=0;t=55'}), later({})
    ('try again in 37 seconds', 'try again in 55 seconds', 'try again later')
    """
    stated = (headers.get("Retry-After") or "").strip()
    if not stated.isdecimal() and stated:
        # Imported late: few servers write a date.
        from email.utils import parsedate_to_datetime
        from time import time

        try:
            stated = str(max(1, round(parsedate_to_datetime(stated).timestamp() - time())))
        except (ValueError, OverflowError):
            stated = ""
    found = _RESET.search(headers.get("ratelimit") or "")
    stated = stated or (found[1] if found else "")
    return f"try again in {int(stated):,} seconds" if stated and len(stated) < 7 else "try again later"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to addresses that would be asked themselves, a few times."""

    def __init__(self) -> None:
        self.followed = 0

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The next request, with the same range."""
        self.followed += 1
        try:
            if self.followed > MOST_REDIRECTS:
                raise InputError(f"more than {MOST_REDIRECTS} redirects", key="model", value=newurl[:200])
            checked(newurl)
        except InputError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class Remote:
    """A file at an address; what was read is kept, and never read again.

    Args:
        address: of the file.
        first: what the first request asks for. [byte]
    """

    def __init__(self, address: str, *, first: int = CHUNK) -> None:
        self._redirects = _Redirects()
        self._opener = urllib.request.build_opener(self._redirects)
        self._begin(checked(address), unquote(urlsplit(address).path.rpartition("/")[2]) or address, first)

    def _begin(self, path: str, name: str, first: int) -> None:
        self.path = path
        self.name = name
        self.fetched = 0
        self.size = 0
        self._ranges = True
        self._start = self._fetch(0, first)

    def read(self, at: int, length: int) -> bytes:
        """``length`` bytes from offset ``at``."""
        end = at + length
        if end <= len(self._start):
            return self._start[at:end]
        if at <= len(self._start):
            # What follows the beginning is asked for in growing pieces, appended.
            step = max(end - len(self._start), min(len(self._start), 8 * 2**20))
            self._start += self._fetch(len(self._start), min(step, self.size - len(self._start)))
            data = self._start[at:end]
        else:
            data = self._fetch(at, length)
        if len(data) != length:
            raise self.wrong(f"truncated: {length:,} bytes expected, {len(data):,} found", at)
        return data

    def wrong(self, what: str, at: int | None = None) -> InputError:
        """The error for what the file holds."""
        return wrong(self.path, what, at)

    def _failed(self, what: str, hint: str | None = None) -> SourceError:
        return SourceError(f"cannot read {self.path}: {what}", key="model", value=self.path, file=self.path, hint=hint)

    def _refused(self, status: int, headers: Headers) -> SourceError:
        """The error for an answer that is none."""
        told, hint = _TOLD.get(status, (f"the server answers {status}", None))
        return self._failed(told, later(headers) if status == 429 else hint)

    def _open(self, headers: Mapping[str, str]) -> Any:
        """The server's answer, whatever its status: ``status``, ``headers`` and ``read``."""
        request = urllib.request.Request(self.path, headers=dict(headers))
        self._redirects.followed = 0
        try:
            return self._opener.open(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as e:
            return e

    def _fetch(self, at: int, length: int) -> bytes:
        if length <= 0:
            return b""
        if self.fetched + length > MOST:
            raise self._failed(f"its header takes more than {MOST:,} bytes")
        if at and not self._ranges:
            raise self._failed("the server ignores ranges, and all of the file would have to be read")
        # A plain header goes along with a redirect: the last server must see the range. A login is none of these.
        headers = {"User-Agent": "tonnage", "Accept-Encoding": "identity", "Range": f"bytes={at}-{at + length - 1}"}
        try:
            with closing(self._open(headers)) as answer:
                if answer.status == 416 and at == 0:
                    return b""
                if answer.status >= 300:
                    raise self._refused(answer.status, answer.headers)
                return self._answered(answer, at, length)
        except TonnageError:
            raise
        except (OSError, HTTPException, ValueError) as e:
            reason = getattr(e, "reason", None) or e
            raise self._failed(str(reason)[:200] or type(e).__name__) from None

    def _answered(self, answer: Any, at: int, length: int) -> bytes:
        size = self._size(answer, at)
        if at and size != self.size:
            raise self._failed("the file has changed between two requests")
        self.size = size
        data: bytes = answer.read(min(length, size - at))
        self.fetched += len(data)
        return data

    def _size(self, answer: Any, at: int) -> int:
        """Of the whole file, from the headers of an answer. [byte]"""
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise self._failed("the server sends the file in an encoding that was not asked for")
        if answer.status == 206:
            given = (answer.headers.get("Content-Range") or "").removeprefix("bytes ")
            span, _, total = given.partition("/")
            if span.partition("-")[0] != str(at) or not total.isdecimal() or len(total) > 18:
                raise self._failed(f"the server sends another range: {given[:60]!r}")
            return int(total)
        total = answer.headers.get("Content-Length") or ""
        if answer.status != 200 or not total.isdecimal() or len(total) > 18:
            raise self._failed(f"the server answers {answer.status} without a size")
        if at:
            raise self._failed("the server ignores ranges, and all of the file would have to be read")
        self._ranges = False
        return int(total)
