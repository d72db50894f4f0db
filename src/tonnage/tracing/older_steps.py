"""Steps of older releases of torch, for traces: what they make for a moment, as this release's operations."""

from __future__ import annotations

from typing import Any

import torch


class ByFormat(torch.optim.AdamW):  # type: ignore[misc]
    """AdamW as torch 2.0 steps with foreach: denominators of their own beside the roots."""

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Any = None) -> None:
        """One step.

        Reference: https://github.com/pytorch/pytorch/blob/v2.0.1/torch/optim/adamw.py (_multi_tensor_adamw).
        """
        formats: dict[Any, list[Any]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    formats.setdefault(p.dtype, []).append(p)
        for own in formats.values():
            for p in own:
                if not self.state[p]:
                    self.state[p] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            first, second = ([self.state[p][name] for p in own] for name in ("exp_avg", "exp_avg_sq"))
            grads = [p.grad for p in own]
            torch._foreach_lerp_(first, grads, 0.1)
            torch._foreach_addcmul_(second, grads, grads, 0.001)
            roots = torch._foreach_sqrt(second)
            denominators = torch._foreach_add(roots, 1e-8)
            torch._foreach_addcdiv_(own, first, denominators, -self.defaults["lr"])
