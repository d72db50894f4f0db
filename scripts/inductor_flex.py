"""What inductor's code for a GPU takes for flex attention: writes tests/data/flex_inductor.json.

    python scripts/inductor_flex.py

Needs torch 2.13, transformers 5.23 and the package triton 3.7, and no GPU: torch is told of one, AOTAutograd's
partitioner and inductor run on tensors without data, and of the Python that inductor writes around its kernels the
places are read where each buffer is taken, handed on or let go of.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "reference"))

from partitioned import _partitioned, highest, kept, written  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch.nn.attention import flex_attention as package  # noqa: E402

from tonnage.tracing import fakecuda  # noqa: E402
from tonnage.tracing.patches import Patches  # noqa: E402

CASES = [
    {"batch": 2, "tokens": 256, "heads": 8, "shared": 2, "width": 64, "sums": True, "cast": False},
    {"batch": 2, "tokens": 256, "heads": 8, "shared": 2, "width": 64, "sums": False, "cast": False},
    {"batch": 1, "tokens": 300, "heads": 4, "shared": 4, "width": 128, "sums": True, "cast": False},
    {"batch": 1, "tokens": 300, "heads": 4, "shared": 4, "width": 128, "sums": False, "cast": True},
    {"batch": 3, "tokens": 640, "heads": 16, "shared": 4, "width": 80, "sums": True, "cast": True},
]


class Properties(SimpleNamespace):
    """Of an H100, as far as inductor asks."""


H100 = Properties(
    major=9, minor=0, multi_processor_count=132, total_memory=80 << 30, name="H100", warp_size=32,
    max_threads_per_multi_processor=2048, regs_per_multiprocessor=65536, max_threads_per_block=1024,
    shared_memory_per_block=49152, shared_memory_per_block_optin=232448, shared_memory_per_multiprocessor=233472,
    gcnArchName="", L2_cache_size=50 << 20, is_integrated=False,
)  # fmt: skip


@contextlib.contextmanager
def gpu() -> Iterator[Any]:
    """Torch believes in an H100, and inductor does not look for its driver."""
    import torch._functorch.aot_autograd as aot
    import torch._inductor.config
    import torch.utils._triton as found
    from torch._dynamo.device_interface import CudaInterface

    p = Patches()
    try:
        fakecuda.set_up(p, (9, 0))
        p.put(FakeTensorMode, "avoid_device_init", property(lambda self: True))
        p.put(torch.cuda, "get_device_properties", lambda *args, **how: H100)
        p.put(torch.cuda, "get_device_name", lambda *args, **how: H100.name)
        p.put(CudaInterface, "get_device_properties", staticmethod(lambda *args, **how: H100))
        p.put(CudaInterface.Worker, "get_device_properties", staticmethod(lambda *args, **how: H100))
        p.put(CudaInterface, "get_compute_capability", staticmethod(lambda *args, **how: 90))
        p.put(found, "triton_hash_with_backend", lambda *args, **how: "none")
        p.put(found, "triton_backend", lambda *args, **how: None)
        p.put(aot, "preserve_rng_state", contextlib.nullcontext)
        p.put(torch._inductor.config, "compile_threads", 1)
        p.put(package, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
        p.put(torch, "compile", lambda function=None, **how: function)
        # A mode of the class that torch's own operation knows.
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield None
    finally:
        p.restore()


def measured(case: dict[str, Any]) -> dict[str, int]:
    """The most that either pass takes, what is given to it with it, and what is kept. [byte]"""
    batch, tokens, heads, shared, width = (case[key] for key in ("batch", "tokens", "heads", "shared", "width"))
    n, form = -(-tokens // 128), torch.float32 if case["cast"] else torch.bfloat16
    numbers = torch.zeros(batch, 1, n, dtype=torch.int32, device="cuda")
    indices = torch.zeros(batch, 1, n, n, dtype=torch.int32, device="cuda")
    q, k, v = (
        torch.randn(batch, tokens, of, width, dtype=form, device="cuda", requires_grad=True).transpose(1, 2)
        for of in (heads, shared, shared)
    )

    def run(_: Any, q: Any, k: Any, v: Any, numbers: Any, indices: Any) -> Any:
        blocks = package.BlockMask(
            (tokens, tokens), *(numbers, indices) * 4, (128, 128), lambda b, h, i, j: i >= j
        )  # fmt: skip
        asked = package.AuxRequest(lse=True) if case["sums"] else None
        with torch.autocast("cuda", torch.bfloat16, enabled=case["cast"]):
            made = package.flex_attention(q, k, v, block_mask=blocks, enable_gqa=True, return_aux=asked)
        return (made[0], made[1].lse) if case["sums"] else made

    graphs = _partitioned(run, {}, (q, k, v, numbers, indices), draws=False)
    given = {
        node.name: node.meta["val"].untyped_storage().nbytes() for node in graphs[1].graph.nodes
        if node.op == "placeholder"
    }  # fmt: skip
    own = sum(size for name, size in kept(graphs).items())
    return {
        "forward": highest(written(graphs[0]), {}),
        "kept": own,
        "given": sum(given.values()),
        "backward": highest(written(graphs[1]), given),
    }


def main() -> None:
    """Write the file."""
    with gpu():
        rows = [case | measured(case) for case in CASES]
    source = f"torch {torch.__version__}, inductor's code for sm_90: python scripts/inductor_flex.py"
    text = json.dumps({"source": source, "rows": rows}, indent=1)
    (ROOT / "tests" / "data" / "flex_inductor.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
