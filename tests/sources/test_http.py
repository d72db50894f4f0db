"""Headers at an address: only what is needed is asked for, from a server on the loopback."""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from made import gguf

from tonnage import api
from tonnage.cli import main
from tonnage.errors import InputError, SourceError, TonnageError
from tonnage.sources import headers
from tonnage.sources.http import Remote, checked

BIG = 2**24


class Server(BaseHTTPRequestHandler):
    """Serves bytes by ranges, and counts what it sends."""

    files: ClassVar[dict[str, bytes]] = {}
    sent: ClassVar[list[int]] = []
    asked: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append({k.lower(): v for k, v in self.headers.items()})
        kind, _, rest = path.strip("/").partition("/")
        if kind.isdigit():
            self.answer(int(kind), b"no", {})
            return
        if kind == "to":
            self.answer(302, b"", {"Location": f"/{rest}"})
            return
        if kind == "away":
            self.answer(302, b"", {"Location": f"http://example.com/{rest}"})
            return
        if kind == "file":
            self.answer(302, b"", {"Location": "file://localhost/etc/passwd"})
            return
        data = self.files[rest]
        if kind == "zip":
            self.answer(200, data, {"Content-Encoding": "gzip"})
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if kind == "plain" or asked is None:
            self.answer(200, data, {})
            return
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if start >= len(data):
            self.answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        begin = start + 1 if kind == "shifted" else start
        total = len(data) + (len(self.asked) if kind == "growing" else 0)
        piece = data[start:end] if kind != "short" else data[start : end - 5]
        self.answer(206, piece, {"Content-Range": f"bytes {begin}-{end - 1}/{total}"})

    def answer(self, code: int, data: bytes, more: dict[str, str]) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **more}.items():
            self.send_header(key, value)
        self.end_headers()
        self.sent.append(0)
        try:
            for at in range(0, len(data), 2**16):
                self.wfile.write(data[at : at + 2**16])
                self.sent[-1] = at
        except OSError:
            pass  # The reader has what it wants.

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    Server.files = files()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as s:
        s.daemon_threads = True
        thread = threading.Thread(target=s.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{s.server_port}"
        s.shutdown()


def safetensors(names: list[str], size: int) -> bytes:
    table = {
        n: {"dtype": "U8", "shape": [size], "data_offsets": [i * size, i * size + size]} for i, n in enumerate(names)
    }
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size * len(names))


def files() -> dict[str, bytes]:
    metadata = {"general.architecture": "llama", "llama.embedding_length": 8, "llama.block_count": 1,
                "llama.attention.head_count": 2, "llama.feed_forward_length": 16, "llama.context_length": 64,
                "tokenizer.ggml.tokens": [f"token {i}" for i in range(60_000)]}  # fmt: skip
    content, size = gguf(metadata, {"token_embd.weight": ((32, 8), "fp16"), "pad": ((BIG,), "int8")})
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"metadata": {"total_size": 2 * 64}, "weight_map": {"a": parts[0], "b": parts[1]}}
    config = {"model_type": "plain", "hidden": 8, "layers": 1, "heads": 2, "vocab": 9}
    return {
        "big.safetensors": safetensors(["model.norm.weight"], BIG),
        "long.safetensors": safetensors([f"model.layers.{i}.mlp.up_proj.weight" for i in range(6000)], 1000),
        "m.gguf": content + bytes(size - len(content)),
        "r/model.safetensors.index.json": json.dumps(index).encode(),
        f"r/{parts[0]}": safetensors(["a"], 64),
        f"r/{parts[1]}": safetensors(["b"], 64),
        "r/config.json": json.dumps(config).encode(),
        "empty.safetensors": b"",
    }


@pytest.fixture(autouse=True)
def fresh() -> None:
    Server.sent.clear()
    Server.asked.clear()


def test_only_the_header_is_fetched(server: str) -> None:
    found = headers.read(f"{server}/x/big.safetensors?download=true")
    assert (found.name, found.weight_bytes) == ("big.safetensors", BIG)
    assert len(Server.asked) == 1
    assert "authorization" not in Server.asked[0]
    assert max(Server.sent) <= 2**18


def test_a_long_header_is_fetched_in_appended_pieces(server: str) -> None:
    assert len(headers.read(f"{server}/x/long.safetensors").tensors) == 6000
    ranges = [asked["range"] for asked in Server.asked]
    starts = [int(r.partition("=")[2].partition("-")[0]) for r in ranges]
    assert starts == sorted(set(starts))
    assert 1 < len(starts) < 5


def test_a_redirect_keeps_the_range(server: str) -> None:
    assert headers.read(f"{server}/to/x/big.safetensors").weight_bytes == BIG
    assert Server.asked[-1]["range"].startswith("bytes=0-")


def test_a_server_without_ranges_is_read_no_further_than_needed(server: str) -> None:
    assert headers.read(f"{server}/plain/big.safetensors").weight_bytes == BIG
    with pytest.raises(SourceError, match="ignores ranges"):
        headers.read(f"{server}/plain/long.safetensors")


def test_an_index_and_its_parts(server: str) -> None:
    for name in ("model.safetensors.index.json", "model-00002-of-00002.safetensors"):
        found = headers.read(f"{server}/x/r/{name}")
        assert (found.files, found.weight_bytes) == (2, 128)
    assert headers.read(f"{server}/x/r/model.safetensors.index.json").name == "r"


def test_models_at_an_address(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert api.load(f"{server}/x/r/config.json").vocabulary == 9
    assert api.load(f"{server}/x/r/model.safetensors.index.json").vocabulary == 9
    assert api.load(f"{server}/x/m.gguf").vocabulary == 32
    assert main(["params", f"{server}/x/m.gguf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"]["tensors"] == 2
    assert main(["serve", f"{server}/404/m.gguf"]) == 4


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("401/x.gguf", "login"),
        ("403/x.gguf", "refused"),
        ("404/x.gguf", "no such file"),
        ("429/x.gguf", "rate"),
        ("500/x.gguf", "500"),
        ("zip/big.safetensors", "encoding"),
        ("shifted/big.safetensors", "another range"),
        ("growing/long.safetensors", "changed"),
        ("short/long.safetensors", ""),
        ("away/x.gguf", "https"),
        ("file/x.gguf", "302"),
        ("to/" * 9 + "x/big.safetensors", "redirects"),
        ("x/empty.safetensors", "too short"),
    ],
)
def test_what_goes_wrong_is_told(server: str, path: str, told: str) -> None:
    with pytest.raises((SourceError, InputError)) as e:
        headers.read(f"{server}/{path}")
    assert told in str(e.value)


@pytest.mark.parametrize(
    "address", ["http://example.com/a.gguf", "https://", "https://a b/c.gguf", "file:///a.gguf", "ftp://a/b.gguf",
                "https://user:secret@host/a.gguf", "https://[/a.gguf", "http://localhost.example.com/a.gguf", "https://h/a\n.gguf"],
)  # fmt: skip
def test_addresses_that_are_not_asked(address: str) -> None:
    with pytest.raises(InputError) as e:
        checked(address)
    assert "secret" not in str(e.value)


def test_no_server() -> None:
    with pytest.raises(TonnageError):
        Remote("http://127.0.0.1:9/a.gguf")
