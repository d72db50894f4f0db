"""A transformer of the shape whose runs were recorded on a GPU: 24 layers, width 1,024, batch 4, its own AdamW.

Written anew after what the recordings' repository describes, operation by operation, since each of them allocates:
Wedsonlin/assignment2-systems (commit 87b0864), cs336-basics (model.py, nn_utils.py, optimizer.py) and
cs336_systems/nsys_profile.py (``memory_profile``).
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import nn

VOCABULARY: Final = 10_000
WIDTH, INNER, LAYERS, HEADS, BATCH = 1024, 4096, 24, 16, 4


class Projection(nn.Module):
    """A matrix product written as a sum over a named axis."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, wide))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bti,oi->bto", x, self.weight)


class Norm(nn.Module):
    """Root mean square, in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x.dtype
        x = x.to(torch.float32)
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        x = x * scale
        return (self.weight * x).to(before)


class Rotary(nn.Module):
    """Pairs of neighbours turned by their place; one module for all layers."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.register_buffer("angles", torch.empty(2, tokens, WIDTH // HEADS // 2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x.unflatten(-1, (-1, 2)).movedim(-1, 0).unbind(0)
        cosine, sine = self.angles[:, : x.size(-2), :].unbind(0)
        first = cosine * left - sine * right
        second = sine * left + cosine * right
        return torch.concat((first, second), dim=-1)


def softmax(x: torch.Tensor) -> torch.Tensor:
    """The stable softmax, by hand."""
    x = x - torch.max(x, dim=-1, keepdim=True)[0]
    powers = torch.exp(x)
    return powers / torch.sum(powers, dim=-1, keepdim=True)


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention with every score in memory."""
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(k.shape[-1])
    scores = torch.where(mask, scores, float("-inf"))
    weights = softmax(scores)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


class Attention(nn.Module):
    """Causal, of many heads."""

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (Projection(WIDTH, WIDTH) for _ in range(4))
        self.rotary = rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.shape[1]
        q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        q = self.rotary(q)
        k = self.rotary(k)
        places = torch.arange(tokens, device=x.device)
        mask = places[:, None] >= places[None, :]
        mask = mask[None, ...]
        out = attended(q, k, v, mask)
        out = out.transpose(1, 2).flatten(-2).contiguous()
        return self.out(out)


class Gated(nn.Module):
    """Two products, one of them through a sigmoid of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.down, self.up = Projection(WIDTH, INNER), Projection(INNER, WIDTH), Projection(WIDTH, INNER)

    @staticmethod
    def swish(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.swish(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """A layer."""

    def __init__(self, rotary: Rotary) -> None:
        super().__init__()
        self.attention, self.gated = Attention(rotary), Gated()
        self.before, self.between = Norm(), Norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.attention(self.before(x))
        middle = x + seen
        fed = self.gated(self.between(middle))
        return middle + fed


class Model(nn.Module):
    """The language model."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(VOCABULARY, WIDTH))
        rotary = Rotary(tokens)
        self.layers = nn.ModuleList(Block(rotary) for _ in range(LAYERS))
        self.last = Norm()
        self.head = Projection(WIDTH, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        embedded = self.table[ids, :]
        x = embedded
        for layer in self.layers:
            x = layer(x)
        x = self.last(x)
        return self.head(x)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """Its own function: what it names ends with it."""
    highest = torch.max(x, dim=-1, keepdim=True)[0]
    x = x - highest
    return x - torch.log(torch.sum(torch.exp(x), dim=-1, keepdim=True))


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy, by hand."""
    chances = -log_softmax(logits)
    return torch.mean(torch.gather(chances, -1, targets.unsqueeze(-1)))


class Adam:
    """AdamW that makes its moments anew in every step."""

    def __init__(self, parameters: list[Any]) -> None:
        self.parameters = parameters
        self.state: dict[int, dict[str, Any]] = {}

    def step(self) -> None:
        for i, p in enumerate(self.parameters):
            grad = p.grad.data
            held = self.state.setdefault(i, {})
            p.data -= 1e-5 * p.data
            first_before = held.get("first", torch.zeros_like(grad))
            second_before = held.get("second", torch.zeros_like(grad))
            first = 0.9 * first_before + (0.1 * grad)
            second = 0.999 * second_before + (0.001 * torch.square(grad))
            p.data -= 1e-3 * first / (torch.sqrt(second) + 1e-8)
            held["first"], held["second"] = first, second

    def clear(self) -> None:
        for p in self.parameters:
            p.grad = None


def computed(autocast: bool) -> Any:
    """Autocast to bf16, or none."""
    return torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast)


def ids(runs: int, tokens: int) -> torch.Tensor:
    """Token ids for some runs."""
    return torch.empty((runs, BATCH, tokens), dtype=torch.int64)


def train(t: Any, tokens: int, *, autocast: bool, warm: int) -> None:
    """Warm-up steps, and the recorded one as a phase of its own."""
    model = Model(tokens)
    optimizer = Adam(list(model.parameters()))
    warm_ids, own_ids, warm_targets, own_targets = ids(warm, tokens), ids(1, tokens), ids(warm, tokens), ids(1, tokens)
    model.train()
    for i in range(warm):
        with computed(autocast):
            out = model(warm_ids[i])
            loss = loss_of(out, warm_targets[i])
        loss.backward()
        optimizer.step()
        optimizer.clear()
    del out, loss
    t.step(1)
    with computed(autocast):
        out = model(own_ids[0])
        loss = loss_of(out, own_targets[0])
    loss.backward()
    optimizer.step()
    t.phase("end")
    t.kept = model, optimizer, out, loss, warm_ids, own_ids, warm_targets, own_targets


def infer(t: Any, tokens: int, *, autocast: bool, warm: int) -> None:
    """Forward passes alone."""
    model = Model(tokens)
    warm_ids, own_ids = ids(warm, tokens), ids(1, tokens)
    model.eval()
    with torch.inference_mode():
        for i in range(warm):
            with computed(autocast):
                model(warm_ids[i])
        t.step(1)
        with computed(autocast):
            model(own_ids[0])
    t.phase("end")
    t.kept = model, warm_ids, own_ids
