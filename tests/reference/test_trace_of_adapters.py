"""Ways of fine-tuning that peft has no rank for: its own modules, traced, against the closed form."""

from __future__ import annotations

from typing import Any

import pytest
from test_trace_against_the_closed_form import SHAPE, compared
from tracing_cases import CONFIGS

peft = pytest.importorskip("peft")

PROMPT = {"adapter": "prompt", "virtual_tokens": 20}
ENCODER = {"adapter": "p-tuning", "virtual_tokens": 20, "encoder_hidden": 128}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"batch": 1}, {"recompute": "full"}], ids=["plain", "one sequence", "recomputed"])
@pytest.mark.parametrize("adapter", [PROMPT, ENCODER], ids=["prompt", "p-tuning"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_trained_tokens_are_what_peft_makes_of_them(
    family: str, adapter: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracing_cases

    from tonnage.tracing import tuning

    tokens = adapter["virtual_tokens"]
    config = (
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
        if adapter is PROMPT
        else peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_hidden_size=128)
    )
    plain = tracing_cases.traced

    def traced(model: dict[str, Any], **asked: Any) -> Any:
        # The tracer puts LoRA into a model; here, what peft makes of this config stands for it.
        rest = {key: value for key, value in asked.items() if key not in adapter}
        return plain(model, layers="all", lora_rank=1, lora_targets=["q_proj"], **rest)

    monkeypatch.setattr(tuning, "tuned", lambda model, job: peft.get_peft_model(model, config))
    monkeypatch.setattr(tracing_cases, "traced", traced)
    compared(CONFIGS[family], SHAPE | said | adapter, monkeypatch)
