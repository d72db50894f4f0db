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
import itertools
import sys
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from two_steps import LORA, Made, adapted, made, printed

FUNCTIONS = ("get_batch_logps", "nested_detach")
METHODS = (
    "concatenated_forward", "compute_reference_log_probs", "get_batch_loss_metrics", "compute_preference_loss",
    "simpo_loss", "odds_ratio_loss",
)  # fmt: skip
OF_KTO = ("forward", "concatenated_forward", "compute_reference_log_probs", "get_batch_loss_metrics")
CASES: list[tuple[str, int, int, dict[str, Any]]] = [
    ("dpo", 1, 512, LORA), ("dpo", 2, 512, {}), ("simpo", 1, 512, LORA), ("orpo", 2, 256, LORA),
    ("kto", 2, 512, LORA), ("kto", 3, 512, {}),
]  # fmt: skip


def methods(folder: str, kind: str) -> dict[str, Any]:
    """Its functions by name, of the trainer of pairs or of judgements."""
    path, wanted = ("train/kto/trainer.py", OF_KTO) if kind == "kto" else ("train/dpo/trainer.py", METHODS)
    names: dict[str, Any] = {
        "torch": torch, "F": torch.nn.functional, "IGNORE_INDEX": -100, "nullcontext": contextlib.nullcontext,
        "override": lambda f: f, "Mapping": Mapping, "Optional": typing.Optional, "Union": typing.Union,
        "Literal": typing.Literal,
    }  # fmt: skip
    for file, functions in (("train/trainer_utils.py", FUNCTIONS), (path, wanted)):
        text = Path(folder, file).read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name in functions:
                exec(ast.unparse(node), names)
    return {name: names[name] for name in wanted}


@contextlib.contextmanager
def judged(rows: int) -> Iterator[None]:
    """``x[mask]`` of judgements: those that are good, then the others, in turn."""
    taken = torch.Tensor.__getitem__
    # The logits, then the numbers, of the good and of the others; then the means of the good.
    order = itertools.cycle((rows - rows // 2, rows - rows // 2, rows // 2, rows // 2, rows - rows // 2))

    def getitem(x: torch.Tensor, key: Any) -> Any:
        if isinstance(key, torch.Tensor) and key.dtype is torch.bool:
            return torch.ops.aten.index.Tensor(x, [torch.empty(next(order), dtype=torch.int64, device=x.device)])
        return taken(x, key)

    torch.Tensor.__getitem__ = getitem  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.__getitem__ = taken  # type: ignore[method-assign]


def kto_loss(self: Any, chosen: Any, rejected: Any, apart: Any, good: Any, bad: Any, known: Any) -> Any:
    """The loss of TRL's trainer."""
    kl = (apart - known).mean().detach().clamp(min=0)
    good, bad = chosen - good, rejected - bad
    losses = 1 - torch.sigmoid(self.beta * (good - kl)), 1 - torch.sigmoid(self.beta * (kl - bad))
    return torch.cat(losses, 0), self.beta * good.detach(), self.beta * bad.detach(), kl


class Wrapped:
    """A model as accelerate prepares it: autocast is around its pass alone, and its logits come in fp32."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, attention_mask: Any = None, **given: Any) -> Any:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            made = self.model.forward(**given)
        return SimpleNamespace(logits=made.logits.float())


def dpo_loss(self: Any, chosen: Any, rejected: Any, reference_chosen: Any, reference_rejected: Any) -> Any:
    """The sigmoid loss of TRL's trainer."""
    logits = (chosen - rejected) - (reference_chosen - reference_rejected)
    losses = -torch.nn.functional.logsigmoid(self.beta * logits)
    return losses, (chosen - reference_chosen).detach(), (rejected - reference_rejected).detach()


def step(found: dict[str, Any], kind: str, pairs: int, tokens: int, *, adapts: bool) -> Made:
    """A model and the loss of its trainer."""

    def make() -> Any:
        model, reference = made(torch.bfloat16 if adapts else torch.float32), None
        if adapts:
            model = adapted(model)
        elif kind in ("dpo", "kto"):
            reference = Wrapped(made(torch.bfloat16).requires_grad_(False))
        trainer = SimpleNamespace(
            finetuning_args=SimpleNamespace(use_ref_model=kind == "dpo"), ref_model=reference, beta=0.1,
            loss_type="sigmoid" if kind == "dpo" else kind, ld_alpha=None, bco_gemma=0.0, ftx_gamma=0.0,
            simpo_gamma=0.5, accelerator=SimpleNamespace(unwrap_model=lambda wrapped: wrapped.model, device="cuda"),
        )  # fmt: skip
        for name, function in {**found, "dpo_loss": dpo_loss, "kto_loss": kto_loss}.items():
            setattr(trainer, name, types.MethodType(function, trainer))

        def batch() -> dict[str, Any]:
            rows = pairs if kind == "kto" else 2 * pairs
            own = ("input_ids", "attention_mask", "labels")
            names = (*own, *(f"kl_{name}" for name in own)) if kind == "kto" else own
            found = {name: torch.zeros(rows, tokens, dtype=torch.int64) for name in names}
            return {**found, **({"kto_tags": torch.zeros(rows, dtype=torch.bool)} if kind == "kto" else {})}

        def run(batch: dict[str, Any]) -> Any:
            with judged(pairs):
                return trainer.get_batch_loss_metrics(Wrapped(model), batch)[0]

        return model, batch, run

    return make


def cases(folder: str) -> Iterator[tuple[str, dict[str, Any], Made]]:
    """Names, keys of a workload, and what is run; of rows, those of DPO."""
    for kind, pairs, tokens, more in CASES:
        said: dict[str, Any] = {
            "stack": "llama-factory", "objective": kind, "batch": pairs, "seq": tokens, "optimizer": "adamw-loop",
            "replay": False, "recompute": "none", **more,
        }  # fmt: skip
        if "--rows" not in sys.argv or kind == "dpo":
            name = f"llama-factory-{kind}-{pairs}x{tokens}{'-lora' if more else ''}"
            yield name, said, step(methods(folder, kind), kind, pairs, tokens, adapts=bool(more))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    what = (
        "LLaMA-Factory v0.9.5 on torch {torch}, transformers {transformers}: two whole steps of its trainer's functions"
    )
    printed(cases(sys.argv[1]), what)
