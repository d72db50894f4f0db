"""llama.cpp's graphs of feed-forward blocks: plain, gated, and experts.

Reference: src/llama-graph.cpp ``build_ffn`` and ``build_moe_ffn`` of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated, Plain
from tonnage.memory.ggml.graph import Node, Unmodelled

if TYPE_CHECKING:
    from tonnage.memory.ggml.layers import Builder

GROUPS: Final = 8
"""Groups of experts where a router picks by groups."""


def gated(g: Builder, b: Gated, x: Node, suffix: str = "") -> Node:
    """``down(act(gate(x)) * up(x))``."""
    if b.inner_norm is not None:
        raise Unmodelled("a norm inside the feed-forward block")
    if b.fused is not None:
        both = g.linear(f"ffn_up{suffix}", b.D, 2 * b.F, x, bias=b.bias)
        inner = both.halves()
    else:
        gate = g.linear(f"ffn_gate{suffix}", b.D, b.F, x, bias=b.bias)
        inner = gate.like("GLU", g.linear(f"ffn_up{suffix}", b.D, b.F, x, bias=b.bias))
    return g.linear(f"ffn_down{suffix}", b.F, b.D, inner, bias=b.bias)


def plain(g: Builder, b: Plain, x: Node) -> Node:
    """``down(act(up(x)))``."""
    if b.learned:
        raise Unmodelled("a learned activation function")
    x = g.linear("ffn_up", b.D, b.F, x, bias=b.bias).like("UNARY")
    if "2" in b.act or "squared" in b.act:
        x = x.like("SQR")
    return g.linear("ffn_down", b.F, b.D, x, bias=b.bias)


def experts(g: Builder, b: Experts, x: Node) -> Node:
    """The router's choice, the chosen experts, and their sum."""
    if b.used is None or b.zero or b.scored or b.after is not None:
        raise Unmodelled("a router of its own kind")
    T = x.ne[1]
    ids, weights = routed(g, b, x)
    wide = x.reshape(b.D, 1, T)
    up = matrix(g, "ffn_up_exps", b.D, b.F, b, wide, ids)
    gate = matrix(g, "ffn_gate_exps", b.D, b.F, b, wide, ids)
    out = matrix(g, "ffn_down_exps", b.F, b.D, b, gate.like("GLU", up), ids)
    out = g.graph.expand(out.like("MUL", weights))
    parts = [out.view((b.D, T, 1, 1), (out.nb[0], out.nb[2], out.nb[2] * T, out.nb[2] * T))
             for _ in range(b.used)]  # fmt: skip
    for part in parts:
        g.graph.expand(part)
    total = parts[0]
    for part in parts[1:]:
        total = g.graph.expand(total.like("ADD", part))
    if b.used == 1:
        total = total.cont()
    return total if b.shared is None else with_shared(g, b, x, total)


def matrix(g: Builder, name: str, ins: int, outs: int, b: Experts, x: Node, ids: Node) -> Node:
    """The chosen experts' matrices."""
    x = g.weight(name, ins, outs, b.E).matmul_id(x, ids)
    return x.like("ADD_ID", g.small(name, outs, b.E), ids) if b.bias else x


def routed(g: Builder, b: Experts, x: Node) -> tuple[Node, Node]:
    """Which experts, and their weights."""
    T, used = x.ne[1], b.used or 1
    scores = g.linear("ffn_gate_inp", b.D, b.E, x, bias=b.bias)
    late = g.model.model_type == "gpt_oss"
    probs = scores if late else scores.like("UNARY" if b.routing == "sigmoid" else "SOFT_MAX")
    ranked = probs.like("ADD", g.small("exp_probs_b", b.E)) if corrected(g, b) else probs
    ids = (in_groups(g, b, ranked) if b.limited else ranked).top(used)
    weights = probs.reshape(1, b.E, T).pick(ids)
    if late:
        weights = weights.reshape(used, T).like("SOFT_MAX").reshape(1, used, T)
    elif b.normalised if g.habits.normalises is None else g.habits.normalises:
        flat = weights.reshape(used, T)
        weights = flat.like("DIV", flat.sum_rows().like("CLAMP")).reshape(1, used, T)
    if scales(g, b):
        weights = weights.like("SCALE")
    return ids, g.graph.expand(weights)


def in_groups(g: Builder, b: Experts, scores: Node) -> Node:
    """Scores with the experts of all but the best groups masked.

    Models do not keep how many groups there are: DeepSeek's 8, of which 4 stay, stand for all. The tensors are no
    larger than ``E x T``.
    """
    T, each = scores.ne[1], b.E // GROUPS
    groups = scores.reshape(each, GROUPS, T)
    best = groups.reshape(1, each, GROUPS, T).pick(groups.top(2))
    total = best.reshape(2, GROUPS, T).sum_rows().reshape(GROUPS, T)
    stay = total.top(GROUPS // 2)
    return groups.like("FILL").store(groups.pick(stay), stay).reshape(b.E, T)


def corrected(g: Builder, b: Experts) -> bool:
    """Whether a learned bias decides the choice."""
    return b.correction or b.corrected is not None


def scales(g: Builder, b: Experts) -> bool:
    """Whether the weights are multiplied by a number (DeepSeek-V3)."""
    return b.routing == "sigmoid" and g.model.model_type.startswith(("deepseek", "kimi", "glm4_moe"))


def with_shared(g: Builder, b: Experts, x: Node, total: Node) -> Node:
    """The experts that every token uses."""
    shared = b.shared
    if shared is None:
        return total
    if b.shared_gate is None:
        return total.like("ADD", gated(g, shared, x, "_shexp"))
    weight = g.linear("ffn_gate_inp_shexp", b.D, 1, x)
    gate = weight.like("UNARY")
    if g.habits.gate == "divided":
        gate = gate.like("DIV", weight)
    return total.like("ADD", gated(g, shared, x, "_shexp").like("MUL", gate))
