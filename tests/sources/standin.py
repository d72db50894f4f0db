"""A stand-in for the Hub on the loopback: what huggingface_hub asks of it, answered as its documentation says.

Small files are served by the Hub itself, weights by a storage at another host, to which it redirects.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SMALL = (".json", ".md", ".txt")
TOKEN = "hf_" + "a" * 34


class Sparse:
    """A file that begins with ``head`` and goes on with zeros up to ``size``."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head, self.size = head, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, span: slice) -> bytes:
        piece = self.head[span]
        return piece + bytes(min(span.stop, self.size) - span.start - len(piece))


class Repository:
    """A model of the stand-in.

    Args:
        files: content by name.
        kind: "public", "gated", "private", "disabled", "limited" or "broken".
        revisions: names of its commits, oldest first.
    """

    def __init__(
        self, files: Mapping[str, bytes | Sparse], kind: str = "public", revisions: tuple[str, ...] = ("main",)
    ) -> None:
        self.files = dict(files)
        self.kind = kind
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}

    def commit(self, revision: str) -> str | None:
        return self.commits.get(revision, revision if revision in self.commits.values() else None)


class Hub:
    """Repositories, and what was asked.

    Args:
        delay: before every answer. [s]
        setup: before the first answer of every connection, as TCP and TLS take. [s]
    """

    def __init__(self, delay: float = 0.0, setup: float = 0.0) -> None:
        self.repositories: dict[str, Repository] = {}
        self.moved: dict[str, str] = {}
        self.delay, self.setup = delay, setup
        self.retry_after = "37"
        self.granted = True
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        """Host, method, path and headers of every request."""
        self.connections = 0
        self.endpoint = self.storage = ""
        self.lock = threading.Lock()

    def paths(self, method: str | None = None) -> list[str]:
        return [path for _, how, path, _ in self.asked if method in (None, how)]

    def forget(self) -> None:
        self.asked.clear()
        self.connections = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer in one piece: two would wait for each other's acknowledgement.
    wbufsize = 2**16
    hub: Hub
    away: bool

    def setup(self) -> None:
        super().setup()
        with self.hub.lock:
            self.hub.connections += 1
        time.sleep(self.hub.setup)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with self.hub.lock:
            asked = {k.lower(): v for k, v in self.headers.items()}
            self.hub.asked.append((self.headers["Host"], self.command, self.path, asked))
        time.sleep(self.hub.delay)
        path = unquote(urlsplit(self.path).path).strip("/")
        moved = next((id for id in self.hub.moved if id in path), None)
        if moved is not None:
            self.answer(307, b"", {"Location": self.path.replace(moved, self.hub.moved[moved])})
            return
        if self.away:
            id, name = parse_qs(urlsplit(self.path).query)["file"][0].split("|")
            self.ranged(self.hub.repositories[id].files[name], {})
            return
        api = re.fullmatch(r"api/models/(.+?)(?:/revision/(.+))?", path)
        if api is not None:
            self.info(api[1], api[2] or "main")
            return
        found = re.fullmatch(r"(.+?)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path)
        if found is None:
            self.answer(404, b"", {})
            return
        self.resolve(found[1], found[2], found[3])

    def allowed(self, id: str, revision: str, files: bool) -> Repository | None:
        """The repository, where it may be seen; else the answer is given."""
        token = self.headers.get("Authorization")
        repository = self.hub.repositories.get(id)
        if token not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.kind == "private" and token is None):
            # Who is not logged in does not learn what there is.
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repository.kind == "gated" and files and (token is None or not self.hub.granted):
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {id} is restricted.")
        elif repository.kind == "disabled":
            self.refuse(403, "", "Access to this resource is disabled.")
        elif repository.kind == "limited":
            self.refuse(429, "", "We had to rate limit you", {"Retry-After": self.hub.retry_after})
        elif repository.kind == "broken":
            self.refuse(503, "", "")
        elif repository.commit(revision) is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repository
        return None

    def info(self, id: str, revision: str) -> None:
        repository = self.allowed(id, revision, files=False)
        if repository is None:
            return
        siblings = [{"rfilename": name} for name in repository.files]
        found = {"id": id, "_id": "0", "sha": repository.commit(revision), "siblings": siblings}
        self.answer(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def resolve(self, id: str, revision: str, name: str) -> None:
        repository = self.allowed(id, revision, files=True)
        if repository is None:
            return
        commit = {"X-Repo-Commit": repository.commit(revision) or ""}
        data = repository.files.get(name)
        if data is None:
            self.refuse(404, "EntryNotFound", "Entry not found", commit)
            return
        etag = f'"{hashlib.sha1(f"{id} {revision} {name}".encode()).hexdigest()}"'
        if name.endswith(SMALL):
            self.ranged(data, {**commit, "ETag": etag})
            return
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": etag, "ETag": etag}
        self.answer(302, b"", {**commit, **linked, "Location": f"{self.hub.storage}/blob?file={id}|{name}"})

    def ranged(self, data: bytes | Sparse, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self.answer(200, data, headers)
            return
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        self.answer(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer(status, b"", {**{k: v for k, v in told.items() if v}, **(headers or {})})

    def answer(self, status: int, data: bytes | Sparse, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            try:
                self.wfile.write(data[0 : len(data)])
            except OSError:
                self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """The stand-in, answering: the Hub at 127.0.0.1, its storage at localhost, which is another host."""
    servers = []
    for away in (False, True):
        handler = type("H", (Handler,), {"hub": hub, "away": away})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
    hub.storage = f"http://localhost:{servers[1].server_port}"
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
