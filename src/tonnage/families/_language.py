"""The language model inside of a model that reads images or sound: of any type that a family reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.arch.ends import Head
from tonnage.arch.model import Layer, Model, Stack
from tonnage.arch.naming import moved
from tonnage.arch.untraced import Untraced
from tonnage.errors import UnsupportedError
from tonnage.families import family_of
from tonnage.families._composite import read_inner
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Role, Tensor

Sizes = Mapping[str, Any]


class Text(Record):
    """A language model inside of another.

    Args:
        model: below its path in that one, without a head unless it was asked for with one.
        tied: its own config ties a head to its embedding.
        config: its config.
    """

    model: Model
    tied: bool
    config: Sizes


def _sizes(D: int, F: int, L: int, N: int, V: int) -> Sizes:
    return {
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": L,
        "num_attention_heads": N,
        "vocab_size": V,
    }


_DECODER: Final = ("layers", "attention_heads", "ffn_dim")
_BART: Final[Sizes] = {
    "d_model": 1024,
    "encoder_layers": 12,
    "decoder_layers": 12,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_ffn_dim": 4096,
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
}

DEFAULTS: Final[Mapping[str, Sizes]] = {
    "aria_text": _sizes(4096, 4096, 32, 32, 32000),
    "bart": _BART,
    "bert": {**_sizes(768, 3072, 12, 12, 30522), "max_position_embeddings": 512, "type_vocab_size": 2},
    "cohere": _sizes(8192, 22528, 40, 64, 256000),
    "cohere2": _sizes(8192, 22528, 40, 64, 256000),
    "ernie4_5": _sizes(1024, 3072, 18, 16, 103424),
    "gemma": _sizes(3072, 24576, 28, 16, 256000),
    "gemma2": _sizes(2304, 9216, 26, 8, 256000),
    "gemma3_text": {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024},
    "glm4": _sizes(4096, 13696, 40, 32, 151552),
    "glm4v_moe_text": {
        **_sizes(4096, 10944, 46, 96, 151424),
        "max_position_embeddings": 65536,
        "attention_bias": True,
        "num_nextn_predict_layers": 0,
        "partial_rotary_factor": 0.5,
    },
    "glm4v_text": {**_sizes(4096, 13696, 40, 32, 151552), "max_position_embeddings": 32768},
    "glm_ocr_text": {**_sizes(1024, 4096, 16, 16, 59392), "num_key_value_heads": 8},
    "granite": _sizes(4096, 11008, 32, 32, 32000),
    "lfm2": _sizes(2560, 12288, 32, 32, 65536),
    "lfm3": _sizes(2048, 7680, 24, 16, 128000),
    "llama": _sizes(4096, 11008, 32, 32, 32000),
    "minimax_m3_vl_text": _sizes(6144, 3072, 60, 64, 200064),
    "mbart": _BART,
    "ministral3": _sizes(4096, 14336, 34, 32, 131072),
    "mistral": _sizes(4096, 14336, 32, 32, 32000),
    "mixtral": {**_sizes(4096, 14336, 32, 32, 32000), "num_local_experts": 8},
    "modernbert": _sizes(768, 1152, 22, 12, 50368),
    "olmo2": _sizes(4096, 11008, 32, 32, 50304),
    "opt": {
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    },
    "paddleocr_vl_text": {**_sizes(1024, 3072, 18, 16, 103424), "num_key_value_heads": 2, "head_dim": 128},
    "phi": {**_sizes(2048, 8192, 24, 32, 51200), "max_position_embeddings": 2048},
    "phi3": _sizes(3072, 8192, 32, 32, 32064),
    "exaone4": _sizes(4096, 16384, 32, 32, 102400),
    "hyperclovax": _sizes(4096, 11008, 32, 32, 32000),
    "deepseek_v3": _sizes(7168, 18432, 61, 128, 129280),
    "qwen3_5_text": _sizes(4096, 12288, 32, 16, 248320),
    "nemotron_h": {"hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32, "vocab_size": 131072},
    "qwen2": _sizes(4096, 22016, 32, 32, 151936),
    "qwen2_moe": {**_sizes(2048, 5632, 24, 16, 151936), "num_experts": 60},
    "qwen2_5_omni_talker": {**_sizes(3584, 18944, 28, 28, 8448), "num_key_value_heads": 4, "head_dim": 128},
    "qwen2_5_omni_text": {**_sizes(3584, 18944, 28, 28, 152064), "num_key_value_heads": 4},
    "qwen2_5_vl_text": {**_sizes(8192, 29568, 80, 64, 152064), "num_key_value_heads": 8, "max_window_layers": 80},
    "qwen2_vl_text": {**_sizes(8192, 29568, 80, 64, 152064), "num_key_value_heads": 8, "max_window_layers": 80},
    "qwen3": _sizes(4096, 22016, 32, 32, 151936),
    "qwen3_moe": {**_sizes(2048, 6144, 24, 32, 151936), "num_experts": 128},
    "qwen3_omni_moe_text": {**_sizes(2048, 18944, 28, 28, 3584), "num_experts": 128},
    "qwen3_vl_moe_text": {
        **_sizes(2048, 5632, 24, 16, 151936),
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "max_position_embeddings": 128000,
    },
    "qwen3_vl_text": {**_sizes(4096, 22016, 32, 32, 151936), "max_position_embeddings": 128000},
    "smollm3": _sizes(2048, 11008, 36, 16, 128256),
    "trocr": {key: _BART[key] for key in ("d_model", *(f"decoder_{x}" for x in _DECODER), "vocab_size")},
    "ultrabert": _sizes(4096, 11008, 32, 32, 32000),
    "t5": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128},
}
"""What transformers fills in where a nested config leaves out a size that a config of the type alone always states."""


def language(
    k: Keys,
    path: str,
    kind: str | None,
    *,
    key: str = "text_config",
    given: Sizes | None = None,
    always: Sizes | None = None,
    whole: bool = False,
    fixed: bool = False,
    like: str | None = None,
    flat: bool = False,
    less: tuple[str, ...] = (),
) -> Text:
    """The bare language model below ``path``.

    Args:
        k: the config around it.
        path: of the module.
        kind: its type where the nested config names none; None where transformers has no default.
        key: of the nested config.
        given: what the type around it fills in where there is no nested config at all.
        always: what it fills in where the nested config leaves it out.
        whole: with its head, as a causal or sequence-to-sequence class holds it.
        fixed: it is of this type whatever the nested config says.
        like: the type of a family that reads it, where ``kind`` only occurs inside of others.
        flat: without a nested config its keys stand among those around it (the first releases of Qwen2-VL).
        less: keys that the class around it overrules, or that released configs have and no class reads.

    Raises:
        UnsupportedError: no family reads the type, or its layers share tensors.
    """
    stated = k.inner(key)
    config: Mapping[str, Any] = (given or {}) if stated is None else stated.config
    name = _named(k, key, config, kind, fixed or like is not None)
    family = family_of(like or name, key=f"{k.path}{key}.model_type", file=k.file)
    if flat and stated is None:
        return _text(family.read(k), path, name, whole, k.config)
    # Not those that the config has under another of their names.
    filled = {size: n for size, n in DEFAULTS.get(name, {}).items() if family.attributes.get(size) not in config}
    defaults = {"model_type": name, **filled, **(always or {}), **(config if stated is None else {})}
    read = family.read if whole else family.classes.get("none", family.read)
    less = (*less, "model_type") if fixed or like else less
    model = read_inner(k, key, defaults, read, aliases=family.attributes, less=less)
    return _text(model, path, name, whole, {**defaults, **config})


def _named(k: Keys, key: str, config: Sizes, kind: str | None, fixed: bool) -> str:
    """The type of a nested config: what it names, else ``kind``."""
    name = kind if fixed else config.get("model_type", kind)
    if isinstance(name, str):
        return name
    return Keys(config, file=k.file, path=f"{k.path}{key}.").need("model_type", str)


def _text(model: Model, path: str, name: str, whole: bool, config: Sizes) -> Text:
    tied = model.head is not None and model.head.alias_of is not None
    placed = _placed(model, path, name, whole)
    if config.get("use_cache", True):
        placed = placed.but(stacks=tuple(stack.but(caches=True) for stack in placed.stacks))
    return Text(placed, tied, config)


def _placed(model: Model, path: str, name: str, whole: bool) -> Model:
    base = model.stacks[-1].path.partition(".")[0] + "."

    def move(old: str) -> str:
        return f"{path}.{old if whole else old.removeprefix(base)}"

    if any(t.alias_of is not None for s in model.stacks for layer, _ in s.distinct() for t in layer.weights()):
        raise UnsupportedError(
            f"a language model of the type {name!r}, whose layers share tensors, is not modelled inside of another",
            key="text_config.model_type",
            value=name,
        )
    return model.but(
        stacks=tuple(_stack(stack, move) for stack in model.stacks),
        head=moved(model.head, move) if whole else None,
        extra=moved(model.extra if whole else model.extra + model.pooler, move),
        apart=moved(model.apart, move),
        pooler=(),
        classifier=None,
    )


def _stack(stack: Stack, move: Callable[[str], str]) -> Stack:
    return stack.but(path=move(stack.path), stem=moved(stack.stem, move), norm=moved(stack.norm, move))


def headed(
    model: Model, tied: bool, *, extra: tuple[Tensor, ...] = (), name: str = "lm_head", V: int | None = None,
    tells: bool = False,
) -> Model:  # fmt: skip
    """The same with a head of the class around it, one matrix tied to the embedding or not, and with ``extra``.

    ``tells``: that class hands ``use_cache`` of its own config on, which the Trainer turns off.
    """
    if tells:
        model = model.but(stacks=tuple(stack.but(caches=False) for stack in model.stacks))
    table = f"{model.decoder.stem.name}.weight"
    if tied and not table.endswith("embed_tokens.weight"):
        raise UnsupportedError(
            f"a head tied to {table!r} is not modelled: the code that is followed does not find it",
            key="tie_word_embeddings",
            value=True,
        )
    head = Head(name=name, D=model.width, V=V or model.vocabulary, alias_of=table if tied else None)
    return model.but(head=head, extra=model.extra + extra)


def unpassed(model: Model, what: str) -> Model:
    """The same, its forward pass refused: ``what`` says what is not modelled."""
    changed: dict[int, Layer] = {}

    def refused(layer: Layer) -> Layer:
        if id(layer) not in changed:
            first = layer.sublayers[0]
            sublayers = (first.but(block=Untraced(block=first.block, what=what)), *layer.sublayers[1:])
            changed[id(layer)] = layer.but(sublayers=sublayers)
        return changed[id(layer)]

    return model.but(stacks=tuple(s.but(layers=tuple(map(refused, s.layers))) for s in model.stacks))


def as_tower(model: Model, role: Role) -> tuple[Tensor, ...]:
    """The tensors of a language model that works as a tower, without its embedding."""
    table = f"{model.decoder.stem.name}.weight"
    return tuple(
        Tensor(t.name, t.axes, t.role if t.role == "buffer" else role, t.dims, None, None, t.dtype)
        for stack in model.stacks
        for t in stack.weights()
        if t.name != table
    )
