"""Closed forms of one layer and of a whole step fall out of the passes; no formula of a layer stands anywhere else.

Letters: h residual width, Q = query heads x head width, K = key/value heads x head width, f feed-forward width,
V vocabulary, T = batch x sequence. The forms and the measured values were derived from traces of transformers 5.23.0
with torch 2.13.0.
"""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.optimizers import optimizer


def llama(h: int, heads: int, kv: int, f: int, V: int = 32000, L: int = 2) -> Any:
    return tn.load(
        {
            "model_type": "llama",
            "hidden_size": h,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "intermediate_size": f,
            "vocab_size": V,
            "num_hidden_layers": L,
            "max_position_embeddings": 131072,
        }
    )


def step(model: Any, kernel: Any = "flash", *, batch: int = 1, tokens: int = 2048, **over: Any) -> Step:
    settings: dict[str, Any] = {
        "weights": "bf16",
        "autocast": None,
        "optimizer": optimizer("adamw-fused"),
        "accumulate": 1,
        "recompute": False,
        "keep_logits": False,
        "keep_gradients": False,
        "first_step": False,
        "workspace": 0,
    }
    return Step(model, Recipe(**{**settings, "kernel": kernel, "batch": batch, "tokens": tokens, **over}))


def saved(model: Any, kernel: Any = "flash", **over: Any) -> int:
    """Bytes that the second layer leaves for the backward pass, its input included where it is kept."""
    passes = step(model, kernel, **over).passes
    layer = passes.layers[1]
    return layer.kept().requested + (layer.output.nbytes if layer.keeps_input else 0)


SHAPES = [(1024, 16, 4, 2816), (4096, 32, 8, 14336), (256, 4, 4, 512)]


@pytest.mark.parametrize(("h", "heads", "kv", "f"), SHAPES)
@pytest.mark.parametrize(("batch", "tokens"), [(1, 1024), (2, 512)])
def test_pure_bf16_flash(h: int, heads: int, kv: int, f: int, batch: int, tokens: int) -> None:
    T, Q, K = batch * tokens, h, kv * (h // heads)
    expected = T * (16 * h + 8 + 4 * Q + 4 * K + 4 * heads + 8 * f) + 24
    assert saved(llama(h, heads, kv, f), batch=batch, tokens=tokens) == expected


@pytest.mark.parametrize(("h", "heads", "kv", "f"), SHAPES)
def test_pure_bf16_eager(h: int, heads: int, kv: int, f: int) -> None:
    s = 512
    if heads == kv:
        pytest.skip("the form is for repeated heads")
    expected = s * (16 * h + 8 + 8 * h + 6 * heads * s + 8 * f)
    assert saved(llama(h, heads, kv, f), "eager", tokens=s) == expected


@pytest.mark.parametrize(("h", "heads", "kv", "f"), SHAPES)
def test_fp32_weights_under_bf16_autocast(h: int, heads: int, kv: int, f: int) -> None:
    T, Q, K = 1024, h, kv * (h // heads)
    matrices = h * Q + 2 * h * K + Q * h + 3 * h * f
    expected = T * (26 * h + 8 + 4 * Q + 4 * K + 4 * heads + 8 * f) + 24 + 2 * matrices
    assert saved(llama(h, heads, kv, f), tokens=T, weights="fp32", autocast="bf16") == expected


def test_measured_values() -> None:
    narrow, wide = llama(1024, 16, 4, 2816), llama(4096, 32, 8, 14336)
    assert saved(wide) == 411_320_344
    assert saved(wide, "eager") == 1_241_530_368
    assert saved(wide, weights="fp32", autocast="bf16") + 4 * 218_112_000 == 1_803_862_040
    assert saved(narrow, tokens=1024) in (45_162_520, 1024 * (16 * 1024 + 8 + 4 * 1024 + 4 * 256 + 64 + 8 * 2816) + 24)


@pytest.mark.parametrize(("layers", "batch", "tokens"), [(2, 1, 2048), (2, 2, 1024), (3, 1, 4096), (32, 1, 2048)])
def test_whole_step_with_fused_adamw(layers: int, batch: int, tokens: int) -> None:
    h, heads, kv, f, V = 4096, 32, 8, 14336, 128256
    model = llama(h, heads, kv, f, V, layers)
    d, T = h // heads, batch * tokens
    P, tensors = model.parameters.total, 9 * layers + 3
    layer = T * (16 * h + 8 + 4 * h + 4 * kv * d + 4 * heads + 8 * f) + 24
    expected = 6 * P + 4 * tensors + layers * layer + T * (8 * h + 4 + 12 * V) + 4 * tokens * d + 8 * T + 520
    peak = max(step(model, batch=batch, tokens=tokens).moments(), key=lambda m: m.highest)
    assert (peak.name, peak.highest) == ("loss backward", expected)


def test_llama_8b_as_traced() -> None:
    model = tn.load("llama-3.1-8b")
    said = {"seq": 2048, "gpu": "h100-sxm-80gb"}
    assert tn.train(model, **said).fullest.tier("requested") == 64_564_021_652
    assert tn.train(model, **said, optimizer="adamw-foreach").fullest.tier("requested") == 80_302_629_380
    eager = tn.train(model, **said, optimizer="adamw-foreach", attention="eager")
    assert eager.fullest.tier("requested") == 91_130_741_256
    mixed = tn.train(model, **said, optimizer="adamw-foreach", precision="bf16-mixed")
    assert mixed.fullest.tier("requested") == 160_605_241_860


@pytest.mark.parametrize(
    ("retained", "factor"), [((), 12), (("outputs",), 14)], ids=["output freed", "output held by the caller"]
)
def test_loss_backward_takes_12_or_14_bytes_a_logit(retained: tuple[str, ...], factor: int) -> None:
    V, T = 50_000, 512
    model = llama(64, 2, 2, 128, V)
    peak = max(step(model, tokens=T, keep_logits=bool(retained)).moments(), key=lambda m: m.highest)
    none = max(step(llama(64, 2, 2, 128, 1), tokens=T, keep_logits=bool(retained)).moments(), key=lambda m: m.highest)
    parameters = 2 * 2 * 64 * (V - 1)
    assert peak.highest - none.highest - 3 * parameters == pytest.approx(factor * T * (V - 1), rel=0.01)


def test_fp32_without_autocast_takes_16_bytes_a_logit() -> None:
    V, T = 50_000, 512
    s = step(llama(64, 2, 2, 128, V), "math", tokens=T, weights="fp32")
    peak = next(m for m in s.moments() if m.name == "loss backward")
    logits = [x for x in peak.span.alive() if x.nbytes == 4 * V * T]  # type: ignore[union-attr]
    assert 3 <= len(logits) <= 4


@pytest.mark.parametrize(
    ("config", "units"),
    [
        ({"model_type": "gpt2", "n_embd": 1024, "n_head": 16, "n_layer": 2, "vocab_size": 1000}, 58.1),
        (
            {
                "model_type": "gpt_neox", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 2,
                "intermediate_size": 4096, "vocab_size": 1000,
            },
            36.1,
        ),
        (
            {
                "model_type": "opt", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 2,
                "ffn_dim": 4096, "vocab_size": 1000, "word_embed_proj_dim": 1024,
            },
            26.1,
        ),
    ],
    ids=["gpt2", "gpt_neox", "opt"],
)  # fmt: skip
def test_other_families_in_units_of_sbh(config: dict[str, Any], units: float) -> None:
    tokens = 1024
    assert saved(tn.load(config), tokens=tokens) / (tokens * 1024) == pytest.approx(units, abs=0.06)
