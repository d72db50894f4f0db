"""Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv:1910.02054).

Figure 1: memory of the model states on one device, for 7.5 B parameters, 64 devices and an optimizer of K = 12 bytes a
parameter (fp32 copy of the weights, momentum and variance).
"""

from __future__ import annotations

import pytest

from tonnage.placement.mesh import Mesh
from tonnage.placement.zero import share
from tonnage.tensors import Tensor
from tonnage.units import GB

PARAMETERS = (Tensor("parameters", (("X", 7_500_000_000),), "feed_forward"),)


def state_bytes(stage: int, ranks: int, K: int = 12) -> int:
    mesh = Mesh(dp=ranks)
    weights, gradients = (share(PARAMETERS, mesh, stage, part) for part in ("weights", "gradients"))
    return 2 * weights + 2 * gradients + K * share(PARAMETERS, mesh, stage, "optimizer_state")


@pytest.mark.parametrize(("stage", "printed"), [(0, "120"), (1, "31.4"), (2, "16.6"), (3, "1.9")])
def test_figure_1(stage: int, printed: str) -> None:
    digits = len(printed.partition(".")[2])
    assert f"{state_bytes(stage, 64) / GB:.{digits}f}" == printed


@pytest.mark.parametrize(
    ("ranks", "printed"),
    # Table 1, column 7.5B: P_os, P_os+g, P_os+g+p.
    [
        (1, (120, 120, 120)),
        (4, (52.5, 41.3, 30)),
        (16, (35.6, 21.6, 7.5)),
        (64, (31.4, 16.6, 1.88)),
        (256, (30.4, 15.4, 0.47)),
    ],
)
def test_table_1(ranks: int, printed: tuple[float, ...]) -> None:
    for stage, value in enumerate(printed, 1):
        assert state_bytes(stage, ranks) / GB == pytest.approx(value, abs=0.06)
