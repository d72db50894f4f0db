"""The Hub through huggingface_hub itself, which asks a stand-in on the loopback."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made import gguf
from standin import TOKEN, Hub, Repository, Sparse, running

import tonnage
from tonnage import api
from tonnage.cli import main
from tonnage.errors import InputError, SourceError, TonnageError, UnsupportedError
from tonnage.sources import _hub, places
from tonnage.sources import hub as grammar
from tonnage.sources._parallel import WORKERS, each

huggingface_hub = pytest.importorskip("huggingface_hub")
constants = pytest.importorskip("huggingface_hub.constants")

CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 128, "vocab_size": 100, "num_hidden_layers": 2,
}  # fmt: skip
METADATA = {
    "general.architecture": "llama", "llama.embedding_length": 64, "llama.block_count": 1,
    "llama.attention.head_count": 4, "llama.feed_forward_length": 128, "llama.context_length": 64,
    "tokenizer.ggml.tokens": [f"token {i}" for i in range(60_000)],
}  # fmt: skip
PARTS = 20


def safetensors(tensors: dict[str, tuple[int, ...]]) -> Sparse:
    """A file in bf16 of which only the header is held."""
    table, at = {}, 0
    for name, shape in tensors.items():
        size = 2
        for n in shape:
            size *= n
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode()
    return Sparse(struct.pack("<Q", len(text)) + text, 8 + len(text) + at)


def sharded(tensors: dict[str, tuple[int, ...]], parts: int) -> dict[str, bytes | Sparse]:
    names = [f"model-{i + 1:05d}-of-{parts:05d}.safetensors" for i in range(parts)]
    held = {part: {n: s for j, (n, s) in enumerate(tensors.items()) if j % parts == i} for i, part in enumerate(names)}
    index = {"metadata": {}, "weight_map": {n: part for part, some in held.items() for n in some}}
    files: dict[str, bytes | Sparse] = {part: safetensors(some) for part, some in held.items()}
    return {**files, "model.safetensors.index.json": json.dumps(index).encode()}


def repositories() -> dict[str, Repository]:
    config = json.dumps(CONFIG).encode()
    tensors = {t.name: t.shape for t in api.load({"config": CONFIG}).tensors() if t.role != "buffer"}
    content, size = gguf(METADATA, {"token_embd.weight": ((32, 64), "fp16")})
    first, rest = Sparse(content, size), gguf({"split.no": 1}, {"blk.0.ffn_up.weight": ((128, 64), "fp16")})
    two = {"BF16/m-BF16-00001-of-00002.gguf": first, "BF16/m-BF16-00002-of-00002.gguf": Sparse(*rest)}
    base = json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}).encode()
    return {
        "org/plain": Repository(
            {"config.json": config, "model.safetensors": safetensors(tensors), "README.md": b"#"},
            revisions=("main", "v1", "refs/pr/3"),
        ),
        "org/sharded": Repository({"config.json": config, **sharded(tensors, PARTS)}),
        "org/gated": Repository({"config.json": config, "model.safetensors": safetensors(tensors)}, "gated"),
        "org/private": Repository({"config.json": config}, "private"),
        "org/disabled": Repository({"config.json": config}, "disabled"),
        "org/limited": Repository({"config.json": config}, "limited"),
        "org/broken": Repository({"config.json": config}, "broken"),
        "org/adapter": Repository({"adapter_config.json": base, "adapter_model.safetensors": safetensors({"a": (4,)})}),
        "org/odd": Repository({"config.json": b'{"model_type": "zebra"}', "model.safetensors": safetensors({"z": (3,)})}
        ),
        "org/empty": Repository({"README.md": b"#"}),
        "org/large": Repository({"config.json": Sparse(b"{", 2**30)}),  # type: ignore[dict-item]
        "org/one-GGUF": Repository({"m-Q8_0.gguf": first}),
        "org/many-GGUF": Repository(
            {"m-Q4_K_M.gguf": first, "m-q8_0.gguf": first, "mmproj-F16.gguf": first, **two}
        ),
        "org/pipeline": Repository({"model_index.json": b"{}", "unet/config.json": config,
                                    "unet/diffusion_pytorch_model.safetensors": safetensors(tensors)}),
        "org/pickled": Repository({"config.json": config, "pytorch_model.bin": Sparse(b"PK", 10**12)}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def running_hub() -> Iterator[Hub]:
    with running(Hub()) as hub:
        hub.repositories = repositories()
        hub.moved = {"old/name": "org/plain"}
        yield hub


@pytest.fixture
def hub(running_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in, which huggingface_hub of this process takes for the Hub; an empty cache, no login."""
    running_hub.forget()
    running_hub.granted, running_hub.delay = True, 0.0
    there = {
        "ENDPOINT": running_hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": running_hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in there.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    forget(monkeypatch)
    return running_hub


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process begins."""
    monkeypatch.setattr(_hub, "_recent", {})


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget(monkeypatch)


# What a text names


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("org/name", ("org/name", None, "", "")),
        ("org/name@v1.0", ("org/name", "v1.0", "", "")),
        ("org/name@feature/x", ("org/name", "feature/x", "", "")),
        ("org/name@refs/pr/3/m.gguf", ("org/name", "refs/pr/3", "m.gguf", "")),
        ("org/name@main/sub/m.gguf", ("org/name", "main", "sub/m.gguf", "")),
        ("org/name:Q4_K_M", ("org/name", None, "", "Q4_K_M")),
        ("org/name@v1:Q4_K_M", ("org/name", "v1", "", "Q4_K_M")),
        ("org/name/m.gguf", ("org/name", None, "m.gguf", "")),
        ("hf:gpt2", ("gpt2", None, "", "")),
        ("hf://org/name@v1/m.gguf", ("org/name", "v1", "m.gguf", "")),
        ("hf:org/name/unet", ("org/name", None, "unet", "")),
        ("hf.co/org/name:Q8_0", ("org/name", None, "", "Q8_0")),
        ("https://huggingface.co/org/name/", ("org/name", None, "", "")),
        ("https://huggingface.co/gpt2/tree/main", ("gpt2", "main", "", "")),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", ("org/name", "refs/pr/1", "", "")),
        ("https://huggingface.co/org/name/resolve/main/a/m.gguf?download=true", ("org/name", "main", "a/m.gguf", "")),
    ],
)
def test_what_a_text_names(text: str, told: tuple[str, str | None, str, str]) -> None:
    found = grammar.named(text)
    assert found is not None
    assert (found.id, found.revision, found.path, found.quant) == told


@pytest.mark.parametrize(
    "text", ["name", "./org/name", "/org/name", "~/org/name", "org/config.json", "org/m.gguf", "a/b/c", "org/na me", "",
             "https://example.com/org/name", "C:/x/m.gguf", "org\\name", "{}"],
)  # fmt: skip
def test_what_is_no_name_of_the_hub(text: str) -> None:
    assert grammar.named(text) is None


@pytest.mark.parametrize(
    "text", ["org/name@", "org/name:", "hf:", "hf:a--b/c", "hf:org/../x", "https://huggingface.co/datasets/a/b",
             "https://huggingface.co/spaces/a/b", "https://huggingface.co/", "hf:org/name:Q4:K", "org/name@a^b", "hf://datasets/a/b",
             "https://huggingface.co/org/name/blob/main/README.md",
             "hf:org/name/../../x.json"],
)  # fmt: skip
def test_what_no_model_is_called(text: str) -> None:
    with pytest.raises(InputError):
        grammar.named(text)


def test_what_is_here_comes_first(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "plain").mkdir(parents=True)
    (tmp_path / "org" / "plain" / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 7}))
    assert api.load("org/plain").vocabulary == 7
    assert api.load("hf:org/plain").vocabulary == 100
    hub.forget()
    # A file that is missing from a folder that is here is not looked for elsewhere.
    with pytest.raises(SourceError, match="No such file"):
        api.weights("org/plain/model.safetensors")
    assert api.load("meta-llama/Llama-3.1-8B").name == "llama-3.1-8b"
    assert hub.asked == []


# Configs


def test_a_config_is_fetched_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = api.load({"config": CONFIG}).parameters.total
    model = api.load("org/plain")
    assert (model.name, model.parameters.total) == ("org/plain", expected)
    assert hub.paths("GET") == ["/org/plain/resolve/main/config.json"]
    for spelled in (
        "https://huggingface.co/org/plain",
        "hf:org/plain@main/config.json",
        "old/name",
        "org/plain@refs/pr/3",
    ):
        assert api.load(spelled).parameters.total == expected
    hub.forget()
    forget(monkeypatch)
    assert api.load("org/plain").parameters.total == expected
    assert hub.paths() == ["/org/plain/resolve/main/config.json"]
    assert hub.paths("HEAD") == hub.paths()


def test_the_cache_answers_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = api.load("org/plain").parameters.total
    commit = hub.repositories["org/plain"].commit("main")
    offline(monkeypatch)
    hub.forget()
    assert api.load("org/plain").parameters.total == online
    assert api.load(f"org/plain@{commit}").parameters.total == online
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE") as e:
        api.load("org/sharded")
    assert "lacks what is needed of org/sharded" in str(e.value)
    assert hub.asked == []


def test_a_commit_that_the_cache_has_is_not_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.repositories["org/plain"].commit("v1")
    api.load(f"org/plain@{commit}")
    forget(monkeypatch)
    hub.forget()
    api.load(f"org/plain@{commit}")
    assert hub.asked == []


@pytest.mark.parametrize("kind", ["broken", "limited", "gated"])
def test_the_cache_answers_while_the_hub_does_not(hub: Hub, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    api.load("org/plain")
    forget(monkeypatch)
    monkeypatch.setattr(hub.repositories["org/plain"], "kind", kind)
    assert api.load("org/plain").vocabulary == 100


def test_a_config_of_an_absurd_size_is_not_fetched(hub: Hub) -> None:
    with pytest.raises(InputError, match="too large"):
        api.load("org/large")
    assert hub.paths("GET") == []


# Who is asking


def test_a_login_reaches_the_hub_and_no_one_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    header = api.weights("org/gated/model.safetensors")
    assert header is not None
    assert api.load("org/private").vocabulary == 100
    hosts = {hub.endpoint: 0, hub.storage: 0}
    for host, _, path, headers in hub.asked:
        at = f"http://{host}"
        hosts[at] += 1
        assert ("authorization" in headers) == (at == hub.endpoint), path
        assert "user-agent" in headers
    assert min(hosts.values()) > 0


ERRORS = [
    ("org/gated", "", "gated: its files need a login; accept its conditions at"),
    ("org/gated", "denied", "gated, and this login has no access to it; ask for access at"),
    ("org/private", "", "has no such model, or a private one"),
    ("org/nope", "", "has no such model, or a private one"),
    ("org/nope", TOKEN, "that this login can see"),
    ("meta-llama/Llama-3.1-8b-Instrct", "", "did you mean llama-3.1-8b"),
    ("org/plain", "hf_expired", "does not accept the token; hf auth login"),
    ("org/plain@v9", "", "no revision 'v9'"),
    ("org/disabled", "", "disabled"),
    ("org/limited", "", "try again in 37 seconds; a login"),
    ("org/limited", TOKEN, "try again in 37 seconds"),
    ("org/broken", "", "answers 503"),
    ("org/empty", "", "no config.json; it holds README.md"),
    ("org/plain/none.safetensors", "", "no file none.safetensors; did you mean org/plain/model.safetensors"),
    ("org/gated/model.safetensors", "", "need a login"),
    ("hf:org/plain/none.json", "", "no file none.json"),
]


@pytest.mark.parametrize(("name", "token", "told"), ERRORS)
def test_what_goes_wrong_is_told_in_a_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, token: str, told: str
) -> None:
    hub.granted = token != "denied"
    monkeypatch.setenv("HF_TOKEN", TOKEN if token == "denied" else token)
    start = time.perf_counter()
    assert main(["params", name]) == 4
    # Nothing is tried again and again: huggingface_hub alone would wait for half a minute, or as long as it is told.
    assert time.perf_counter() - start < 5
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err
    assert "hf_" not in err.replace("hf_hub", "")
    forget(monkeypatch)
    assert main(["serve", name, "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["category"] == "source"


def test_when_to_ask_again_may_be_a_date(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from email.utils import formatdate

    for stated, told in ((formatdate(time.time() + 3600, usegmt=True), "3,6|3,5"), ("soon", "later"), ("", "later")):
        monkeypatch.setattr(hub, "retry_after", stated)
        forget(monkeypatch)
        with pytest.raises(SourceError, match=f"try again (in )?({told})"):
            api.load("org/limited")


def test_no_one_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(SourceError, match=r"cannot ask http://127.0.0.1:9 for org/plain: .*refused"):
        api.load("org/plain")
    forget(monkeypatch)
    monkeypatch.setattr(constants, "ENDPOINT", "nowhere")
    with pytest.raises(InputError, match="HF_ENDPOINT"):
        api.load("org/plain")


def test_some_other_server_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login page of a network, for one."""
    monkeypatch.setattr(hub.repositories["org/plain"], "commit", lambda revision: "")
    with pytest.raises(SourceError, match="does not answer as the Hub does"):
        api.load("org/plain")


def test_without_huggingface_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["params", "org/plain"]) == 4
    err = capsys.readouterr().err
    assert "pip install 'tonnage[hub]'" in err
    assert err.count("\n") == 1
    # What is open can be read at its address all the same.
    at = places.located("https://huggingface.co/org/plain/blob/v1/config.json")
    assert at is not None
    assert at.place.path("config.json") == "https://huggingface.co/org/plain/resolve/v1/config.json"


# Weights


def test_headers_come_by_ranges(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    total = api.load({"config": CONFIG}).parameters.total
    for name in ("org/plain", "org/sharded"):
        assert main(["params", name, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["model"]["name"], found["model"]["parameters"]) == (name, total)
        assert found["file"]["parameters"] == total
        assert found["file"]["files"] == (1 if name == "org/plain" else PARTS)
        assert [row["format"] for row in found["file"]["formats"]] == ["bf16"]
        assert hub.repositories[name].commit("main") in found["file"]["origin"]
        assert "notes" not in found
    hub.forget()
    assert main(["params", "org/sharded"]) == 0
    assert f"the files hold {total:,} parameters: safetensors, {PARTS} files" in capsys.readouterr().out
    asked = [headers for host, _, _, headers in hub.asked if f"http://{host}" == hub.storage]
    assert all("range" in headers for headers in asked)
    # One request a file, each for little more than its header.
    ranges = [int(headers["range"].partition("-")[2]) for headers in asked]
    assert len(ranges) == PARTS
    assert max(ranges) < 4096


def test_headers_come_side_by_side(hub: Hub) -> None:
    told: list[tuple[int, int]] = []
    hub.delay = 0.02
    start = time.perf_counter()
    header = api.weights("org/sharded", beside_config=True, progress=lambda *at: told.append(at))
    took = time.perf_counter() - start
    assert header is not None
    assert header.files == PARTS
    assert told == [(i + 1, PARTS) for i in range(PARTS)]
    # One after the other, the files alone take 0.8 s.
    assert took < 0.7
    # Connections are kept: the Hub's own answers, then one for each thread at both hosts.
    assert hub.connections <= 2 * WORKERS + 4


def test_the_first_error_ends_it() -> None:
    done: list[int] = []

    def work(i: int) -> int:
        time.sleep(0.01)
        done.append(i)
        if i == 3:
            raise SourceError("the fourth")
        return i

    with pytest.raises(SourceError, match="the fourth"):
        each(work, range(1000))
    time.sleep(0.05)
    assert len(done) < 100
    assert each(work, []) == []


def test_weights_in_the_cache_are_read_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub.hf_hub_download("org/plain", "model.safetensors", endpoint=hub.endpoint)
    forget(monkeypatch)
    hub.forget()
    header = api.weights("org/plain", beside_config=True)
    assert header is not None
    assert not [host for host, *_ in hub.asked if f"http://{host}" == hub.storage]
    offline(monkeypatch)
    hub.forget()
    again = api.weights("org/plain/model.safetensors")
    assert again is not None
    assert (list(again.tensors), hub.asked) == (list(header.tensors), [])


def test_offline_the_config_answers_alone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["params", "org/sharded", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    offline(monkeypatch)
    assert main(["params", "org/sharded", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == before["model"]
    assert "HF_HUB_OFFLINE" in found["notes"][0]
    assert "file" not in found


def test_one_gguf_file(hub: Hub) -> None:
    model = api.load("org/one-GGUF")
    assert (model.name, model.vocabulary) == ("org/one-GGUF:Q8_0", 32)
    header = api.weights("org/one-GGUF")
    assert header is not None
    assert (header.kind, header.name) == ("gguf", "org/one-GGUF:Q8_0")


def test_several_gguf_files(hub: Hub) -> None:
    with pytest.raises(InputError, match="3 GGUF models: Q4_K_M, q8_0, BF16; name one of them: org/many-GGUF:Q4_K_M"):
        api.load("org/many-GGUF")
    for quant, files in (("q4_k_m", 1), ("Q8_0", 1), ("bf16", 2)):
        header = api.weights(f"org/many-GGUF:{quant}")
        assert header is not None
        assert (header.files, header.name.lower()) == (files, f"org/many-gguf:{quant.lower()}")
        assert api.load(f"org/many-GGUF:{quant}").vocabulary == 32
    assert api.load("org/many-GGUF/m-Q4_K_M.gguf").vocabulary == 32
    with pytest.raises(InputError, match=r"no GGUF file of Q5_K_M; .*; did you mean Q4_K_M"):
        api.load("org/many-GGUF:Q5_K_M")
    with pytest.raises(InputError, match="no GGUF files"):
        api.load("org/plain:Q4_K_M")


def test_an_adapter_names_its_base(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match=r"adapter.*meta-llama/Llama-3.1-8B"):
        api.load("org/adapter")
    assert main(["params", "org/adapter", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["parameters"] == 4
    assert "meta-llama/Llama-3.1-8B" in found["notes"][0]


def test_a_config_that_is_not_understood_leaves_the_files(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["params", "org/odd", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["parameters"] == 3
    assert "zebra" in found["notes"][0]
    assert main(["params", "org/odd", "--head", "none"]) == 3
    assert main(["serve", "org/odd"]) == 3


def test_a_folder_of_a_repository(hub: Hub) -> None:
    assert api.load("hf:org/pipeline/unet").name == "org/pipeline/unet"
    header = api.weights("https://huggingface.co/org/pipeline/tree/main/unet", beside_config=True)
    assert header is not None
    with pytest.raises(SourceError, match=r"model_index.json, unet/config.json"):
        api.load("org/pipeline")


def test_compare_holds_a_repository_against_itself(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for pair in (("org/plain", "org/plain"), ("org/sharded", "org/plain"), ("org/plain/config.json", "org/sharded")):
        assert main(["compare", *pair, "--strict"]) == 0
        assert "the same tensors" in capsys.readouterr().out
    assert main(["compare", "gpt2", "org/plain", "--strict"]) == 1


def test_a_storage_that_refuses(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "storage", hub.endpoint.replace("127.0.0.1", "localhost") + "/none")
    with pytest.raises(SourceError, match="the storage that the Hub names answers 404"):
        api.weights("org/plain/model.safetensors")
    monkeypatch.setattr(hub, "storage", "http://example.com")
    forget(monkeypatch)
    with pytest.raises(TonnageError, match="https"):
        api.weights("org/plain/model.safetensors")


def test_a_pickle_that_is_none(hub: Hub) -> None:
    with pytest.raises(InputError, match="zip"):
        api.weights("org/pickled", beside_config=True)
    asked = [headers["range"] for host, _, _, headers in hub.asked if f"http://{host}" == hub.storage]
    assert len(asked) == 2


# A process of its own, which is told by the environment alone


def command(hub: Hub, cache: Path, *argv: str, **more: str) -> tuple[list[str], dict[str, str]]:
    home = str(Path(tonnage.__file__).parent.parent)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    there = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": path}
    return [sys.executable, "-m", "tonnage", *argv], {**kept, **there, **more}


def run(hub: Hub, cache: Path, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    words, env = command(hub, cache, *argv, **more)
    return subprocess.run(words, env=env, cwd=cache, capture_output=True, text=True, timeout=60)


def test_the_environment_is_honoured(hub: Hub, tmp_path: Path) -> None:
    first = run(hub, tmp_path, "serve", "org/plain", "--json")
    assert (first.returncode, first.stderr) == (0, "")
    second = run(hub, tmp_path, "serve", "org/plain", "--json", HF_HUB_OFFLINE="1")
    assert (second.returncode, second.stderr, second.stdout) == (0, "", first.stdout)
    gated = run(hub, tmp_path, "params", "org/gated", "--json", HF_TOKEN=TOKEN)
    assert json.loads(gated.stdout)["file"]["files"] == 1
    assert gated.stderr == ""


def test_a_line_on_a_terminal_and_nowhere_else(hub: Hub, tmp_path: Path) -> None:
    hub.delay = 0.1
    words, env = command(hub, tmp_path, "params", "org/sharded")
    leader, follower = pty.openpty()
    done = subprocess.Popen(words, env=env, cwd=tmp_path, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 2**16)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    assert done.wait(60) == 0
    assert b"\rheaders " in shown
    assert b"/20 [####" in shown
    # The line is gone before the answer comes; huggingface_hub draws none of its own.
    assert shown.index(b"org/sharded:") > shown.rindex(b"headers")
    assert b"%|" not in shown
    piped = run(hub, tmp_path, "params", "org/sharded", "--json")
    assert piped.stderr == ""
    assert json.loads(piped.stdout)["schema"] == 1


def test_a_plain_answer_does_not_load_it(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for argv in (
        ("params", "llama-3.1-8b"),
        ("serve", "meta-llama/Llama-3.1-8B"),
        ("params", str(tmp_path)),
        ("train", "config.json"),
    ):
        _, env = command(hub, tmp_path)
        code = f"import sys; from tonnage.cli import main; code = main({list(argv)!r})"
        code += "; print(*sys.modules, file=sys.stderr); sys.exit(code)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        loaded = {name.partition(".")[0] for name in done.stderr.split()}
        assert not loaded & {"huggingface_hub", "httpx", "httpx2", "requests", "http", "ssl", "socket"}, argv


def test_an_old_release_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "__version__", "0.24.1")
    with pytest.raises(SourceError, match=r"huggingface_hub 0.24.1 is too old; pip install"):
        api.load("org/plain")


def test_a_record_says_what_was_asked(hub: Hub) -> None:
    from tonnage.sources.model import described

    found = described("org/plain@v1")
    assert found is not None
    commit: Any = hub.repositories["org/plain"].commit("v1")
    assert (found.file, found.origin) == ("org/plain@v1/config.json", f"hub: org/plain@{commit}, config.json")
