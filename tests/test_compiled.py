"""Training with torch.compile and with flex attention: by hand, and by the laws that both obey."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import tonnage as tn
from tonnage.arch.tape import Storage
from tonnage.memory.compiled import Compiled
from tonnage.memory.partition import Graph, kept
from tonnage.memory.passes import Pass
from tonnage.timeline import Component

LLAMA = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1376, "num_attention_heads": 8,
    "num_key_value_heads": 2, "num_hidden_layers": 3, "vocab_size": 1000, "max_position_embeddings": 1024,
}  # fmt: skip
B, T, D, F, N, K, H = 2, 256, 512, 1376, 8, 2, 64


def passed(kernel: Any = "flash", compiled: Compiled | None = None, **said: Any) -> Pass:
    return Pass(
        tn.load({"config": LLAMA}), batch=B, tokens=T, kernel=kernel, weights="bf16", autocast=None, recompute=None,
        compiled=compiled, **said,
    )  # fmt: skip


def test_a_layer_of_llama_by_hand() -> None:
    """Inputs of matrices, what attention and the gate take, and a number a row of each norm and head."""
    account = passed(compiled=Compiled(within=True)).layers[1]
    stream = 4 * D  # layer input, both norms' outputs, the sum in the middle
    heads = 2 * N * H + 2 * K * H  # queries and output, keys and values
    inner = 3 * F  # gate, up, their product
    rows = 4 * (2 + N)  # in fp32: of two norms, and the log-sum-exp of each head
    assert account.keeps_input
    saved = account.kept().requested + account.input.nbytes
    assert saved == B * T * (2 * (stream + heads + inner) + rows) + 16 + 8


@pytest.mark.parametrize("within", [True, False])
def test_fewer_buffers_never_take_more(within: bool) -> None:
    tops = []
    for buffers in ("fewest", "usual", "most"):
        p = passed(compiled=Compiled(within=within, buffers=buffers))  # type: ignore[arg-type]
        tops.append([(a.forward.peak.allocated, a.backward.peak.allocated) for a in (p.layers[1], p.tail)])
    for fewer, more in pairwise(tops):
        assert all(a <= c and b <= d for (a, b), (c, d) in zip(fewer, more, strict=True))


def test_compiled_code_keeps_less_and_leaves_the_same_gradients() -> None:
    eager, compiled = passed(), passed(compiled=Compiled(within=True))
    for a, b in zip((*eager.layers, eager.tail), (*compiled.layers, compiled.tail), strict=True):
        assert b.kept().requested < a.kept().requested
        assert b.grown().requested == a.grown().requested


def test_a_step_that_adds_into_older_gradients_has_all_new_ones_at_once_in_one_graph() -> None:
    one = passed(compiled=Compiled(within=True), accumulated=True).layers[1]
    apart = passed(compiled=Compiled(), accumulated=True).layers[1]
    assert one.grown().requested > 0
    assert apart.grown().requested == 0


def test_a_cut_goes_through_the_cheapest_tensors() -> None:
    """Of two ways to make again what is asked for, the smaller tensor is kept."""
    from tonnage.arch.compiled import CompiledTape, Flow

    tape = CompiledTape(grad=True, weights="bf16")

    def storage(label: str, n: int) -> Storage:
        value = tape.new(label, (("X", n),), "bf16")
        held.append(value)
        return value.storage

    held: list[Any] = []
    x, small, wide, seed, grad = (storage(*s) for s in (("x", 64), ("half", 32), ("wide", 256), ("g", 8), ("d", 8)))
    flows = [
        Flow("matrix", [x], [small]),
        Flow("fused", [small], [wide]),
        Flow("fused", [seed], [grad], reads=[wide], backward=True),
    ]
    assert kept(Graph(flows, [x], [])) == [small]
    # What a product of matrices reads in the backward pass is never made again.
    flows[2] = Flow("matrix", [seed], [grad], reads=[wide], backward=True)
    assert kept(Graph(flows, [x], [])) == [wide]


def ranged(found: tn.Answer) -> list[Component]:
    return [c for c in found.fullest.components if c.low_bytes != c.high_bytes and c.tier == "requested"]


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_range_is_on_a_line_that_says_why(recompute: str) -> None:
    found = tn.train("llama-3.2-1b", batch=2, seq=2048, precision="bf16", compile=True, recompute=recompute)
    (line,) = ranged(found)
    assert line.trust == "assumed"
    assert line.low_bytes <= line.bytes <= line.high_bytes
    assert "write over" in line.why
    assert found.fullest.tier("allocated", "low_bytes") < found.fullest.tier("allocated", "high_bytes")
    assert not ranged(tn.train("llama-3.2-1b", batch=2, seq=2048, precision="bf16", recompute=recompute))


def test_a_checkpointed_layer_that_is_compiled_leaves_its_input_alone() -> None:
    from tonnage.memory.recompute import Recompute

    found = Pass(
        tn.load({"config": LLAMA}), batch=B, tokens=T, kernel="flash", weights="bf16", autocast=None,
        recompute=Recompute(), compiled=Compiled(),
    ).layers[1]  # fmt: skip
    assert found.left_behind() == []
    assert found.recompute is not None
    assert found.recompute.peak.requested >= found.kept().requested


def test_a_selective_checkpoint_that_is_compiled_keeps_what_it_names() -> None:
    """By hand: of seven products the first, third, fifth and seventh, what attention makes, and the input; of these
    nothing reads the last product again."""
    from tonnage.memory.recompute import settled

    found = Pass(
        tn.load({"config": LLAMA}), batch=B, tokens=T, kernel="flash", weights="bf16", autocast=None,
        recompute=settled("selective"), compiled=Compiled(),
    ).layers[1]  # fmt: skip
    heads = N * H + K * H  # queries, values
    rows = 4 * N  # in fp32: the log-sum-exp of each head
    assert found.keeps_input
    left = sum(s.nbytes for s in found.left_behind())
    assert left == B * T * (2 * (heads + N * H + F) + rows) + 16 + 8
    assert found.recompute is not None


def test_flex_attention_by_hand() -> None:
    """Queries, keys, values, output and a number a row; eight tensors of block numbers, which the layers share."""
    flash, flex = passed(), passed("flex")
    assert flash.layers[1].kept().requested - flex.layers[1].kept().requested == 16 + 8
    blocks = [s for s in flex.shared if "blocks" in s.label]
    n = T // 128
    assert sorted(s.nbytes for s in blocks) == sorted([4 * B * n, 4 * B * n * n] * 4)
    assert set(blocks) <= flex.layers[0].shares


def test_flex_attention_within_compiled_layers() -> None:
    a, b = passed("flash", Compiled(within=True)).layers[1], passed("flex", Compiled(within=True)).layers[1]
    assert a.kept().requested - b.kept().requested == 16 + 8


@pytest.mark.parametrize("key", ["precision", "recompute", "batch"])
def test_flex_attention_is_answered_wherever_flash_attention_is(key: str) -> None:
    said: dict[str, Any] = {"precision": "bf16-mixed", "recompute": "full", "batch": 3}
    flash = tn.train("llama-3.2-1b", seq=512, attention="flash", **{key: said[key]})
    flex = tn.train("llama-3.2-1b", seq=512, attention="flex", **{key: said[key]})
    ratio = flex.fullest.tier("requested") / flash.fullest.tier("requested")
    assert 0.99 < ratio < 1.01
