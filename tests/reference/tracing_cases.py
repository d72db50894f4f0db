"""What the tests of the tracer run: small configs of many families, traced in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tonnage.families import model_from
from tonnage.tracing import ask, request
from tonnage.tracing.stream import Traced
from tonnage.workload import workload
from tonnage.workload.training import Train

CONFIGS: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "data" / "traces.json").read_text()
)["families"]
"""Small configs; names with a parenthesis are further variants of a family."""
FAMILIES: Final = [name for name in CONFIGS if "(" not in name]


def traced(config: dict[str, Any], *, layers: str = "few", head: str | None = None, **said: Any) -> Traced:
    """Two training steps, traced in this process; ``said`` as the keys of a workload."""
    # Imports torch, without which the tests of the tracer are skipped.
    from tonnage.tracing import run

    model = model_from(config)
    asked = request.training(config, workload(Train, said), None, name="", head=head or ask.own_head(config, model))
    return run.model_trace({**asked.job, "layers": layers})
