"""Trace LLaMA-Factory's own preference trainers, and print each peak beside the closed form.

    python scripts/trace_llama_factory.py FOLDER            a table: case, traced, answered, difference
    python scripts/trace_llama_factory.py FOLDER --rows     rows as accuracy/cases/stacks.jsonl has them

FOLDER is ``src/llamafactory`` of a checkout of v0.9.5. Needs torch 2.13, transformers, peft and tonnage. Of
``train/dpo/trainer.py`` and ``train/trainer_utils.py`` the functions below run as they are; TRL's loss of DPO is
written out, accelerate's cast of the logits is a call, and no mask is handed on, as sequences need no padding. Two
whole steps of a model of two layers run on tensors without data. A trace sees no kernel's own copies: where these
decide which instant is the highest (ORPO and SimPO, printed alone), an answer's tensors are those of another instant.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
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
FUNCTIONS = ("get_batch_logps", "nested_detach")
METHODS = (
    "concatenated_forward", "compute_reference_log_probs", "get_batch_loss_metrics", "compute_preference_loss",
    "simpo_loss", "odds_ratio_loss",
)  # fmt: skip
LORA = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("dpo", 1, 512, LORA), ("dpo", 2, 512, {}), ("simpo", 1, 512, LORA), ("orpo", 2, 256, LORA),
]  # fmt: skip


def methods(folder: str) -> dict[str, Any]:
    """Its functions by name."""
    names: dict[str, Any] = {
        "torch": torch, "F": torch.nn.functional, "IGNORE_INDEX": -100, "nullcontext": contextlib.nullcontext,
        "override": lambda f: f, "Mapping": Mapping, "Optional": typing.Optional, "Union": typing.Union,
        "Literal": typing.Literal,
    }  # fmt: skip
    for path, wanted in (("train/trainer_utils.py", FUNCTIONS), ("train/dpo/trainer.py", METHODS)):
        text = Path(folder, path).read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name in wanted:
                exec(ast.unparse(node), names)
    return {name: names[name] for name in METHODS}


class Wrapped:
    """A model as accelerate prepares it: its logits come in fp32."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, attention_mask: Any = None, **given: Any) -> Any:
        return SimpleNamespace(logits=self.model.forward(**given).logits.float())


def dpo_loss(self: Any, chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any) -> Any:
    """The sigmoid loss of TRL's trainer."""
    logits = (chosen - rejected) - (reference_chosen - reference_rejected)
    losses = -torch.nn.functional.logsigmoid(self.beta * logits)
    return losses, (chosen - reference_chosen).detach(), (rejected - reference_rejected).detach()


def made(form: Any) -> Any:
    """The model in this format."""
    said = {k: v for k, v in CONFIG.items() if k not in ("model_type", "torch_dtype")}
    torch.set_default_dtype(form)
    try:
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**said, attn_implementation="sdpa"))
    finally:
        torch.set_default_dtype(torch.float32)


def peak(found: dict[str, Any], kind: str, pairs: int, tokens: int, *, adapts: bool) -> int:
    """The most that was alive in the second of two steps. [byte]"""
    with tn.trace(item=1.0) as t:
        model, reference = made(torch.bfloat16 if adapts else torch.float32), None
        if adapts:
            import peft

            how = peft.LoraConfig(r=LORA["lora_rank"], target_modules=LORA["lora_targets"])
            model = peft.get_peft_model(model, how)
        elif kind == "dpo":
            reference = Wrapped(made(torch.bfloat16).requires_grad_(False))
        trainer = SimpleNamespace(
            finetuning_args=SimpleNamespace(use_ref_model=kind == "dpo"), ref_model=reference, beta=0.1,
            loss_type="sigmoid" if kind == "dpo" else kind, ld_alpha=None, bco_gemma=0.0, ftx_gamma=0.0,
            simpo_gamma=0.5, accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped.model, device="cuda"),
        )  # fmt: skip
        for name, function in {**found, "dpo_loss": dpo_loss}.items():
            setattr(trainer, name, types.MethodType(function, trainer))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=False)
        for number in (1, 2):
            t.step(number)
            names = ("input_ids", "attention_mask", "labels")
            batch = {name: torch.zeros(2 * pairs, tokens, dtype=torch.int64) for name in names}
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss, _ = trainer.get_batch_loss_metrics(Wrapped(model), batch)
            loss.backward()
            loss = loss.detach()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return max(levels(t.trace()).requested)


def main() -> None:
    warnings.filterwarnings("ignore")
    found = methods(sys.argv[1])
    for kind, pairs, tokens, more in CASES:
        name = f"llama-factory-{kind}-{pairs}x{tokens}{'-lora' if more else ''}"
        said: dict[str, Any] = {
            "stack": "llama-factory", "objective": kind, "batch": pairs, "seq": tokens, "optimizer": "adamw-loop",
            "replay": False, "recompute": "none", **more,
        }  # fmt: skip
        most = peak(found, kind, pairs, tokens, adapts=bool(more))
        if "--rows" in sys.argv and kind == "dpo":
            row = {"id": name, "model": {"config": CONFIG}, "workload": {"task": "train", **said},
                   "measured": {"value": most, "unit": "B", "counter": "requested"},
                   "source": f"LLaMA-Factory v0.9.5 on torch {torch.__version__}, transformers "
                   f"{transformers.__version__}: two whole steps of its trainer's functions traced with fake tensors, "
                   "the most that was alive; not rounded",
                   "exactness": "traced", "seen": True}  # fmt: skip
            print(json.dumps(row))
        elif "--rows" not in sys.argv:
            answered = tn.train({"config": CONFIG}, suggest=False, **said).fullest.tier("requested")
            print(f"{name:32s} {most:>14,} {answered:>14,} {answered - most:>+10,}")


if __name__ == "__main__":
    main()
