"""Trace the loss of TRL's SFTTrainer from 1.7 to 1.14, and print each peak beside the closed form.

    python scripts/trace_trl.py FOLDER            a table: case, traced, answered, difference
    python scripts/trace_trl.py FOLDER --rows     rows as accuracy/cases/stacks.jsonl has them

FOLDER is ``trl`` of 1.12.0 as its wheel unpacks. Needs torch 2.13, transformers, peft and tonnage. Of its
``sft_trainer.py`` two functions run as they are, but that no data is looked at: every label but the first of each
sequence counts. Two whole steps of a model of two layers run on tensors without data.
"""

from __future__ import annotations

import ast
import contextlib
import json
import sys
import warnings
from pathlib import Path
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
NAMES = ("_chunk", "_chunked_cross_entropy_loss")
UNSEEN = {"if n_valid_tensor == 0:": "if False:", "range(0, n_padded, chunk_size)": "range(0, len(hidden), chunk_size)"}
FORMATS = {
    "fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16-autocast": (torch.bfloat16, torch.bfloat16),
}  # fmt: skip
LORA = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("bf16", 1, 2048, {}), ("bf16", 2, 1024, {}), ("bf16-mixed", 2, 1024, {}), ("fp32", 1, 1024, {}),
    ("bf16-autocast", 2, 1024, {}), ("bf16", 1, 1024, LORA),
]  # fmt: skip


def loss_of(folder: str) -> Any:
    """TRL's function."""
    names: dict[str, Any] = {
        "torch": torch, "F": torch.nn.functional, "maybe_gather_lm_head_ctx": lambda *a: contextlib.nullcontext(),
    }  # fmt: skip
    text = Path(folder, "trainer", "sft_trainer.py").read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in NAMES:
            code = ast.unparse(node)
            for seen, unseen in UNSEEN.items():
                code = code.replace(seen, unseen)
            exec(code, names)
    return names[NAMES[1]]


def peak(loss_of_chunks: Any, precision: str, batch: int, tokens: int, *, adapts: bool) -> int:
    """The most that was alive in the second of two steps. [byte]"""
    form, autocast = FORMATS[precision]
    said = {k: v for k, v in CONFIG.items() if k not in ("model_type", "torch_dtype")}
    with tn.trace(item=1.0) as t:
        torch.set_default_dtype(form)
        try:
            model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**said, attn_implementation="sdpa"))
        finally:
            torch.set_default_dtype(torch.float32)
        if adapts:
            import peft

            how = peft.LoraConfig(r=LORA["lora_rank"], target_modules=LORA["lora_targets"])
            model = peft.get_peft_model(model, how).get_base_model()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=False)

        def forward(ids: Any) -> Any:
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            count = torch.ones(())
            return loss_of_chunks(hidden, model.lm_head.weight, 256, labels=ids, num_items_in_batch=count)[0]

        for number in (1, 2):
            t.step(number)
            ids = torch.zeros(batch, tokens, dtype=torch.int64)
            with torch.autocast("cuda", dtype=autocast) if autocast else contextlib.nullcontext():
                loss = forward(ids)
            loss.backward()
            loss = loss.detach()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return max(levels(t.trace()).requested)


def main() -> None:
    warnings.filterwarnings("ignore")
    found = loss_of(sys.argv[1])
    for precision, batch, tokens, more in CASES:
        name = f"trl-chunks-{precision}-{batch}x{tokens}{'-lora' if more else ''}"
        said: dict[str, Any] = {
            "precision": precision, "dtype": "fp32" if precision in ("fp32", "bf16-mixed") else "bf16", "batch": batch,
            "seq": tokens, "optimizer": "adamw-loop", "replay": False, "loss": "trl-chunks", **more,
        }  # fmt: skip
        most = peak(found, precision, batch, tokens, adapts=bool(more))
        if "--rows" in sys.argv:
            row = {"id": name, "model": {"config": CONFIG}, "workload": {"task": "train", **said},
                   "measured": {"value": most, "unit": "B", "counter": "requested"},
                   "source": f"trl 1.12.0 on torch {torch.__version__}, transformers {transformers.__version__}: two "
                   "whole steps traced with fake tensors, the most that was alive; not rounded",
                   "exactness": "traced", "seen": True}  # fmt: skip
            print(json.dumps(row))
        else:
            answered = tn.train({"config": CONFIG}, suggest=False, **said).fullest.tier("requested")
            print(f"{name:30s} {most:>14,} {answered:>14,} {answered - most:>+10,}")


if __name__ == "__main__":
    main()
