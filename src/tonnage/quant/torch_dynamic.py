"""torch's dynamic int8: linear modules in qint8, inputs quantized in each forward pass, everything else in fp32.

``torch.ao.quantization.quantize_dynamic`` replaces ``nn.Linear``: embeddings, norms, stacked experts and GPT-2's own
matrices stay. A head that was tied to the table of tokens becomes a matrix of its own, since the table stays in fp32.
Sizes are those of the state that ``torch.save`` writes; in memory FBGEMM and oneDNN hold a matrix in tiles of their
own, which round its dimensions up, and column sums: 6 % more for a model of 78 million packed weights (torch 2.13.0).
"""

from __future__ import annotations

from typing import Final

from tonnage.errors import UnsupportedError
from tonnage.keys import Keys
from tonnage.quant._stored import PACKED, SCALES, ZEROS, Matrix, Part, Recipe, Scheme

SOURCE: Final = (
    "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/ao/quantization/quantize.py quantize_dynamic; "
    "torch/ao/nn/quantized/dynamic/modules/linear.py Linear"
)
TOLD: Final = (
    "dynamic int8 runs on CPUs, and what it does not pack is computed in fp32, whatever the checkpoint is in",
    "inputs are quantized in each forward pass: saved activations, caches and buffers keep their size",
    "a bound on speed is no bound on memory: int8 products are computed from tiles that the kernel lays out anew",
)


def parts(m: Matrix, *, by_channel: bool) -> tuple[Part, ...]:
    """A byte for each weight; by channel a scale in fp64 and a zero point in int64 for each output.

    By tensor, scale and zero point are numbers in the pickle. The module has a scale and a zero point of its own.
    """
    out = [
        Part("_packed_params._packed_params", (m.outs, m.ins), "int8", PACKED),
        Part("scale", (), "fp32", SCALES),
        Part("zero_point", (), "int64", ZEROS),
    ]
    if by_channel:
        out.append(Part("_packed_params.scales", (m.outs,), "fp64", SCALES))
        out.append(Part("_packed_params.zero_points", (m.outs,), "int64", ZEROS))
    return tuple(out)


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """Settings of our own: transformers has no ``quantization_config`` for it."""
    kind = k.want("dtype", "qint8")
    if kind != "qint8":
        raise UnsupportedError(f"{kind} is not modelled: qint8 alone", key=f"{k.path}dtype", value=kind, file=k.file)
    by_channel = k.want("per_channel", False)
    return Recipe(
        method="torch-dynamic",
        title=f"torch dynamic int8, a scale for each {'output' if by_channel else 'matrix'}",
        source=SOURCE,
        store=lambda m: parts(m, by_channel=by_channel),
        adds_default=False,
        bias="fp32",
        dtype="fp32",
        unties=True,
        told=TOLD,
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
