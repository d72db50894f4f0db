"""Q-GaLore: closed form against its own step and products under the tracer, to the byte.

Its step needs a bitsandbytes before 0.50 (the script's 0.43.1; axolotl's 0.49.1), whose kernels, which run on a device
only and work in place, are replaced by functions without a body. Its packed products are in its repository only: put
https://github.com/VITA-Group/Q-GaLore at 5bd2f1c on the path. Weights are packed by their shapes: a trace has no
values, and of the random rounding nothing but tensors follows.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_trace_against_the_closed_form import SHAPE, closed_form
from tracing_cases import CONFIGS

from tonnage.tracing.levels import levels

pytest.importorskip("q_galore_torch")
bitsandbytes = pytest.importorskip("bitsandbytes")
if "percentile_clipping" not in bitsandbytes.optim.optimizer.Optimizer2State.__init__.__code__.co_varnames:
    pytest.skip("its step fails with this release of bitsandbytes", allow_module_level=True)
SCALED = int(bitsandbytes.__version__.split(".")[1]) >= 45
"""Whether 256 elements share a scale of moments, as in the release that axolotl takes; else 2,048."""


def peaks(config: dict[str, Any], **said: Any) -> list[int]:
    from tracing_cases import traced

    found = levels(traced(config, **said))
    last = max(name for name, _, _ in found.traced.phases() if name.startswith("step"))[:5]
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    kinds = ("forward", "backward") if said.get("optimizer_in_backward") else ("forward", "backward", "optimizer")
    return [max(found.requested[i] for i in phases[f"{last}.{kind}"]) for kind in kinds]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not SCALED, reason="axolotl's release of bitsandbytes has other blocks")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_quantized_projection_takes_what_its_code_does(
    family: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SHAPE | {"optimizer": "q-galore-proj", "precision": precision}
    wanted, _ = closed_form(CONFIGS[family], said, monkeypatch)
    assert wanted == peaks(CONFIGS[family], **said)


SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {}, "fp32": {"precision": "fp32"}, "recomputed": {"recompute": "full"}, "accumulated": {"accumulate": 4},
    "clipped": {"clip_grad_norm": True}, "in the backward pass": {"optimizer_in_backward": True},
    "recomputed, in the backward pass": {"optimizer_in_backward": True, "recompute": "full"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(SCALED, reason="its own step calls bitsandbytes as it was up to 0.43")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_packed_weights_take_what_their_code_does(family: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("q_galore_torch.utils.quantization")
    said = SHAPE | {"optimizer": "q-galore"} | SETTINGS[setting]
    wanted, _ = closed_form(CONFIGS[family], said | {"replay": False}, monkeypatch)
    # What the script never steps it never clears either.
    stays = {"retain": ["grads"]} if "optimizer_in_backward" in said else {}
    got = peaks(CONFIGS[family], **said, **stays)
    assert wanted[: len(got)] == got
