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
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from two_steps import LORA, Made, adapted, made, printed

NAMES = ("_chunk", "_chunked_cross_entropy_loss")
UNSEEN = {"if n_valid_tensor == 0:": "if False:", "range(0, n_padded, chunk_size)": "range(0, len(hidden), chunk_size)"}
FORMATS = {
    "fp32": (torch.float32, None), "bf16": (torch.bfloat16, None), "bf16-mixed": (torch.float32, torch.bfloat16),
    "bf16-autocast": (torch.bfloat16, torch.bfloat16),
}  # fmt: skip
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


def step(loss_of_chunks: Any, precision: str, batch: int, tokens: int, *, adapts: bool) -> Made:
    """A model and its loss of chunks."""
    form, autocast = FORMATS[precision]

    def make() -> Any:
        model = adapted(made(form)).get_base_model() if adapts else made(form)

        def run(ids: Any) -> Any:
            with torch.autocast("cuda", dtype=autocast) if autocast else contextlib.nullcontext():
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
                count = torch.ones(())
                return loss_of_chunks(hidden, model.lm_head.weight, 256, labels=ids, num_items_in_batch=count)[0]

        return model, lambda: torch.zeros(batch, tokens, dtype=torch.int64), run

    return make


def cases(found: Any) -> Iterator[tuple[str, dict[str, Any], Made]]:
    """Names, keys of a workload, and what is run."""
    for precision, batch, tokens, more in CASES:
        said: dict[str, Any] = {
            "precision": precision, "dtype": "fp32" if precision in ("fp32", "bf16-mixed") else "bf16", "batch": batch,
            "seq": tokens, "optimizer": "adamw-loop", "replay": False, "loss": "trl-chunks", **more,
        }  # fmt: skip
        name = f"trl-chunks-{precision}-{batch}x{tokens}{'-lora' if more else ''}"
        yield name, said, step(found, precision, batch, tokens, adapts=bool(more))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    printed(cases(loss_of(sys.argv[1])), "trl 1.12.0 on torch {torch}, transformers {transformers}: two whole steps")
