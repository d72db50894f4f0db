"""Records what training steps of models with recurrent mixers, and of decoders with parts of their own, take.

Into ``tests/data/mixers.json``, ``hybrids.json`` and ``decoders.json``.

By the kernels of a package where the case names one, and all of it is installed; else in operations of torch, where no
package is. The packages' own ``autograd.Function``s run on tensors without data, under ``tonnage trace``; their Python
code is enough, without a compiler of CUDA:

    MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps \\
        mamba-ssm==2.3.2.post1 causal-conv1d==1.6.1 flash-linear-attention==0.6.0 fla-core==0.6.0 einops triton==3.4.0
    python scripts/trace_mixers.py [CONFIG ...]

Needs the extra ``test-reference``.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "reference")]
TABLES: Final = tuple(ROOT / "tests" / "data" / f"{name}.json" for name in ("mixers", "hybrids", "decoders"))
ANY: Final = ("mamba_ssm", "fla", "causal_conv1d")
KINDS: Final = ("forward", "backward", "optimizer")


def recorded(config: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """The most that tensors take in each phase of the last step, and what the allocator counts at its peak. [byte]"""
    from tracing_cases import traced

    from tonnage.tracing.levels import levels

    found = levels(traced(config, **said))
    last = max(name for name, _, _ in found.traced.phases() if name.startswith("step"))[:5]
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    return {
        "peaks": [max(found.requested[i] for i in phases[f"{last}.{kind}"]) for kind in KINDS],
        "allocated": found.samples[found.peak][1],
        "trainable": found.traced.told["trainable"],
    }


def main() -> None:
    """Run the cases again whose packages are here, all or of the configs that are said, and write what they took."""
    from tonnage.tracing.mixers import PACKAGES

    for path in TABLES:
        table = json.loads(path.read_text())
        for run in table["runs"]:
            if sys.argv[1:] and run["config"] not in sys.argv[1:]:
                continue
            wanted = PACKAGES.get(run["said"].get("kernels"), ())
            # transformers takes the packages' functions wherever it can import them.
            if [name for name in wanted or ANY if find_spec(name) is not None] != list(wanted):
                continue
            run.update(recorded(table["configs"][run["config"]], run["said"]))
            print(run["config"], run["said"], run["peaks"], flush=True)
        path.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
