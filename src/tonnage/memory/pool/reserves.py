"""What engines hold that no tensor takes: labelled ranges with their basis, until something better is known."""

from __future__ import annotations

from typing import Final

from tonnage.memory.pool.ranked import Span
from tonnage.releases import Since
from tonnage.units import MiB

VLLM_GRAPHS: Final = (
    Span(70 * MiB, 750 * MiB, 3400 * MiB),
    "assumed: CUDA graphs of all batch sizes; eleven public logs of 0.20 and later estimate 0.07 to 2.35 GiB, median "
    "0.73, and vllm issue 54559 tells 3.26 GiB",
)
"""What the profile run estimates for CUDA graphs, and what that rests on."""
VLLM_OUTSIDE: Final[Since[tuple[Span, Span, str]]] = (
    (
        (0, 11),
        (
            Span(100 * MiB, 138 * MiB, 300 * MiB),
            Span(400 * MiB, 558 * MiB, 1100 * MiB),
            "assumed: libraries and kernels loaded after start; 0.13 to 0.14 GiB on one H100, 0.54 to 0.55 GiB on "
            "each of two (llm-d table, vllm 0.11)",
        ),
    ),
    (
        (0, 9),
        (
            Span(50 * MiB, 138 * MiB, 400 * MiB),
            Span(400 * MiB, 900 * MiB, 1600 * MiB),
            "assumed: as in 0.11, and communicators as well, which these releases measure too",
        ),
    ),
    (
        (0, 8),
        (
            Span(300 * MiB, 650 * MiB, 1100 * MiB),
            Span(700 * MiB, 1500 * MiB, 2600 * MiB),
            "assumed: these releases count the context of the process as well",
        ),
    ),
    (
        (0, 0),
        (
            Span(40 * MiB, 100 * MiB, 400 * MiB),
            Span(400 * MiB, 1000 * MiB, 2000 * MiB),
            "assumed: 0.05 GiB on an L4 (vllm of 2025-03); others print up to 1.8 GiB, from releases before 0.6.5",
        ),
    ),
)
"""What is neither weights nor activations, on one rank and on each of several."""

TENSORRT_OUTSIDE: Final = (
    Span(800 * MiB, 1800 * MiB, 4000 * MiB),
    "assumed: context, libraries and CUDA graphs, all of which are measured before the pool; public logs of 1.x tell "
    "hundreds of MiB for the context alone",
)
TENSORRT_PEERS: Final = (
    Span(500 * MiB, 1500 * MiB, 4000 * MiB),
    "assumed: communicators and their workspaces; 342 MiB for 2 ranks and 392 MiB for 4 and 8 (aiconfigurator, H100) "
    "for the former",
)

TGI_OUTSIDE: Final = (
    Span(350 * MiB, 550 * MiB, 1000 * MiB),
    "assumed: context and kernels that are loaded, measured before the pool; 0.49 GiB on an H100 for the context alone",
)
TGI_GRAPHS: Final = (
    Span(100 * MiB, 500 * MiB, 2000 * MiB),
    "assumed: CUDA graphs of six batch sizes, taken from the tenth that the pool leaves",
)
