"""Two whole steps of a small model on tensors without data, and what is printed of them, for scripts that trace.

A script has cases, and for each a function that makes a model in the trace and hands it back with its loss.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers

import tonnage as tn
from tonnage.tracing.levels import levels

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 8000, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
LORA = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}
Made = Callable[[], tuple[Any, Callable[[], Any], Callable[[Any], Any]]]
"""Makes a model, and what makes a batch and computes its loss."""


def made(form: Any) -> Any:
    """The model in this format."""
    said = {k: v for k, v in CONFIG.items() if k not in ("model_type", "torch_dtype")}
    torch.set_default_dtype(form)
    try:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**said, attn_implementation="sdpa"))
    finally:
        torch.set_default_dtype(torch.float32)


def adapted(model: Any) -> Any:
    """The model with adapters."""
    import peft

    how = peft.LoraConfig(r=LORA["lora_rank"], target_modules=LORA["lora_targets"])
    return peft.get_peft_model(model, how)


def peak(make: Made) -> int:
    """The most that was alive in the second of two steps. [byte]"""
    with tn.trace(item=1.0) as t:
        model, new, run = make()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=False)
        for number in (1, 2):
            t.step(number)
            # The loop names a batch until the next one is there.
            batch = new()
            loss = run(batch)
            loss.backward()
            loss = loss.detach()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        del batch
    return max(levels(t.trace()).requested)


def printed(cases: Iterable[tuple[str, dict[str, Any], Made]], what: str) -> None:
    """A table of cases, or with ``--rows`` rows as accuracy/cases/stacks.jsonl has them.

    Args:
        cases: names, keys of a workload, and what makes model and loss.
        what: was traced, of which release.
    """
    for name, said, make in cases:
        most = peak(make)
        if "--rows" in sys.argv:
            row = {"id": name, "model": {"config": CONFIG}, "workload": {"task": "train", **said},
                   "measured": {"value": most, "unit": "B", "counter": "requested"},
                   "source": f"{what.format(torch=torch.__version__, transformers=transformers.__version__)} traced "
                   "with fake tensors, the most that was alive; not rounded",
                   "exactness": "traced", "seen": True}  # fmt: skip
            print(json.dumps(row))
        else:
            answered = tn.train({"config": CONFIG}, suggest=False, **said).fullest.tier("requested")
            print(f"{name:36s} {most:>14,} {answered:>14,} {answered - most:>+10,}")
