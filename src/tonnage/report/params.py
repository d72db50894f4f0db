"""The answer to ``params``: counts, and bytes to store and to load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tonnage.arch.model import Model
from tonnage.estimate.summary import summary
from tonnage.report import storage
from tonnage.report.text import bar, table, width, wrapped
from tonnage.units import count, gib

if TYPE_CHECKING:
    from tonnage.checkpoint import Header


def as_dict(model: Model, header: Header | None = None, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON contract of ``params``.

    Args:
        model: as its config describes it.
        header: of the weights that lie beside the config, where they were read.
        notes: what else a reader should know.
    """
    more: dict[str, Any] = {}
    if header is not None:
        from tonnage.report.headers import Totals, file_dict

        sums = Totals(header)
        more["file"] = {**file_dict(sums), "parameters": sums.parameters, "formats": sums.storage()}
        notes = [*notes, *sums.notes()]
    if notes:
        more["notes"] = list(notes)
    return {
        "schema": 1,
        "model": summary(model),
        "by_component": model.parameters.by_component(),
        "by_layer_kind": model.parameters.by_layer_kind(),
        "storage": storage.rows(model),
        "defaulted": list(model.defaulted),
        "ignored": list(model.ignored),
        **more,
    }


def render(model: Model, header: Header | None = None, notes: Sequence[str] = (), *, whole: bool = False) -> str:
    """Counts by component with bars, a table of formats, and what the files beside the config hold.

    Args:
        model, header, notes: as in ``as_dict``.
        whole: the table has every format, not those alone that most ask for.
    """
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
    for row in storage.rows(model, None if whole else storage.USUAL):
        rows.append(
            (row["format"], *(gib(row[k]) for k in ("bytes", "disk_bytes", "host_load_bytes", "device_load_bytes")))
        )
    out += ["", table(rows, right=frozenset({1, 2, 3, 4}))]
    if not whole:
        out.append("every other format and scheme: --storage")
    if model.defaulted:
        out += ["", *wrapped("defaulted", [", ".join(dict.fromkeys(model.defaulted))], columns)]
    if model.ignored:
        out += wrapped("ignored", [", ".join(model.ignored)], columns)
    if header is not None:
        from tonnage.report.headers import Totals, files, formats

        sums = Totals(header)
        more = sums.parameters - total
        held = f"the files hold {sums.parameters:,} parameters" + (f", {more:+,} than are built" if more else "")
        out += ["", f"{held}: {files(header)}", "", formats(sums)]
        notes = [*notes, *sums.notes()]
    if notes:
        out += ["", *wrapped("note", notes, columns)]
    return "\n".join(out)
