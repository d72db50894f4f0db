"""Any PyTorch code: a context manager, a function of a file, and what is said when it needs real data."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tonnage as tn
from tonnage.errors import InputError, UnsupportedError
from tonnage.tracing import bnb_optimizers

WIDE = 1024
MIB = 2**20

SCRIPT = """
import sys
import torch
from torch import nn

model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 1024, bias=False))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)


def step():
    x = torch.randn(256, 1024)
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def logged():
    x = torch.randn(256, 1024)
    loss = model(x).square().mean()
    print("loss", loss.item())


def filtered():
    x = torch.randn(256, 1024)
    return x[x > 0].sum()


def broken():
    return model(torch.randn(256, 77))


def arrays():
    return model(torch.randn(256, 1024)).detach().numpy()


def leaves():
    sys.exit(3)


def asks():
    return torch.cuda.get_device_properties(0).total_memory


def takes(batch):
    return model(batch)


def yields():
    yield model(torch.randn(256, 1024))


async def waits():
    return model(torch.randn(256, 1024))


class Runner:
    def __call__(self):
        return model(torch.randn(256, 1024))


instance = Runner()


def greedy():
    held = []
    while True:
        held.append(b"x" * 2**26)


def endless():
    while True:
        model(torch.randn(2, 1024))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT)
    return path


def tonnage(*arguments: str) -> subprocess.CompletedProcess[str]:
    home = str(Path(tn.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": home}
    command = [sys.executable, "-m", "tonnage", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.filterwarnings("ignore")
def test_code_in_a_context_is_counted_by_hand() -> None:
    with tn.trace() as t:
        model = torch.nn.Linear(WIDE, WIDE, bias=False)
        x = torch.empty(256, WIDE)
        loss = model(x).sum()
        loss.backward()
    lines: dict[str, int] = {}
    for c in t.result.components:
        if c.tier == "requested":
            lines[c.name] = lines.get(c.name, 0) + c.bytes
    # The gradient of the sum is expanded, so the product's gradient takes a copy of it: as large as the input.
    assert lines["weights"] == 4 * MIB
    assert lines["gradients"] == 4 * MIB
    assert t.result.model["parameters"] == WIDE * WIDE
    assert {i.name for i in t.result.ranks[0].instants} == {"forward", "backward"}
    del model, x, loss


@pytest.mark.filterwarnings("ignore")
def test_everything_is_put_back() -> None:
    from torch.nn import functional

    before = (
        functional.dropout,
        functional.scaled_dot_product_attention,
        torch.cuda.is_available,
        torch.nn.Module._apply,
    )
    with tn.trace():
        torch.nn.Linear(8, 8)
        assert functional.dropout is not before[0]
    assert (
        functional.dropout,
        functional.scaled_dot_product_attention,
        torch.cuda.is_available,
        torch.nn.Module._apply,
    ) == before
    x = torch.ones(2, requires_grad=True)
    (x * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0]
    assert not torch.cuda.is_available()


@pytest.mark.filterwarnings("ignore")
def test_nothing_on_the_device_is_said() -> None:
    with tn.trace() as t:
        pass
    with pytest.raises(InputError, match="nothing was made"):
        t.result.as_dict()


def test_a_function_in_a_file(script: Path) -> None:
    done = tonnage("trace", f"{script}:step", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    rank = result["ranks"][0]
    sums: dict[str, int] = {}
    for c in rank["components"]:
        sums[c["name"]] = sums.get(c["name"], 0) + c["bytes"]
    weights = 2 * WIDE * WIDE * 4
    assert result["model"]["parameters"] == 2 * WIDE * WIDE
    assert sums["weights"] == weights
    assert sums["optimizer_state"] == 2 * weights + 2 * 4
    assert rank["reserved_bytes"] >= rank["allocated_bytes"] >= rank["requested_bytes"]
    assert [i["name"] for i in rank["instants"]] == ["forward", "backward", "optimizer step"]


@pytest.mark.parametrize(
    ("function", "line", "says"),
    [
        ("logged", 21, "a number is read out of a tensor"),
        ("filtered", 26, "a shape depends on data"),
        ("broken", 30, "RuntimeError"),
        ("arrays", 34, "an array, a list or a file is made of a tensor that has no data"),
        ("leaves", 38, "the code ended itself by sys.exit"),
        ("asks", 42, "the driver is asked, and a trace has no device"),
    ],
)
def test_what_needs_data_stops_at_its_line(script: Path, function: str, line: int, says: str) -> None:
    done = tonnage("trace", f"{script}:{function}", "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert f"mine.py:{line}" in error["message"]
    assert says in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("takes", "is called without arguments: missing a required argument: 'batch'"),
        ("yields", "returns a generator, of which nothing has run"),
        ("waits", "returns a coroutine, of which nothing has run"),
        ("Runner", "is a class, and a trace calls a function"),
    ],
)
def test_what_would_not_run_is_refused(script: Path, function: str, says: str) -> None:
    done = tonnage("trace", f"{script}:{function}", "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in json.loads(done.stdout)["error"]["message"]


def test_an_object_that_can_be_called_runs(script: Path) -> None:
    assert tonnage("trace", f"{script}:instance").returncode == 0


@pytest.mark.parametrize("how", ["file", "module"])
def test_wrong_syntax_is_told_by_its_line(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong.py").write_text("import torch\n\ndef step(:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    done = tonnage("trace", "wrong.py:step" if how == "file" else "wrong:step", "--json")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "wrong.py:3: SyntaxError: invalid syntax (def step(:)" in json.loads(done.stdout)["error"]["message"]


def test_a_file_without_a_function_is_not_taken_for_a_config(script: Path) -> None:
    done = tonnage("trace", str(script), "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["hint"].endswith("mine.py:step")


def test_a_number_that_is_declared_is_read(script: Path) -> None:
    done = tonnage("trace", f"{script}:logged", "--item", "1.5")
    assert done.returncode == 0, done.stderr
    assert "loss 1.5" in done.stderr


@pytest.mark.parametrize(
    ("function", "limit", "says"),
    [
        ("endless", ("--max-seconds", "20"), "longer than 20 s"),
        ("greedy", ("--max-memory", "1500MiB"), "of memory, more than"),
    ],
)
def test_limits_end_the_process_at_a_named_instant(
    script: Path, function: str, limit: tuple[str, str], says: str
) -> None:
    done = tonnage("trace", f"{script}:{function}", *limit, "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    message = json.loads(done.stdout)["error"]["message"]
    assert says in message
    assert "step1.forward" in message


@pytest.mark.parametrize("target", ["mine.py:nothing", "absent.py:step", "no_such_module:step"])
def test_what_is_not_there_is_named(script: Path, target: str) -> None:
    named = str(script.parent / target) if target.endswith((".py:nothing", ".py:step")) else target
    done = tonnage("trace", named, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["key"] == "target"


BITS = """
import torch
import bitsandbytes as bnb

model = torch.nn.Linear(1024, 1024)
optimizer = bnb.optim.AdamW8bit(model.parameters(), lr=1e-3)


def step():
    model(torch.empty(4, 1024)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def packed():
    bnb.nn.Linear4bit(256, 512)
"""


def test_an_optimizer_of_bitsandbytes_in_code_of_ones_own(tmp_path: Path) -> None:
    """By hand: two bytes a weight, two scales for 256 of them, a small bias in fp32, two maps of 256 values."""
    pytest.importorskip("bitsandbytes")
    path = tmp_path / "bits.py"
    path.write_text(BITS)
    done = tonnage("trace", f"{path}:step", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["ranks"][0]["components"]
    n = WIDE * WIDE
    state = sum(c["bytes"] for c in found if c["name"] == "optimizer_state")
    assert state == 2 * n + 2 * 4 * n // 256 + 2 * 4 * WIDE + 2 * 4 * 256
    refused = tonnage("trace", f"{path}:packed", "--json")
    assert refused.returncode == 3
    error = json.loads(refused.stdout)["error"]
    assert "bits.py:16: weights packed by bitsandbytes are not traced" in error["message"]
    assert "--quant nf4" in error["hint"]


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_in_a_context_are_refused() -> None:
    pytest.importorskip("bitsandbytes")
    # Another trace of this process may have put classes of its own in the place of those of ``bitsandbytes.nn``.
    bnb_optimizers.real()
    modules = importlib.import_module("bitsandbytes.nn.modules")
    with pytest.raises(UnsupportedError, match="packed by bitsandbytes"), tn.trace():
        modules.Linear8bitLt(256, 512, has_fp16_weights=False)
    assert torch.ones(2).sum().item() == 2


@pytest.mark.filterwarnings("ignore")
def test_what_is_made_after_a_step_is_no_state() -> None:
    with tn.trace() as t:
        model = torch.nn.Linear(64, 64)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        for _ in range(2):
            x = torch.empty(8, 64)
            model(x).sum().backward()
            optimizer.step()
    assert not [b for b in t.trace().born if b.kind == "state"]
    del x


@pytest.mark.filterwarnings("ignore")
def test_compiled_code_is_traced_uncompiled_and_said() -> None:
    found = []
    for compiled in (False, True):
        with tn.trace() as t:
            model = torch.nn.Linear(64, 64)
            step = torch.compile(model, mode="reduce-overhead") if compiled else model
            step(torch.empty(8, 64)).relu().sum().backward()
            del model, step
        found.append(([b.size for b in t.trace().born], [c for c in t.result.caveats if "torch.compile" in c]))
    assert found[0][0] == found[1][0]
    assert [len(said) for _, said in found] == [0, 1]
