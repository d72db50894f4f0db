"""Traces of bottleneck adapters by the library adapters, written to tests/data/bottlenecks.json.

The library needs a release of transformers of its own, so this runs in an environment of its own::

    pip install torch==2.13.0 adapters==1.3.0
    PYTHONPATH=src:tests/reference python scripts/trace_bottlenecks.py
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

WIDE = torch.autocast


class OnCuda(WIDE):
    """Autocast, where this release of transformers asks for it by the type of a device without data."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", torch.bfloat16)
        super().__init__("cuda" if device_type == "meta" else device_type, *args, **kwargs)


DATA = Path(__file__).parent.parent / "tests" / "data" / "bottlenecks.json"
CONFIGURATIONS = ("seq_bn", "double_seq_bn", "par_bn")
SHAPE: dict[str, Any] = {"precision": "bf16", "batch": 2, "seq": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one sequence": {"batch": 1, "seq": 77},
    "eager": {"attention": "eager"},
    "recomputed": {"recompute": "full"},
    "mixed": {"precision": "bf16-mixed"},
    "autocast": {"precision": "bf16-autocast", "dtype": "bf16"},
}
FAMILIES = {
    "llama": tuple(SETTINGS),
    "gpt2": tuple(name for name in SETTINGS if name != "eager"),
    "mistral": ("one sequence",),
}
"""Settings in which the model's own code is that of the release that tonnage follows: the scale of GPT-2's scores was a
tensor, and Mistral differs by 1 KiB of the forward pass."""


def run(config: dict[str, Any], configuration: str, said: dict[str, Any]) -> dict[str, Any]:
    """Trained parameters, and the most that tensors but buffers take in each part of a step."""
    import adapters
    from tracing_cases import traced

    from tonnage.tracing import tuning
    from tonnage.tracing.levels import levels

    told: dict[str, int] = {}

    def tuned(model: Any, job: Any) -> Any:
        adapters.init(model)
        model.add_adapter("a", config=configuration)
        model.train_adapter("a")
        weights = next(p for name, p in model.named_parameters() if ".adapters." not in name)
        model.adapter_to("a", device=weights.device, dtype=weights.dtype)
        told["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        told["buffers"] = sum({b.untyped_storage()._cdata: b.nbytes for b in model.buffers()}.values())
        return model

    tuning.tuned = tuned
    found = levels(traced(config, layers="all", lora_rank=1, lora_targets=["q_proj"], **said))
    parts: dict[str, int] = {}
    for p in found.parts:
        reached = max(found.requested[i] for i in range(p.start - 1, p.stop)) - told["buffers"]
        parts[p.name] = max(parts.get(p.name, 0), reached)
    return {"trained": told["trained"], "parts": parts}


def main() -> None:
    """Write the file."""
    torch.autocast = torch.amp.autocast = OnCuda  # type: ignore[misc, assignment]
    torch.get_autocast_dtype = lambda device: torch.bfloat16  # type: ignore[assignment]
    warnings.filterwarnings("ignore")
    import adapters
    import transformers
    from tracing_cases import CONFIGS

    runs = []
    for family, settings in FAMILIES.items():
        for configuration in CONFIGURATIONS:
            for setting in settings:
                said = SHAPE | SETTINGS[setting]
                found = run(CONFIGS[family], configuration, said)
                runs.append({"family": family, "adapter": configuration, "setting": setting, "said": said, **found})
    by = f"adapters {adapters.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    data = {"by": by, "families": {name: CONFIGS[name] for name in FAMILIES}, "runs": runs}
    DATA.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
