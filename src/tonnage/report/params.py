"""The answer to ``params``: counts, and bytes to store and to load."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.estimate.summary import summary
from tonnage.formats import FORMATS
from tonnage.memory.weights import bytes_of, is_parameter
from tonnage.report.text import bar, table, width, wrapped
from tonnage.tensors import numel
from tonnage.units import count, gib

STORED: Final = ("fp32", "bf16", "fp16", "fp8_e4m3", "int8")
"""Plain formats: one element is one number. Schemes with scales and packing are no part of this list."""


def as_dict(model: Model) -> dict[str, Any]:
    """The JSON contract of ``params``."""
    return {
        "schema": 1,
        "model": summary(model, trainable=True),
        "by_component": model.parameters.by_component(),
        "by_layer_kind": model.parameters.by_layer_kind(),
        "storage": storage(model),
        "defaulted": list(model.defaulted),
        "ignored": list(model.ignored),
    }


def storage(model: Model) -> list[dict[str, Any]]:
    """Bytes of the parameters in each plain format.

    ``bytes`` is the parameters alone; ``disk_bytes`` adds what a checkpoint stores and transformers does not build;
    loading reads one tensor after the other, so the device holds the weights and the host the largest tensor.
    """
    groups = list(model.groups())
    largest = max((t.numel for _, inventory in groups for t in inventory if is_parameter(t)), default=0)
    rows = []
    for name in STORED:
        form = FORMATS[name]
        size = bytes_of(groups, form, is_parameter)[0].requested
        rows.append(
            {
                "format": name,
                "bytes": size,
                "disk_bytes": size + form.nbytes(numel(model.apart)),
                "host_load_bytes": form.nbytes(largest),
                "device_load_bytes": size,
            }
        )
    return rows


def render(model: Model) -> str:
    """Counts by component with bars, and a table of formats."""
    counts, columns = model.parameters, width()
    total = counts.total
    out = [f"{model.name or model.model_type}: {total:,} parameters ({count(total)})"]
    active = counts.active(count_embedding=True)
    if active != total:
        without = counts.active(count_embedding=False)
        out.append(f"a token uses {active:,} ({count(active)}); {without:,} without the embedding table")
    if counts.stored != total:
        out.append(f"the checkpoint stores {counts.stored:,} ({count(counts.stored)}), multi-token prediction included")
    out.append("")
    for name, n in sorted(counts.by_component().items(), key=lambda item: -item[1]):
        out.append(f"  {name.replace('_', ' '):<15}{n:>19,}  {bar(n, total)}  {n / max(total, 1):6.1%}")
    kinds = counts.by_layer_kind()
    if len(kinds) > 2:
        out += ["", *(f"  {name:<24}{n:>19,}" for name, n in kinds.items())]
    rows = [("format", "parameters", "on disk", "loading, host", "loading, device")]
    for row in storage(model):
        rows.append(
            (row["format"], *(gib(row[k]) for k in ("bytes", "disk_bytes", "host_load_bytes", "device_load_bytes")))
        )
    out += ["", table(rows, right=frozenset({1, 2, 3, 4}))]
    if model.defaulted:
        out += ["", *wrapped("defaulted", [", ".join(dict.fromkeys(model.defaulted))], columns)]
    if model.ignored:
        out += wrapped("ignored", [", ".join(model.ignored)], columns)
    return "\n".join(out)
