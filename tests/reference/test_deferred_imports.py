"""What is not imported until it is touched: the same traces, and the real thing where it is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tracing_cases import CONFIGS

from tonnage.families import model_from
from tonnage.tracing import ask, deferred, request
from tonnage.workload import workload
from tonnage.workload.training import Train

SOURCE = Path(__file__).parent.parent.parent / "src"
TRACES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"precision": "bf16"}),
    "llama, autocast": ("llama", {"precision": "bf16-mixed", "recompute": "full"}),
    "gpt2, in a loop": ("gpt2", {"precision": "fp32", "optimizer": "adamw-loop"}),
    "experts, foreach": ("qwen3_moe", {"precision": "bf16", "optimizer": "adamw-foreach"}),
    "adapters": ("llama", {"precision": "bf16-mixed", "lora_rank": 4, "lora_targets": ["q_proj"]}),
}
TRACE = """
import hashlib, itertools, json, sys
job = json.loads(sys.stdin.read())
if sys.argv[1] == "deferred":
    from tonnage.tracing import deferred
    assert deferred.install() is not None
from tonnage.tracing.run import model_trace
t = model_trace(job)
# Autocast lets go of its copies in the order of their addresses.
order = [sorted(run) for _, run in itertools.groupby(t.order, lambda n: n < 0)]
told = {k: v for k, v in t.told.items() if k != "seconds"}
print(json.dumps([len(sys.modules), hashlib.sha256(repr((t.born, order, t.marks, told)).encode()).hexdigest()]))
"""
TOUCHES = {
    "a module of a package that waits": """
import torch._dynamo.eval_frame as first
import sys
assert sys.modules["torch._dynamo.eval_frame"] is first and torch._dynamo.eval_frame is first
assert torch._dynamo.disable.__module__ == "torch._dynamo.decorators"
""",
    "compilation": """
f = torch.compile(lambda x: x.sin() + 1, backend="aot_eager")
x = torch.randn(3)
assert torch.equal(f(x), x.sin() + 1)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
""",
    "export": """
class M(torch.nn.Module):
    def forward(self, x):
        return x * 2
assert len(list(torch.export.export(M(), (torch.ones(2),)).graph.nodes)) == 3
""",
    "symbolic sizes": """
from torch.fx.experimental.symbolic_shapes import expect_true, guard_or_false, ShapeEnv
assert guard_or_false(True) is True and expect_true(True)
from torch._subclasses.fake_tensor import FakeTensorMode
mode = FakeTensorMode(shape_env=ShapeEnv())
t = mode.from_tensor(torch.ones(5, 3), static_shapes=False)
assert guard_or_false(t.shape[0] == 5) and not guard_or_false(t.shape[0] == 4)
""",
    "algebra": """
import sympy
held = sympy.Basic
assert not isinstance(1, held)
assert isinstance(sympy.Symbol("x"), held) and isinstance(sympy.Symbol("x"), sympy.Basic) and sympy.Basic is not held
""",
    "a class by its name": """
import transformers
import transformers.models.llama.modeling_llama
assert "_later" in transformers.__dict__
assert transformers.BertModel.__module__ == "transformers.models.bert.modeling_bert"
assert "_later" not in transformers.__dict__ and "LlamaForCausalLM" in dir(transformers)
assert transformers.__version__ and not hasattr(transformers, "NoSuchModel")
""",
    "masks of flexible attention": """
import transformers.models.llama.modeling_llama
from transformers.masking_utils import TransformGetItemToIndex
with TransformGetItemToIndex():
    assert torch.arange(3)[torch.tensor(1)] == 1
""",
}


def run(code: str, *arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=given, capture_output=True, text=True,
        env={"PYTHONPATH": str(SOURCE), "PATH": "", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_is_the_same(name: str) -> None:
    family, said = TRACES[name]
    config = CONFIGS[family]
    asked = workload(Train, {"batch": 2, "seq": 64, **said})
    head = ask.own_head(config, model_from(config))
    given = json.dumps({**request.training(config, asked, None, name="", head=head).job, "layers": "all"})
    (modules, late), (before, plain) = (json.loads(run(TRACE, how, given=given)) for how in ("deferred", "plain"))
    assert late == plain
    assert modules < before


@pytest.mark.parametrize("name", TOUCHES)
def test_what_is_touched_is_real(name: str) -> None:
    install = "from tonnage.tracing import deferred\nassert deferred.install() is not None\nimport torch\n"
    run(install + TOUCHES[name])


def test_other_releases_are_imported_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "KNOWN", {"torch": ("1.0.",)})
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    before = list(sys.meta_path)
    assert deferred.install() is None
    assert sys.meta_path == before
