"""The answer to ``params`` from a file's header: counts and bytes as stored, for any architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tonnage.checkpoint import Header, Stored
from tonnage.checkpoint.names import About, about
from tonnage.checkpoint.packing import Packing
from tonnage.formats import FORMATS
from tonnage.report.text import bar, table, width, wrapped
from tonnage.units import count, gib


class Totals:
    """Sums over a header, each of which adds up to the whole.

    Args:
        header: of one model.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.packing = packing = Packing(header.tensors)
        self.parameters = self.bytes = self.elements = self.side_bytes = self.largest = 0
        self.by_role: dict[str, int] = {}
        self.role_bytes: dict[str, int] = {}
        self.by_format: dict[str, list[int]] = {}
        layers: dict[tuple[str, int], list[int]] = {}
        outside = 0
        for (t, place, told), times in _alike(header.tensors, packing.packed):
            n, numel, kind = packing.parameters(t), t.numel, told.role
            self.parameters += n * times
            self.elements += numel * times
            self.bytes += t.nbytes * times
            self.side_bytes += t.nbytes * times if told.stem else 0
            self.largest = max(self.largest, t.nbytes)
            self.by_role[kind] = self.by_role.get(kind, 0) + n * times
            self.role_bytes[kind] = self.role_bytes.get(kind, 0) + t.nbytes * times
            row = self.by_format.setdefault(t.format, [0, 0, 0, 0, 0])
            for i, value in enumerate((1, numel, n, t.nbytes)):
                row[i] += value * times
            row[4] = max(row[4], t.nbytes)
            if place:
                at = layers.setdefault((place, int(t.name[told.layer : told.end])), [0, 0])
                at[0] += n * times
                at[1] += kind == "expert"
            else:
                outside += n * times
        self.layers = _kinds(layers, outside)
        assert sum(self.by_role.values()) == sum(self.layers.values()) == self.parameters
        assert sum(self.role_bytes.values()) == sum(row[3] for row in self.by_format.values()) == self.bytes

    def storage(self) -> list[dict[str, Any]]:
        """A row for each format that the files hold; the rows add up.

        Loading reads one tensor after the other, so the device holds the weights and the host the largest tensor.
        """
        return [
            {
                "format": name,
                "bytes": size,
                "disk_bytes": size,
                "host_load_bytes": largest,
                "device_load_bytes": size,
                "tensors": tensors,
                "elements": elements,
                "parameters": parameters,
                "bits": round(FORMATS[name].bits, 4),
            }
            for name, (tensors, elements, parameters, size, largest) in sorted(
                self.by_format.items(), key=lambda item: -item[1][3]
            )
        ]

    def notes(self) -> list[str]:
        """What a reader should know."""
        out = list(self.header.notes)
        unknown = self.packing.unknown
        if unknown:
            out.append(
                f"{len(unknown)} packed tensors count as the integers that they are: the header does not tell how many "
                f"parameters one holds ({unknown[0]})"
            )
        return out


def _alike(tensors: Sequence[Stored], packed: Mapping[str, int]) -> Iterable[tuple[tuple[Stored, str, About], int]]:
    """One tensor of each pattern of names, layer, shape and format, its layer's stack, and how many are like it."""
    times: dict[Any, int] = {}
    first: dict[Any, tuple[Stored, str, About]] = {}
    for t in tensors:
        name, shape, form, _ = t
        told = about(name)
        at = told.layer
        # What is told lives in ``first`` as long as its key.
        key = (id(told), name[: told.end] if at else "", shape, form)
        # What a packed tensor holds depends on its neighbours.
        if packed and name in packed:
            key = name  # type: ignore[assignment]
        if key in times:
            times[key] += 1
        else:
            times[key] = 1
            first[key] = (t, name[: at - 1] if at else "", told)
    return zip(first.values(), times.values(), strict=True)


def _kinds(layers: dict[tuple[str, int], list[int]], outside: int) -> dict[str, int]:
    """Parameters by kind of layer: stacks of a name apart, within one those with experts apart."""
    stacks = dict.fromkeys(stack for stack, _ in layers)
    mixed = {s for s in stacks if len({bool(v[1]) for (stack, _), v in layers.items() if stack == s}) > 1}
    parts: dict[str, int] = {}
    for (stack, _), (n, experts) in layers.items():
        kind = ("layer with experts" if experts else "dense layer") if stack in mixed else "layer"
        label = kind if len(stacks) == 1 else f"{stack} {kind}"
        parts[label] = parts.get(label, 0) + n
    parts["outside the layers"] = outside
    return parts


def as_dict(header: Header, active: Callable[[bool], int] | None = None) -> dict[str, Any]:
    """The JSON contract of ``params``, with the file's own formats as its storage.

    Args:
        header: of one model.
        active: parameters that a token uses, with the embedding table or without, where the architecture is known.
    """
    sums = Totals(header)
    return {
        "schema": 1,
        "model": {
            "name": header.name,
            "parameters": sums.parameters,
            "active_parameters": active(True) if active else None,
            "active_parameters_without_embedding": active(False) if active else None,
            "stored_parameters": sums.parameters,
            "trainable_parameters": sums.parameters,
        },
        "by_component": sums.by_role,
        "by_layer_kind": sums.layers,
        "storage": sums.storage(),
        "defaulted": [],
        "ignored": [],
        "bytes_by_component": sums.role_bytes,
        "file": file_dict(sums),
        "notes": sums.notes(),
    }


def file_dict(sums: Totals) -> dict[str, Any]:
    """What the files are, without what their tensors are for."""
    header = sums.header
    return {
        "kind": header.kind,
        "origin": header.origin,
        "files": header.files,
        "tensors": len(header.tensors),
        "elements": sums.elements,
        "bytes": sums.bytes,
        "side_bytes": sums.side_bytes,
        "file_bytes": header.file_bytes,
        "header_bytes": header.header_bytes,
        "largest_tensor_bytes": sums.largest,
    }


def formats(sums: Totals) -> str:
    """A table of the formats that the files hold."""
    rows = [("format", "bits", "tensors", "parameters", "bytes", "")]
    for row in sums.storage():
        cells = (f"{row['bits']:g}", *(f"{row[k]:,}" for k in ("tensors", "parameters", "bytes")))
        rows.append((row["format"], *cells, gib(row["bytes"])))
    return table(rows, right=frozenset({1, 2, 3, 4, 5}))


def files(header: Header) -> str:
    """How many files and tensors there are, in a line."""
    number = "1 file" if header.files == 1 else f"{header.files} files"
    return f"{header.kind}, {number}, {len(header.tensors):,} tensors, {header.file_bytes:,} bytes in all"


def render(header: Header) -> str:
    """Counts and bytes by component, and a table of the formats that the files hold."""
    sums, columns = Totals(header), width()
    out = [
        f"{header.name}: {sums.parameters:,} parameters ({count(sums.parameters)}), {gib(sums.bytes)} of weights",
        files(header),
        "",
    ]
    for name, size in sorted(sums.role_bytes.items(), key=lambda item: -item[1]):
        n = sums.by_role[name]
        out.append(f"  {name.replace('_', ' '):<15}{n:>19,}  {size:>19,} B  {bar(size, sums.bytes)}")
    if len(sums.layers) > 2:
        out += ["", *(f"  {name:<32}{n:>19,}" for name, n in sums.layers.items())]
    out += ["", formats(sums)]
    notes = sums.notes()
    if notes:
        out += ["", *wrapped("note", notes, columns)]
    return "\n".join(out)
