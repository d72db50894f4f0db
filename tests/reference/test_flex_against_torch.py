"""Flex attention as transformers calls it, beside torch's own operation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
import transformers
from partitioned import _partitioned, kept
from torch._subclasses import FakeTensorMode
from torch.nn.attention import flex_attention as package
from transformers.integrations import flex_attention as integration

import tonnage as tn
from tonnage.arch.flex import mask
from tonnage.arch.tape import Tape
from tonnage.estimate.flexible import WITH_FLEX
from tonnage.memory.passes import Pass

CONFIG: Final = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2, "vocab_size": 1000,
    "max_position_embeddings": 2048,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("batch", "queries"), [(1, 128), (2, 300), (3, 1024)])
def test_the_mask_is_eight_tensors_of_block_numbers(batch: int, queries: int) -> None:
    made = package.create_block_mask(lambda b, h, q, k: q >= k, batch, None, queries, queries, device="cpu")
    theirs = [t for t in made.as_tuple() if isinstance(t, torch.Tensor)]
    tape = Tape(grad=True, weights="bf16")
    ours = mask(tape, batch, queries, queries)
    assert sorted(t.numel() * t.element_size() for t in theirs) == sorted(v.storage.nbytes for v in ours)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("heads", "shared"), [(8, 4), (6, 2), (12, 12)])
@pytest.mark.parametrize(("batch", "tokens"), [(2, 256), (1, 640)])
def test_what_the_operation_keeps(heads: int, shared: int, batch: int, tokens: int, monkeypatch: Any) -> None:
    """Of transformers' own function, through AOTAutograd: heads are repeated where their number is no power of two."""
    monkeypatch.setattr(package, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    # A CPU has no kernel for the backward pass; none is run here.
    monkeypatch.setattr(package, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch, "compile", lambda function=None, **_: function)
    monkeypatch.setattr(integration, "compile_friendly_flex_attention", _called)
    width = 240 // heads if heads == 6 else 256 // heads if heads == 8 else 252 // heads
    hidden = width * heads
    with FakeTensorMode(allow_non_fake_inputs=True):
        blocks = [-(-tokens // 128)] * 2
        numbers = torch.zeros(batch, 1, blocks[0], dtype=torch.int32)
        indices = torch.zeros(batch, 1, *blocks, dtype=torch.int32)
        q = torch.randn(batch, tokens, heads, width, dtype=torch.bfloat16, requires_grad=True)
        k, v = (torch.randn(batch, tokens, shared, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))

        def run(_: Any, q: Any, k: Any, v: Any, numbers: Any, indices: Any) -> Any:
            shown = package.BlockMask(
                (tokens, tokens), numbers, indices, numbers, indices, numbers, indices, numbers, indices, (128, 128),
                lambda b, h, q, k: q >= k,
            )  # fmt: skip
            # Queries and keys are made by rotation, values by a product that is a view of its own.
            turned = [torch.sin(t).transpose(1, 2) for t in (q, k)]
            module = SimpleNamespace(training=True)
            return integration.flex_attention_forward(module, *turned, torch.sin(v).transpose(1, 2), shown)[0]

        graphs = _partitioned(run, {}, (q, k, v, numbers, indices), draws=False)
        theirs = sorted(n for name, n in kept(graphs).items() if not name.startswith("primals"))
    config = {**CONFIG, "hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": shared}
    model = tn.load({"config": config})
    found = Pass(
        model, batch=batch, tokens=tokens, kernel="flex", weights="bf16", autocast=None, recompute=None
    ).layers[0]
    names = ["rotated", "attention output", "log-sum-exp"]
    names += ["repeated heads"] if heads & (heads - 1) and shared != heads else ["self_attn.v_proj.weight output"]
    own = [s for s in found.saved if s.label in names]
    if heads & (heads - 1) and shared != heads:
        # The keys as they were before they were repeated are let go of.
        assert sum(s.label == "rotated" for s in own) == 1
    assert sorted(s.nbytes for s in own) == theirs


def _called(query: Any, key: Any, value: Any, training: bool = False, **kwargs: Any) -> Any:
    return package.flex_attention(query, key, value, **kwargs)


@pytest.mark.parametrize("kind", sorted(WITH_FLEX))
def test_the_types_are_those_that_transformers_runs_so(kind: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])._supports_flex_attn
