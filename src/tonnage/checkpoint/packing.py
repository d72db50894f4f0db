"""How many parameters the tensors of a quantized checkpoint stand for.

A format of its own (FP8, GGUF's blocks, F4) stores one parameter an element. Other schemes pack several into the
integers of a plain format, beside tensors of scales: how many follows from the shapes alone, or is not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tonnage.checkpoint import Stored
from tonnage.checkpoint.names import about, beside

_WORDS: Final = ("int32", "int64", "int16", "uint32")
_BYTES: Final = ("uint8", "int8")
_INTEGERS: Final = frozenset((*_WORDS, *_BYTES))
_ENDS: Final = (".qweight", ".weight_packed", ".weight", "_blocks")

Sides = Mapping[str, Stored]


class Packing:
    """The parameters of every tensor of a header.

    Args:
        tensors: of the header.
    """

    def __init__(self, tensors: Sequence[Stored]) -> None:
        stems = {}
        for t in tensors:
            if t.format in _INTEGERS and not about(t.name).stem:
                end = next((e for e in _ENDS if t.name.endswith(e)), None)
                if end is not None:
                    stems[t.name.removesuffix(end)] = t
        self.unknown: list[str] = []
        """Packed tensors of which the shapes do not tell how many parameters they hold."""
        self.packed: dict[str, int] = {}
        """Parameters of those of which they do."""
        sides: dict[str, dict[str, Stored]] = {}
        for t in tensors if stems else ():
            stem = beside(t.name)
            if stem in stems:
                sides.setdefault(stem, {})[t.name[len(stem) :]] = t
        for stem, there in sides.items():
            count = _unpacked(stems[stem], there)
            if count is None:
                self.unknown.append(stems[stem].name)
            else:
                self.packed[stems[stem].name] = count

    def parameters(self, t: Stored) -> int:
        """Parameters that a tensor stands for: none for scales and for buffers."""
        count = self.packed.get(t.name)
        if count is not None:
            return count
        told = about(t.name)
        return 0 if told.stem or told.role == "buffer" else t.numel


def _unpacked(t: Stored, sides: Sides) -> int | None:
    """Parameters of one packed tensor; None where its shapes do not tell.

    GPTQ packs 32-bit words along the input, AWQ along the output; both keep a column of scales for each output.
    bitsandbytes, MXFP4 and NVFP4 put two parameters into a byte.
    """
    scales, index = sides.get(".scales"), sides.get(".g_idx")
    if t.name.endswith(".qweight") and t.format in _WORDS:
        if scales is None or len(scales.shape) != 2 or len(t.shape) != 2:
            return None
        if index is not None and t.shape[1] == scales.shape[1]:
            return index.numel * t.shape[1]
        return t.shape[0] * scales.shape[1] if t.shape[1] < scales.shape[1] else None
    if t.format not in _BYTES:
        return None
    if ".weight.absmax" in sides:
        four = any(name.startswith(".weight.quant_state.bitsandbytes__") for name in sides)
        return 2 * t.numel if four else t.numel
    if t.name.endswith(("_blocks", ".weight_packed")):
        return 2 * t.numel
    # One byte an element (int8, fp8 held as bytes), unless a second level of scales tells of NVFP4.
    return 2 * t.numel if ".weight_scale_2" in sides and t.format == "uint8" else t.numel
