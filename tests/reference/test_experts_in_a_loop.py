"""Experts that run one after the other, on a real CPU with routers that are told what to choose: to the byte.

And by grouped products, which take the same whatever the router chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from tracing_cases import CONFIGS

import tonnage as tn
from tonnage.arch.experts_loop import spread
from tonnage.estimate.training import Step
from tonnage.tracing.inplace import InPlace
from tonnage.tracing.levels import levels
from tonnage.tracing.recorder import READS, Recorder
from tonnage.tracing.run import uncollected
from tonnage.tracing.stream import BUFFER, INPUT, PARAMETER, Traced

KINDS = ("forward", "backward", "optimizer")
EAGER = {"attention": "eager"}
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
FAMILIES = {
    "mixtral": (8, 2), "qwen3_moe": (16, 4), "deepseek_v3": (16, 4), "qwen2_moe": (16, 4), "granitemoe": (8, 2),
    "gpt_oss": (16, 4),
}  # fmt: skip
"""By family: experts, and how many a token uses."""
SHAPES: tuple[dict[str, Any], ...] = (
    {"precision": "fp32", "batch": 2, "seq": 24},
    {"precision": "bf16", "batch": 1, "seq": 40, "recompute": "full"},
)


class Real(Recorder):
    """A recorder of tensors with data, whose numbers are read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chosen(tokens: int, experts: int, used: int, how: str) -> torch.Tensor:
    """Experts of every token."""
    if how == "even":
        return (torch.arange(tokens * used) % experts).view(tokens, used)
    if how == "same":
        return torch.arange(experts - used, experts).repeat(tokens, 1)
    if how == "late":
        # All the same, below the last expert, which a single token chooses in place of the lowest.
        found = torch.arange(experts - used - 1, experts - 1).repeat(tokens, 1)
        found[0, 0] = experts - 1
        return found
    torch.manual_seed(0)
    return torch.rand(tokens, experts).topk(used).indices


def told(model: Any, rows: torch.Tensor) -> None:
    """Every layer's experts run as these rows say."""
    for module in model.modules():
        if isinstance(getattr(module, "gate_up_proj", None), torch.nn.Parameter) and module.gate_up_proj.dim() == 3:

            def forward(hidden: Any, index: Any, weights: Any, run: Any = module.forward) -> Any:
                index.data.copy_(rows.view(index.shape))
                return run(hidden, index, weights)

            module.forward = forward


def measured(family: str, said: dict[str, Any], how: str, implementation: str) -> list[int]:
    """The most that tensors take in each phase of the second step. [byte]"""
    config = transformers.AutoConfig.for_model(**CONFIGS[family])
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=FORMATS[said["precision"]]
    ).train()
    model.config.use_cache = False
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            # As loading leaves it.
            buffer.data = buffer.data.float()
    model.set_experts_implementation(implementation)
    rows = chosen(said["batch"] * said["seq"], *FAMILIES[family], how)
    told(model, rows)
    if "recompute" in said:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    ids = torch.randint(0, 100, (said["batch"], said["seq"]))
    r = Real(frozenset({"cpu"}))
    r.inplace = InPlace()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        r.there(tensor, PARAMETER if isinstance(tensor, torch.nn.Parameter) else BUFFER, name)
    r.there(ids, INPUT, "")
    # The test's own.
    r._known[rows.untyped_storage()._cdata] = -1
    loss = None
    with uncollected(), r:
        for number in (1, 2):
            r.enter(f"step{number}.forward")
            loss = model(input_ids=ids, labels=ids).loss
            r.enter(f"step{number}.backward")
            loss.backward()
            r.enter(f"step{number}.optimizer")
            optimizer.step()
            optimizer.zero_grad()
        r.enter("end")
    return peaks(r)


def peaks(r: Recorder) -> list[int]:
    """The most that tensors take in each phase of the second step. [byte]"""
    seen = levels(Traced(list(r.born), list(r.order), list(r.marks), {}))
    parts = {name: range(start - 1, stop) for name, start, stop in seen.traced.phases() if stop > start}
    return [max(seen.requested[i] for i in parts[f"step2.{kind}"]) for kind in KINDS]


def predicted(
    config: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[int]], Any]:
    """The same of the closed form: of the value, then of each end of the range; and the result. [byte]"""
    found: list[list[int]] = []
    moments = Step.moments

    def watched(self: Step) -> Any:
        highest = dict.fromkeys(KINDS, 0)
        for m in moments(self):
            kind = "optimizer" if m.name == "optimizer step" else "backward" if "backward" in m.name else "forward"
            highest[kind] = max(highest[kind], m.highest)
            yield m
        found.append([highest[kind] for kind in KINDS])

    monkeypatch.setattr(Step, "moments", watched)
    result = tn.train({"config": config}, optimizer="sgd", replay=False, suggest=False, **said)
    monkeypatch.undo()
    return found, result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", SHAPES, ids=lambda s: s["precision"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_ends_of_the_range_are_what_such_routers_make(
    family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, result = predicted(CONFIGS[family], {**EAGER, "experts": "eager", **said}, monkeypatch)
    real = [measured(family, said, how, "eager") for how in ("even", "same", "late")]
    assert all(peaks in found for peaks in real)
    low, high = (result.ranks[0].tier("requested", bound) for bound in ("low_bytes", "high_bytes"))
    most = [max(peaks) for peaks in real]
    assert (low, high) == (min(most), max(most))
    assert result.ranks[0].tier("requested") == most[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_a_router_that_was_not_told_lies_within(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = SHAPES[0]
    _, result = predicted(CONFIGS[family], {**EAGER, "experts": "eager", **said}, monkeypatch)
    low, high = (result.ranks[0].tier("requested", bound) for bound in ("low_bytes", "high_bytes"))
    assert low <= max(measured(family, said, "by chance", "eager")) <= high


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["even", "same"])
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_grouped_products_take_the_same_whatever_is_chosen(
    family: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, result = predicted(CONFIGS[family], {**EAGER, **SHAPES[0]}, monkeypatch)
    assert measured(family, SHAPES[0], how, "grouped_mm") in found
    assert not any(c.name == "other:routing" for c in result.ranks[0].components)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", SHAPES, ids=lambda s: s["precision"])
@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3", "gpt_oss"])
def test_matrices_that_are_copied_for_every_token(
    family: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, result = predicted(CONFIGS[family], {**EAGER, "experts": "batched_mm", **said}, monkeypatch)
    assert all(measured(family, said, how, "batched_mm") in found for how in ("even", "same"))
    assert not any(c.name == "other:routing" for c in result.ranks[0].components)


@pytest.mark.filterwarnings("ignore")
def test_a_ratio_that_was_said_is_that_of_the_fullest(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, (experts, used) = 48, FAMILIES["mixtral"]
    rows = spread(tokens, used, experts, 2.0)
    assert rows == [24, 24, 24, 24]
    found, result = predicted(
        CONFIGS["mixtral"], {**EAGER, "experts": "eager", "expert_imbalance": 2.0, **SHAPES[0]}, monkeypatch
    )
    half = torch.cat([torch.tensor([[4, 5]]).repeat(24, 1), torch.tensor([[6, 7]]).repeat(24, 1)])
    monkeypatch.setitem(globals(), "chosen", lambda *_: half)
    assert measured("mixtral", SHAPES[0], "half", "eager") in found
    assert not any(c.low_bytes != c.high_bytes for c in result.ranks[0].components if c.tier == "requested")
