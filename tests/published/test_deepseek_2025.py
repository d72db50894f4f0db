"""DeepSeek-AI 2025, "Insights into DeepSeek-V3: Scaling Challenges and Reflections on Hardware for AI Architectures"
(ISCA 2025, arXiv:2505.09343), table 1: KV cache of one token in bf16."""

from __future__ import annotations

import pytest

from tonnage import api
from tonnage.formats import FORMATS
from tonnage.memory.cache import state_bytes


@pytest.mark.parametrize(
    ("name", "kilobytes"), [("deepseek-v3", 70.272), ("qwen2.5-72b", 327.680), ("llama-3.1-405b", 516.096)]
)
def test_table_1(name: str, kilobytes: float) -> None:
    one = state_bytes(api.load(name), 1, 1, FORMATS["bf16"]).requested
    ten = state_bytes(api.load(name), 1, 10, FORMATS["bf16"]).requested
    assert one == round(kilobytes * 1000)
    assert ten == 10 * one
