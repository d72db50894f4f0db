"""Which causal language models of transformers can be traced in training: a table of all of them, with the reason.

    python scripts/trace_types.py accuracy/traced_types.json

Every type's default config, cut to a few layers, widths as they are: two steps in bf16, a batch of one sequence of 64
tokens. Needs the extra ``trace``.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

LAYERS: Final = 4
SECONDS: Final = 90
DEPTHS: Final = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "num_decoder_layers")
SAID: Final = {"precision": "bf16", "batch": 1, "seq": 64}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A TimeoutError after some seconds."""

    def ended(number: int, frame: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, ended)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The config with few layers, and lists with an entry a layer as long."""
    found = dict(config)
    depth = next((found[key] for key in DEPTHS if isinstance(found.get(key), int)), None)
    for key in DEPTHS:
        if isinstance(found.get(key), int) and found[key] > LAYERS:
            found[key] = LAYERS
    for key, value in found.items():
        if isinstance(value, list) and depth is not None and depth > LAYERS and len(value) == depth:
            found[key] = value[:LAYERS]
        elif key == "per_layer_config" and isinstance(value, dict):
            found[key] = {i: v for i, v in value.items() if int(i) < LAYERS}
        elif isinstance(value, dict) and "num_hidden_layers" in value:
            found[key] = small(value)
    return found


def row(kind: str) -> dict[str, Any]:
    """One type: traced, with figures, or the reason why not."""
    from transformers import AutoConfig

    from tonnage.tracing import request, run
    from tonnage.tracing.levels import levels
    from tonnage.workload import workload
    from tonnage.workload.training import Train

    began = time.perf_counter()
    out: dict[str, Any] = {"model_type": kind}
    try:
        with limited(SECONDS):
            try:
                config = small(AutoConfig.for_model(kind).to_dict())
            except Exception as e:
                return out | {"traced": False, "why": f"no default config: {type(e).__name__}: {e}"[:200]}
            job = request.training(config, workload(Train, dict(SAID)), None, name=kind, head="causal").job
            found = levels(run.model_trace({**job, "layers": "all"}))
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        return out | {"traced": False, "why": why}
    told = found.traced.told
    return out | {
        "traced": True,
        "class": told["class"],
        "parameters": told["parameters"],
        "peak_requested_bytes": found.highest,
        "events": len(found.traced.order),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(path: str) -> None:
    """Every type; what the table has already is kept."""
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    file = Path(path)
    rows = {r["model_type"]: r for r in json.loads(file.read_text())["rows"]} if file.exists() else {}
    for kind in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        if kind in rows:
            continue
        rows[kind] = row(kind)
        source = f"torch {torch.__version__}, transformers {transformers.__version__}: scripts/trace_types.py"
        text = ",\n".join(json.dumps(rows[k]) for k in sorted(rows))
        file.write_text(f'{{"source": {json.dumps(source)}, "rows": [\n{text}\n]}}\n')
        print(kind, rows[kind]["traced"], rows[kind].get("why", ""), flush=True)
    done = sum(r["traced"] for r in rows.values())
    print(f"{done} of {len(rows)} traced")


if __name__ == "__main__":
    main(sys.argv[1])
