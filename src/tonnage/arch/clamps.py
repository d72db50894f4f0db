"""A gate and what it weighs, both clamped.

References: https://github.com/huggingface/transformers/tree/v5.23.0/src/transformers/models/
gpt_oss/modeling_gpt_oss.py (GptOssExperts), minimax_m3_vl/modeling_minimax_m3_vl.py (MiniMaxM3VLExperts),
deepseek_v4/modeling_deepseek_v4.py (DeepseekV4Experts)
"""

from __future__ import annotations

from typing import Literal

from tonnage.arch import ops
from tonnage.arch.activation import activate
from tonnage.arch.tape import Value

Clamp = Literal["", "sigmoid", "act"]
"""``sigmoid``: the gate times the sigmoid of a multiple, times what it weighs and one (gpt-oss, MiniMax M3); ``act``:
the activation function of the gate, times what it weighs (DeepSeek-V4); empty where nothing is clamped."""


def weighed(gate: Value, up: Value, clamp: Clamp, act: str, names: list[Value]) -> Value:
    """What the gate lets through of ``up``, both clamped; ``names`` is to have what the code names meanwhile."""
    if clamp == "act":
        return ops.mul(activate(gate, act), up, "gated")
    glu = ops.mul(gate, ops.unary(ops.scaled(gate), "sigmoid", saves="output"), "swish")
    names.append(glu)
    return ops.mul(ops.shifted(up), glu, "gated")
