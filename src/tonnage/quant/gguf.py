"""GGUF: llama.cpp's recipes, which store each tensor in a format of its own.

A recipe names a format and exceptions: the output matrix, a tied token table, values, down projections of some layers.
Rows that do not divide into the format's blocks fall back to one of smaller blocks.

Follows ``llama_tensor_get_type_impl``, ``tensor_allows_quantization`` and ``tensor_type_fallback`` of
https://github.com/ggml-org/llama.cpp/blob/007dbbf3fd17eefe9b47fee45f48f7ba5e62b714/src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from tonnage.arch.model import Model
from tonnage.checkpoint import Stored as Held
from tonnage.checkpoint.names import about
from tonnage.errors import ConfigError, InputError, nearest
from tonnage.formats import FORMATS
from tonnage.keys import Keys
from tonnage.quant._ggml import Named, Shape, named, shape
from tonnage.quant._stored import KEPT, PACKED, Recipe, Scheme, Stored
from tonnage.tensors import ROLES, Tensor

SOURCE: Final = (
    "https://github.com/ggml-org/llama.cpp/blob/007dbbf3fd17eefe9b47fee45f48f7ba5e62b714/src/llama-quant.cpp "
    "llama_tensor_get_type_impl"
)

RECIPES: Final = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0", "q4_1": "q4_1", "q5_0": "q5_0",
    "q5_1": "q5_1", "q2_k": "q2_K", "q2_k_s": "q2_K", "q3_k_s": "q3_K", "q3_k_m": "q3_K", "q3_k_l": "q3_K",
    "q4_k_s": "q4_K", "q4_k_m": "q4_K", "q5_k_s": "q5_K", "q5_k_m": "q5_K", "q6_k": "q6_K", "iq1_s": "iq1_s",
    "iq1_m": "iq1_m", "iq2_xxs": "iq2_xxs", "iq2_xs": "iq2_xs", "iq2_s": "iq2_xs", "iq2_m": "iq2_s",
    "iq3_xxs": "iq3_xxs", "iq3_xs": "iq3_s", "iq3_s": "iq3_s", "iq3_m": "iq3_s", "iq4_nl": "iq4_nl",
    "iq4_xs": "iq4_xs", "tq1_0": "tq1_0", "tq2_0": "tq2_0", "mxfp4_moe": "mxfp4",
}  # fmt: skip
"""Recipes, each with the format that it starts from."""

SMALLEST: Final = ("iq2_xxs", "iq2_xs", "iq1_s", "iq2_s", "iq2_m", "iq1_m")
IMPORTANCE: Final = (*SMALLEST, "iq3_xxs", "q2_k_s")
"""Recipes that llama.cpp makes with an importance matrix only."""

FALLBACK: Final = {
    **dict.fromkeys(("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"), "iq4_nl"),
    **dict.fromkeys(("q2_K", "q3_K", "tq1_0", "tq2_0"), "q4_0"),
    "q4_K": "q5_0",
    "q5_K": "q5_1",
    "q6_K": "q8_0",
}


OLDER_FUSED: Final = {"q3_k_m": "q4_K", "q3_k_l": "q4_K", "iq3_m": "q4_K", "q4_k_m": "q5_K", "q5_k_m": "q6_K"}
"""What a fused matrix of queries, keys and values got in all layers before 2026."""


def more_bits(layer: int, layers: int) -> bool:
    """The layers that the medium recipes favour: the first and last eighth, and every third between.

    >>> [i for i in range(32) if more_bits(i, 32)][:6]
    [0, 1, 2, 3, 6, 9]
    """
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def category(name: str) -> str:
    """What llama.cpp takes a tensor for."""
    if name in ("output.weight", "token_embd.weight"):
        return name.removesuffix(".weight")
    for found in ("attn_qkv", "attn_kv_b", "attn_v", "attn_k", "attn_q", "attn_output"):
        if f"{found}.weight" in name:
            return found
    return next((found for found in ("ffn_up", "ffn_gate", "ffn_down") if found in name), "other")


class Choice:
    """llama.cpp's choice of formats for one model: it counts the tensors of a kind while it goes through them.

    Before ``tensor_category`` came to llama.cpp (early 2026), only ``attn_v`` counted as values: a fused ``attn_qkv``
    had formats of its own, and ``attn_kv_b`` none.
    """

    def __init__(self, recipe: str, s: Shape, *, tied: bool, values: int, importance: bool, older: bool) -> None:
        self.recipe, self.shape, self.tied, self.importance = recipe, s, tied, importance
        self.start = RECIPES[recipe]
        self.values, self.older = values, older
        self.seen = {"value": 0, "ffn_down": 0, "ffn_gate": 0, "ffn_up": 0}

    def format(self, t: Named) -> str:
        """Format of the next tensor."""
        if t.kept:
            return "fp32"
        if FORMATS[self.start].elements == 1:
            return "fp32" if t.full else self.start
        return fallback(self._wanted(t), t.columns)

    def _wanted(self, t: Named) -> str:
        kind, r = category(t.name), self.recipe
        if kind == "output" or (self.tied and kind == "token_embd"):
            return self._output(t.columns)
        if r == "mxfp4_moe":
            return "mxfp4" if t.stacked > 1 else "q8_0"
        if kind == "token_embd":
            return self._tokens()
        if r in SMALLEST:
            return self._smallest(kind)
        if self.older and kind in ("attn_kv_b", "attn_qkv"):
            return OLDER_FUSED.get(r, self.start) if kind == "attn_qkv" else self.start
        if kind in ("attn_v", "attn_qkv", "attn_kv_b"):
            return self._value()
        if kind == "attn_k":
            return "q8_0" if self.shape.experts == 8 else self._narrow()
        if kind == "attn_q":
            return self._narrow()
        if kind == "ffn_down":
            return self._down(t)
        if kind == "attn_output":
            return self._attention_output()
        if kind in ("ffn_gate", "ffn_up"):
            layer = self._layer(kind, t)
            n = self.shape.layers
            return "iq3_xxs" if r == "iq3_xs" and n // 8 <= layer < 7 * n // 8 else self.start
        return self.start

    def _layer(self, kind: str, t: Named) -> int:
        at = self.seen[kind]
        self.seen[kind] += 1
        return int(t.name.split(".")[1]) if self.shape.experts > 1 else at

    def _output(self, columns: int) -> str:
        if self.recipe == "mxfp4_moe" or self.shape.architecture == "falcon" or columns % FORMATS[self.start].elements:
            return "q8_0"
        if self.recipe in (*SMALLEST, "iq3_xxs"):
            return "q5_K"
        return self.start if self.start == "q8_0" else "q6_K"

    def _tokens(self) -> str:
        if self.recipe in ("iq2_xxs", "iq2_xs", "iq1_s", "iq1_m"):
            return "q2_K"
        if self.recipe in ("iq2_s", "iq2_m", "iq3_xxs"):
            return "iq3_s"
        return "q4_K" if self.recipe in ("tq1_0", "tq2_0") else self.start

    def _narrow(self) -> str:
        return {"iq3_xs": "iq3_xxs", "iq3_xxs": "iq2_s"}.get(self.recipe, self.start)

    def _smallest(self, kind: str) -> str:
        larger = "iq3_s" if self.recipe in ("iq2_s", "iq2_m") else "q2_K"
        if kind == "attn_v" or (not self.older and kind in ("attn_qkv", "attn_kv_b")):
            self.seen["value"] += 1
            return "q4_K" if self.shape.grouped >= 4 or self.shape.experts >= 4 else larger
        if self.shape.experts == 8 and kind == "attn_k":
            return "q4_K"
        if kind == "ffn_down":
            self.seen[kind] += 1
            return larger if self.seen[kind] <= self.shape.layers // 8 else self.start
        if kind == "attn_output":
            if self.shape.experts == 8:
                return "q5_K"
            return {"iq1_s": "iq2_xxs", "iq1_m": "iq2_xxs", "iq2_s": "iq3_s", "iq2_m": "iq3_s"}.get(
                self.recipe, self.start
            )
        return self.start

    def _value(self) -> str:
        at, r, s = self.seen["value"], self.recipe, self.shape
        self.seen["value"] += 1
        wide = s.grouped >= 4
        out = self.start
        if r == "q2_k":
            out = "q4_K" if wide else "q3_K"
        elif r == "iq3_xxs":
            out = "q4_K" if wide else "iq3_xxs" if self.importance else "iq3_s"
        elif (r in ("q2_k_s", "iq3_xs", "iq3_s") and wide) or r == "iq3_m":
            out = "q4_K"
        elif r == "q3_k_m":
            out = "q5_K" if at < 2 else "q4_K"
        elif r == "q3_k_l" or (r in ("iq4_nl", "iq4_xs") and wide):
            out = "q5_K"
        elif r in ("q4_k_m", "q5_k_m") and more_bits(at, self.values):
            out = "q6_K"
        elif r == "q4_k_s" and at < 4:
            out = "q5_K"
        if s.seventy and out in ("q3_K", "q4_K"):
            out = "q5_K"
        return "q8_0" if s.experts == 8 else out

    def _down(self, t: Named) -> str:
        r, n, falcon = self.recipe, self.shape.layers, self.shape.architecture == "falcon"
        i = self._layer("ffn_down", t)
        early, more = i < n // 8, more_bits(i, n)
        if r == "q2_k":
            return "q3_K"
        if r == "q2_k_s" and early:
            return "q4_K"
        if r == "iq3_xxs" and not self.importance:
            return "q4_K" if early else "q3_K"
        if r == "q3_k_m":
            return "q5_K" if i < n // 16 else "q4_K" if not falcon or more else "q3_K"
        if r == "iq3_m" and (early or (self.shape.experts == 8 and more)):
            return "q4_K"
        if r == "q3_k_l":
            return "q4_K" if falcon else "q5_K"
        if r == "q4_k_m" and falcon:
            return "q6_K" if i < n // 16 else "q5_K" if more else "q4_K"
        if r in ("q4_k_m", "q5_k_m") and more:
            return "q6_K"
        if early and ((r in ("iq4_nl", "iq4_xs") and not self.importance) or (r == "q4_k_s" and not falcon)):
            return "q5_K"
        if early and r in ("q4_0", "q5_0") and self.importance:
            return "q4_1" if r == "q4_0" else "q5_1"
        return self.start

    def _attention_output(self) -> str:
        r = self.recipe
        if self.shape.architecture == "falcon":
            return "q4_K" if r == "q3_k_l" else self.start
        if self.shape.experts == 8:
            favoured = ("q2_k", "iq3_xs", "iq3_xxs", "q3_k_s", "q3_k_m", "iq4_nl", "q4_k_s", "q4_k_m", "iq3_s", "iq3_m",
                        "iq4_xs")  # fmt: skip
            return "q5_K" if r in favoured else self.start
        return {"q2_k": "q3_K", "iq3_xxs": "iq3_s", "q3_k_m": "q4_K", "q3_k_l": "q5_K", "iq3_m": "q4_K"}.get(
            r, self.start
        )


def fallback(wanted: str, columns: int) -> str:
    """The format that takes rows of this length.

    >>> fallback("q4_K", 2048), fallback("q4_K", 2880), fallback("q4_K", 100)
    ('q4_K', 'q5_0', 'fp16')
    """
    if columns % FORMATS[wanted].elements == 0:
        return wanted
    other = FALLBACK.get(wanted, "fp16")
    return other if columns % FORMATS[other].elements == 0 else "fp16"


@lru_cache(maxsize=1)
def _ordered(model: Model, mla: str) -> tuple[Named, ...]:
    """The file's tensors by layer, then by name. Kept for the model at hand, of which several recipes are asked."""
    return tuple(
        sorted(named(model, mla), key=lambda t: (t.tensor.layer if t.tensor.layer is not None else -1, t.name))
    )


def plan(model: Model, recipe: str, *, importance: bool, mla: str, older: bool) -> Iterator[Stored]:
    """The tensors of the file, in the order in which llama.cpp goes through them: by layer, then by name."""
    found = _ordered(model, mla)
    tied = not any(t.name == "output.weight" for t in found)
    values = sum(category(t.name) in ("attn_v", "attn_qkv", "attn_kv_b") for t in found)
    choice = Choice(recipe, shape(model, mla, found), tied=tied, values=values, importance=importance, older=older)
    for t in found:
        form = choice.format(t)
        yield (
            1,
            Tensor(t.name, t.axes, t.tensor.role, layer=t.tensor.layer, dtype=form),
            KEPT if FORMATS[form].elements == 1 else PACKED,
        )


def as_held(tensors: Iterable[Held]) -> Recipe:
    """A file's own formats, tensor by tensor: nothing is chosen."""

    def plan(_: Model) -> Iterator[Stored]:
        for t in tensors:
            told = about(t.name)
            role = told.role if told.role in ROLES else "feed_forward"
            axes = tuple(("X", n) for n in t.shape)
            layer = int(t.name[told.layer : told.end]) if told.layer else None
            kind = KEPT if FORMATS[t.format].elements == 1 else PACKED
            yield 1, Tensor(t.name, axes, role, layer=layer, dtype=t.format), kind

    return Recipe(
        method="gguf",
        title="GGUF, as the file holds it",
        source="the header of the file",
        plan=plan,
        calibrated=True,
        by_layer=True,
        told=("weights as the file holds them; transformers 5.23 dequantizes most GGUF files while loading",),
    )


def read(k: Keys, *, checkpoint: bool) -> Recipe:
    """A recipe by its name, or the tensors of a file."""
    tensors = k.optional("tensors", list)
    if tensors is not None:
        # The key is for headers that were read here; a foreign config cannot hold such tensors.
        if not all(isinstance(t, Held) for t in tensors):
            raise ConfigError("tensors is no key of a config", key=f"{k.path}tensors", file=k.file)
        return as_held(tensors)
    name = k.want("recipe", "q4_k_m")
    importance = k.want("importance", name in IMPORTANCE)
    mla = k.want("mla", "split")
    older = k.want("older", mla == "joined")
    if mla not in ("split", "joined", "both"):
        raise ConfigError("mla is split, joined or both", key=f"{k.path}mla", value=mla, file=k.file)
    if name not in RECIPES:
        raise InputError(f"unknown GGUF recipe {name!r}", key="quant", value=name, nearest=nearest(name, RECIPES))
    told = ["weights as llama.cpp holds them; transformers 5.23 dequantizes most GGUF files while loading"]
    if FORMATS[RECIPES[name]].elements > 1:
        told.append(f"{name} is made {'with' if importance else 'without'} an importance matrix")
    return Recipe(
        method="gguf",
        title=f"GGUF {name.upper()}",
        source=SOURCE,
        plan=lambda model: plan(model, name, importance=importance, mla=mla, older=older),
        calibrated=True,
        by_layer=True,
        told=tuple(told),
    )


SCHEME: Final = Scheme(read=read, source=SOURCE)
