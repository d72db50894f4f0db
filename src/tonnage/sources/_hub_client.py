"""huggingface_hub as it is set up on this machine: its cache, its login, its endpoint, its offline switch.

Releases 0.30 to 2 are understood, with requests, httpx and httpx2 below them. Requests that its own functions make are
made once, without their retries of half a minute; what goes wrong is told in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import urljoin, urlsplit

from tonnage.errors import InputError, SourceError, nearest
from tonnage.sources.http import MOST_REDIRECTS, Headers, checked, later
from tonnage.sources.hub import ENDPOINT, Repo

T = TypeVar("T")

INSTALL: Final = "pip install 'tonnage[hub]'"
_OLDEST: Final = (0, 30)
_REDIRECTS: Final = frozenset([301, 302, 303, 307, 308])


class AbsentError(Exception):
    """The repository is there, and has no such file."""


class Client:
    """One repository, asked through huggingface_hub.

    Args:
        repo: which, at which revision.

    Raises:
        SourceError: huggingface_hub is not installed, or too old.
    """

    def __init__(self, repo: Repo) -> None:
        self.repo = repo
        self._lib = lib = _library(repo)
        from huggingface_hub import constants, utils

        self._constants, self._utils = constants, utils
        self.endpoint: str = constants.ENDPOINT
        self._hub = "the Hub" if self.endpoint == ENDPOINT else f"the Hub at {self.endpoint}"
        self.down: SourceError | None = None
        """Why the Hub cannot be asked, once that is known: the cache is all there is then."""
        if not self.endpoint.startswith(("https://", "http://")):
            raise InputError(
                "HF_ENDPOINT is no address", key="HF_ENDPOINT", value=self.endpoint[:200], hint="write https://..."
            )
        self._about = {"library_name": "tonnage", "library_version": _version()}
        self.headers: dict[str, str] = utils.build_hf_headers(**self._about)
        self._failures = (*utils.HfHubHTTPError.__bases__, OSError, ValueError)
        self._api = lib.HfApi
        if constants.HF_HUB_OFFLINE:
            self.down = self._offline()

    @property
    def login(self) -> bool:
        """Whether a token is sent."""
        return "authorization" in self.headers

    def files(self) -> tuple[str, list[str]] | None:
        """The commit that the revision means, and all of its files; None where the Hub cannot be asked."""

        def call() -> tuple[str, list[str]]:
            info = self._api(endpoint=self.endpoint, **self._about).model_info(
                self.repo.id,
                revision=self.repo.revision,
                timeout=self._constants.HF_HUB_DOWNLOAD_TIMEOUT,
                expand=["sha", "siblings"],
            )
            return info.sha, [s.rfilename for s in info.siblings or ()]

        return self._ask(call)

    def stated(self, name: str) -> tuple[str, int | None] | None:
        """The commit that a file is of, and its size [byte]; None where the Hub cannot be asked.

        Raises:
            AbsentError: the repository has no such file.
        """
        if self.down is not None:
            return None
        try:
            with closing(self.asked("HEAD", self.address(name), {"Accept-Encoding": "identity"})) as answer:
                status, headers = answer.status, answer.headers
        except OSError as e:
            self.down = self.unreachable(e)
            return None
        if status >= 400:
            self._refuse(status, headers, name)
            return None
        commit = headers.get("X-Repo-Commit")
        if not commit:
            self.down = self.unreachable(OSError("it does not answer as the Hub does; check HF_ENDPOINT and proxies"))
            return None
        # What is redirected is kept elsewhere: the length is that of the redirect.
        size = headers.get("X-Linked-Size") or ("" if status >= 300 else headers.get("Content-Length")) or ""
        return commit, int(size) if size.isdecimal() and len(size) < 19 else None

    def download(self, name: str) -> str | None:
        """Where the cache has a small file after it was fetched; None where the Hub cannot be asked."""
        path: str | None = self._ask(
            lambda: self._lib.hf_hub_download(
                self.repo.id, name, revision=self.repo.revision, endpoint=self.endpoint, **self._about
            ),
            name,
        )
        return path

    def cached(self, name: str, commit: str | None) -> str | None:
        """Where the cache has a file, of a commit or of what the revision meant when it was last asked.

        Raises:
            AbsentError: the cache knows that there is none.
        """
        found = self._lib.try_to_load_from_cache(self.repo.id, name, revision=commit or self.repo.revision)
        if found is not None and not isinstance(found, str):
            raise AbsentError(name)
        return found

    def snapshot(self) -> str | None:
        """The folder of what the cache has of the revision."""
        try:
            path: str = self._lib.snapshot_download(self.repo.id, revision=self.repo.revision, local_files_only=True)
        except self._failures as e:
            return getattr(e, "snapshot_path", None)
        return path

    def address(self, name: str, commit: str | None = None) -> str:
        """Where a file is asked for."""
        url: str = self._lib.hf_hub_url(
            self.repo.id, name, revision=commit or self.repo.revision, endpoint=self.endpoint
        )
        return url

    def asked(self, method: str, url: str, headers: Mapping[str, str]) -> Streamed:
        """The answer of the Hub, or of the storage that it sends to, which never sees the login.

        What ``HEAD`` asks for stands in the redirect itself, so that one is followed only within the Hub.

        Raises:
            OSError: there is none.
            InputError: the storage is no address that is asked.
        """
        sent, away = {**headers, **self.headers}, False
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._stream(method, url, sent)
            answer.away = away
            target = urljoin(url, answer.headers.get("Location") or "")
            if answer.status not in _REDIRECTS or target == url:
                return answer
            if _origin(target) != _origin(url):
                if method == "HEAD":
                    return answer
                checked(target)
                sent, away = {k: v for k, v in sent.items() if k.lower() != "authorization"}, True
            # Read to its end, so that the connection serves the next file as well.
            answer.read(2**16)
            answer.close()
            url = target
        raise OSError(f"more than {MOST_REDIRECTS} redirects")

    def _stream(self, method: str, url: str, headers: Mapping[str, str]) -> Streamed:
        session, timeout = self._utils.get_session(), self._constants.HF_HUB_DOWNLOAD_TIMEOUT
        for last in (False, True):
            try:
                if not hasattr(session, "build_request"):
                    answer = session.request(
                        method, url, headers=dict(headers), timeout=timeout, stream=True, allow_redirects=False
                    )
                    return Streamed(answer, answer.iter_content(2**16), self._failures)
                request = session.build_request(method, url, headers=dict(headers), timeout=timeout)
                answer = session.send(request, stream=True, follow_redirects=False)
                return Streamed(answer, answer.iter_raw(), self._failures)
            except self._failures as e:
                # A connection that was kept may have been closed by the other side meanwhile.
                if last:
                    raise OSError(_reason(e)) from None
        raise AssertionError("two attempts")

    def _ask(self, call: Callable[[], T], name: str = "") -> T | None:
        if self.down is not None:
            return None
        try:
            with self._quietly():
                return call()
        except self._failures as e:
            if isinstance(e, self._utils.HFValidationError):
                raise InputError(f"{self.repo.id}: no id of the Hub", key="model", value=self.repo.id) from None
            response = getattr(e, "response", None) or getattr(e.__cause__, "response", None)
            if response is None:
                self.down = self.unreachable(e)
            else:
                self._refuse(response.status_code, response.headers, name)
        return None

    def _refuse(self, status: int, headers: Headers, name: str) -> None:
        """Tell what cannot be mended by the cache, and keep in mind what might."""
        code = headers.get("X-Error-Code")
        if code == "EntryNotFound":
            raise AbsentError(name)
        self.down = self.refused(status, headers)
        if code == "RevisionNotFound":
            raise self.down

    def _offline(self) -> SourceError:
        return self._error(
            f"HF_HUB_OFFLINE is set, and the cache of the Hub lacks what is needed of {self.repo.id}: "
            f"{self._constants.HF_HUB_CACHE}",
            "unset it, or give a config.json",
            near=True,
        )

    def unreachable(self, e: BaseException) -> SourceError:
        """The error for a Hub that does not answer."""
        return self._error(
            f"cannot ask {self.endpoint} for {self.repo.id}: {_reason(e)}",
            "check the network, HF_ENDPOINT and proxies, or give its config.json",
            near=True,
        )

    def refused(self, status: int, headers: Headers) -> SourceError:
        """The error for an answer of the Hub that is none."""
        id, revision = self.repo.id, self.repo.revision
        code, told = headers.get("X-Error-Code") or "", headers.get("X-Error-Message") or ""
        page = f"{self.endpoint}/{id}"
        if code == "GatedRepo":
            if self.login:
                return self._error(f"{id} is gated, and this login has no access to it", f"ask for access at {page}")
            return self._error(
                f"{id} is gated: its files need a login",
                f"accept its conditions at {page}, then hf auth login, or set HF_TOKEN",
            )
        if code == "RevisionNotFound":
            return self._error(f"{id} has no revision {revision!r}", f"branches, tags and commits: {page}/tree/main")
        if "access to this resource is disabled" in told.lower():
            return self._error(f"{id} has been disabled on the Hub", None)
        if status == 401 and "invalid" in told.lower() and self.login and code != "RepoNotFound":
            return self._error(
                f"{self._hub} does not accept the token", "hf auth login, or set HF_TOKEN to a valid one"
            )
        if status in (401, 404):
            return self._missing()
        if status == 429:
            more = "" if self.login else "; a login (hf auth login, HF_TOKEN) raises the limit"
            return self._error(f"{self._hub} limits the rate of requests", later(headers) + more)
        if status == 403:
            return self._error(f"{self._hub} refuses access to {id}" + (f": {told[:200]}" if told else ""), None)
        hint = "try again later" if status >= 500 else None
        return self._error(f"{self._hub} answers {status} for {id}" + (f": {told[:200]}" if told else ""), hint)

    def _missing(self) -> SourceError:
        id = self.repo.id
        if self.login:
            return self._error(
                f"{id} is nothing on this machine, and {self._hub} has no such model that this login can see",
                "check the name",
                near=True,
            )
        return self._error(
            f"{id} is nothing on this machine, and {self._hub} has no such model, or a private one",
            "check the name; what is private needs hf auth login or HF_TOKEN",
            near=True,
        )  # fmt: skip

    def _error(self, message: str, hint: str | None, *, near: bool = False) -> SourceError:
        return SourceError(
            message, key="model", value=str(self.repo), hint=hint, nearest=_close(self.repo) if near else ()
        )

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Without the library's own warnings and bars: what matters of them is in the answer or the error."""
        logging, utils = self._utils.logging, self._utils
        before = logging.get_verbosity()
        # Where the environment decides on bars, setting them here would only warn.
        bars = self._constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not utils.are_progress_bars_disabled()
        logging.set_verbosity_error()
        if bars:
            utils.disable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(before)
            if bars:
                utils.enable_progress_bars()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


class Streamed:
    """An answer whose body is read as far as it is asked for.

    Args:
        answer: of requests or httpx.
        chunks: of its body.
        failures: what reading may raise.
    """

    def __init__(self, answer: Any, chunks: Iterator[bytes], failures: tuple[type[BaseException], ...]) -> None:
        self.status: int = answer.status_code
        self.headers: Headers = answer.headers
        self.away = False
        """Whether it comes from elsewhere than the Hub."""
        self._answer, self._chunks, self._failures = answer, chunks, failures

    def read(self, length: int) -> bytes:
        """The first bytes of the body; a connection is kept only where the body ends there."""
        pieces, have = [], 0
        try:
            for piece in self._chunks:
                pieces.append(piece)
                have += len(piece)
                if have > length or (have == length and self.status == 200):
                    break
        except self._failures as e:
            raise OSError(_reason(e)) from None
        return b"".join(pieces)[:length]

    def close(self) -> None:
        """Done with it."""
        self._answer.close()


def _library(repo: Repo) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise SourceError(
            f"{repo} is nothing on this machine, and asking the Hub needs huggingface_hub",
            key="model", value=str(repo), nearest=_close(repo), hint=f"{INSTALL}, or give its config.json",
        ) from None  # fmt: skip
    stated = [int(n) for n in huggingface_hub.__version__.split(".")[:2] if n.isdecimal()]
    if tuple(stated) < _OLDEST:
        raise SourceError(
            f"huggingface_hub {huggingface_hub.__version__} is too old", key="model", value=str(repo), hint=INSTALL
        )
    return huggingface_hub


def _version() -> str:
    """Of this package, for the servers' records."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tonnage")
    except PackageNotFoundError:
        return "source"


def _close(repo: Repo) -> tuple[str, ...]:
    from tonnage.rows import Rows

    return nearest(repo.id.lower().rpartition("/")[2], Rows("catalogue").names())


def _reason(e: BaseException) -> str:
    """What a person can use of an error: its innermost words, of whatever library."""
    for _ in range(8):
        inner = getattr(e, "reason", None) or e.__cause__ or next(iter(e.args), None)
        if not isinstance(inner, BaseException) or not str(inner).strip():
            break
        e = inner
    text = " ".join(str(e).split())
    return text[max(text.find("[Errno"), 0) :][:200] or type(e).__name__
