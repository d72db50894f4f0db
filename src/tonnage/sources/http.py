"""Files of weights at an address: headers by ranges, never a body.

A server that ignores ``Range`` sends the whole file: reading stops after the bytes that were asked for.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Final
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
    429: ("the server limits the rate of requests", "try again later"),
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
    """

    def __init__(self, address: str) -> None:
        self.path = checked(address)
        self.name = unquote(urlsplit(address).path.rpartition("/")[2]) or address
        self.fetched = 0
        self.size = 0
        self._ranges = True
        self._redirects = _Redirects()
        self._opener = urllib.request.build_opener(self._redirects)
        self._start = self._fetch(0, CHUNK)

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

    def _fetch(self, at: int, length: int) -> bytes:
        if length <= 0:
            return b""
        if self.fetched + length > MOST:
            raise self._failed(f"its header takes more than {MOST:,} bytes")
        if at and not self._ranges:
            raise self._failed("the server ignores ranges, and all of the file would have to be read")
        # A plain header goes along with a redirect: the last server must see the range. No other is sent: no login.
        headers = {"User-Agent": "tonnage", "Accept-Encoding": "identity", "Range": f"bytes={at}-{at + length - 1}"}
        request = urllib.request.Request(self.path, headers=headers)
        self._redirects.followed = 0
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                return self._answered(answer, at, length)
        except urllib.error.HTTPError as e:
            e.close()
            if e.code == 416 and at == 0:
                return b""
            told, hint = _TOLD.get(e.code, (f"the server answers {e.code}", None))
            raise self._failed(told, hint) from None
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
