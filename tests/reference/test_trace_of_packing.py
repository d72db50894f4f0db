"""Rows of several texts: closed form against transformers' own code under the tracer, to the byte.

flash-attn's kernels run on a device only: what they save and make is stated from their source in the tracer as well
(``tracing/flash_kernels.py``), so that of them transformers' own part alone is confirmed.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_trace_against_the_closed_form import KINDS, SHAPE, closed_form, compared
from tracing_cases import CONFIGS, FAMILIES

import tonnage as tn
from tonnage.families import model_from
from tonnage.tracing.levels import levels

OF = ("llama", "gemma2", "qwen3_moe")
SETTINGS: dict[str, dict[str, Any]] = {
    "flat": {"packing": "flat"},
    "flat in eager code": {"packing": "flat", "attention": "eager"},
    "rows": {"packing": "rows"},
    "rows in eager code": {"packing": "rows", "attention": "eager"},
    "recomputed": {"packing": "flat", "recompute": "full"},
    "mixed": {"packing": "flat", "precision": "bf16-autocast"},
    "odd": {"packing": "rows", "batch": 3, "seq": 77, "packed_texts": 9},
    "flash": {"packing": "flat", "attention": "flash_attention_2", "packed_texts": 5},
    "flash, recomputed": {"packing": "flat", "attention": "flash_attention_2", "recompute": "full"},
    "flash of rows": {"packing": "rows", "attention": "flash_attention_2"},
    "one row": {"packing": "rows", "attention": "flash_attention_2", "batch": 1, "packed_texts": 7},
    "told": {
        "packing": "flat",
        "attention": "flash_attention_2",
        "stack": "trl",
        "loss": "full",
        "recompute": "none",
        "packed_texts": 6,
    },
    "a text a row": {"packing": "rows", "packed_texts": 2},
    "one text": {"packing": "flat", "batch": 1, "packed_texts": 1},
    "lora": {"packing": "flat", "lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]},
    "a mask that comes along": {"packing": "rows", "stack": "llama-factory", "recompute": "none"},
    "a mask that comes along, in eager code": {
        "packing": "rows",
        "stack": "llama-factory",
        "recompute": "none",
        "attention": "eager",
    },
    "accumulated": {"packing": "rows", "accumulate": 2},
}


OVER = {"flash": (-24, -12, -12), "one row": (-24, -12, -12), "flash, recomputed": (-12, -12, 0)}
"""The longest text's length, of each of three layers, which its function holds as long as the loss is there. [byte]"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", OF)
def test_packed_rows_are_what_the_code_does(family: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # These stacks load the model straight to the device, whose blocks a trace begins without.
    rounded, over = "stack" not in SETTINGS[setting], OVER.get(setting, (0, 0, 0))
    compared(CONFIGS[family], SHAPE | SETTINGS[setting], monkeypatch, over, rounded=rounded)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_texts_apart_as_its_code_does(
    family: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracing_cases import traced

    said = SHAPE | {"packing": "flat", "attention": attention, "packed_texts": 4}
    wanted, _ = closed_form(CONFIGS[family], said, monkeypatch)
    doubt = tn.train({"config": CONFIGS[family]}, suggest=False, replay=False, **said).extras["incomplete"]
    if any("answered as rows of one text" in words for words in doubt):
        pytest.skip("the answer says that it is not of several texts")
    found = levels(traced(CONFIGS[family], **said))
    phases = {name: range(start - 1, stop) for name, start, stop in found.traced.phases()}
    got = [max(found.requested[i] for i in phases[f"step2.{kind}"]) for kind in KINDS]
    if attention == "sdpa":
        assert wanted == got
    else:
        # The lengths that each layer's function holds: of this step, and of the last.
        held = 4 * sum(len(stack.layers) for stack in model_from(CONFIGS[family]).stacks)
        assert all(0 <= b - a <= 2 * held for a, b in zip(wanted, got, strict=True))
