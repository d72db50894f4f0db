"""Bottleneck adapters: every part of a step as the library adapters makes it, as recorded in data/bottlenecks.json.

scripts/trace_bottlenecks.py wrote the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.estimate.training import Step

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "bottlenecks.json").read_text())
APART = ("forward embedding",)
"""Position ids belong to what stands before the layers in a trace, and to the layers here."""


@pytest.mark.parametrize("run", RECORDED["runs"], ids=lambda r: f"{r['family']}-{r['adapter']}-{r['setting']}")
def test_every_part_of_a_step_is_what_the_library_makes_of_it(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    most: dict[str, int] = {}
    moments = Step.moments

    def watched(self: Step) -> Any:
        for m in moments(self):
            most[m.name] = max(most.get(m.name, 0), m.highest - self.buffers.requested)
            yield m

    monkeypatch.setattr(Step, "moments", watched)
    config = {"config": RECORDED["families"][run["family"]]}
    result = tn.train(config, adapter=run["adapter"], suggest=False, replay=False, **run["said"])
    assert result.model["trainable_parameters"] == run["trained"]
    parts = {name: n for name, n in run["parts"].items() if name not in APART}
    assert len(parts) >= 8
    assert {name: most[name] for name in parts} == parts


def test_trained_parameters_by_hand() -> None:
    """Two matrices of 4096 x 256 with their biases, behind both blocks of 32 layers."""
    found = tn.train("llama-3.1-8b", adapter="houlsby", seq=128)
    assert found.model["trainable_parameters"] == 32 * 2 * (2 * 4096 * 256 + 256 + 4096)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"adapter": "seq_bn", "adapter_options": "reduction_factor=0"}, InputError, "more than 0"),
        ({"adapter": "seq_bn", "adapter_options": "non_linearity=relu6"}, InputError, "relu, gelu"),
        ({"adapter": "par_bn", "lora_rank": 8}, InputError, "has no lora_rank"),
        ({"adapter": "par_bn", "lora_targets": "q_proj"}, InputError, "has no lora_targets"),
        ({"adapter": "seq_bn", "quant": "nf4"}, UnsupportedError, "packed weights"),
    ],
)
def test_what_cannot_be_is_named(said: dict[str, Any], error: type[TonnageError], words: str) -> None:
    with pytest.raises(error) as raised:
        tn.train("llama-3.1-8b", **said)
    assert words in f"{raised.value} {raised.value.hint}"


def test_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="qwen2 is not modelled"):
        tn.train("qwen2.5-7b", adapter="seq_bn", seq=128)
