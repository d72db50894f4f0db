"""Towers for images and sound: counted as tensors of one role, for no pass of the language model runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.parts import Part
from tonnage.errors import ConfigError
from tonnage.families._pieces import layer_norm, matrix
from tonnage.keys import Keys
from tonnage.tensors import Axis, Role, Tensor

NAMES: Final = {"num_heads": "num_attention_heads", "depth": "num_hidden_layers"}
"""Other names of keys in the configs of Qwen's and GLM's towers."""


def tower(role: Role, path: str, *parts: Part | Tensor) -> tuple[Tensor, ...]:
    """The tensors of these parts below ``path``; buffers stay buffers."""
    return tuple(_placed(role, f"{path}.", parts))


def repeated(role: Role, path: str, count: int, *parts: Part | Tensor) -> tuple[Tensor, ...]:
    """The same for every layer of a list."""
    return tuple(t for index in range(count) for t in _placed(role, f"{path}.{index}.", parts))


def _placed(role: Role, prefix: str, parts: tuple[Part | Tensor, ...]) -> Iterator[Tensor]:
    for part in parts:
        for t in (part,) if isinstance(part, Tensor) else part.weights():
            kind = t.role if t.role == "buffer" else role
            yield Tensor(prefix + t.name, t.axes, kind, t.dims, None, t.alias_of, t.dtype)


def convolution(name: str, ins: int, outs: int, *kernel: int, bias: bool = True) -> tuple[Tensor, ...]:
    """``nn.Conv``: ``kernel`` tells its sizes, one for each dimension."""
    axes: tuple[Axis, ...] = (("D", outs), ("X", ins), *(("C", n) for n in kernel))
    found = (Tensor(f"{name}.weight", axes, "embedding"),)
    return (*found, Tensor(f"{name}.bias", (("D", outs),), "embedding")) if bias else found


def batch_norm(name: str, C: int) -> tuple[Part | Tensor, ...]:
    """``nn.BatchNorm``: a scale and a bias, and the mean and the variance that it has seen."""
    moments = (Tensor(f"{name}.running_{x}", (("X", C),), "buffer") for x in ("mean", "var"))
    return (layer_norm(name, C), *moments, Tensor(f"{name}.num_batches_tracked", (), "buffer", dtype="int64"))


def attention(
    name: str, D: int, *, q: str = "q_proj", o: str = "out_proj", bias: bool = True, key_bias: bool = True
) -> tuple[Part, ...]:
    """Four square matrices ``q``, ``k``, ``v`` (named after the first) and ``o``."""
    sides: Axis = ("D", D)
    return tuple(
        matrix(f"{name}.{part}", sides, sides, "attention", bias=bias and (key_bias or part[0] != "k"))
        for part in (q, q.replace("q", "k", 1), q.replace("q", "v", 1), o)
    )


def feed_forward(
    name: str, D: int, F: int, up: str = "fc1", down: str = "fc2", *, bias: bool = True
) -> tuple[Part, ...]:
    """Two matrices."""
    path = f"{name}." if name else ""
    return (
        matrix(path + up, ("D", D), ("F", F), "feed_forward", bias=bias),
        matrix(path + down, ("F", F), ("D", D), "feed_forward", bias=bias),
    )


def clip_layer(D: int, F: int) -> tuple[Part, ...]:
    """A layer of CLIP's or SigLIP's tower."""
    return (
        *attention("self_attn", D),
        *feed_forward("mlp", D, F),
        layer_norm("layer_norm1", D),
        layer_norm("layer_norm2", D),
    )


def side(k: Keys, key: str) -> int:
    """A size of an image or a patch that is one number; a pair must be square."""
    value = k.config.get(key)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        k.skip(key)
        value = value[0]
        if isinstance(value, int) and value > 0:
            return value
    if isinstance(value, list):
        raise ConfigError(f"{k.path}{key} = {value} is not square", key=k.path + key, value=value, file=k.file)
    return k.need(key)


def chosen_layers(k: Keys, default: int | tuple[int, ...]) -> tuple[int, ...]:
    """The tower's layers that ``vision_feature_layer`` hands on, one beside another: one, or a list of them."""
    value = k.config.get("vision_feature_layer", k.config.get("vision_feature_layers", default))
    k.skip("vision_feature_layer")
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list | tuple) and value and all(isinstance(n, int) for n in value):
        return tuple(value)
    name = f"{k.path}vision_feature_layer"
    raise ConfigError(f"{name} must be a layer or a list of layers", key=name, value=value, file=k.file)


def sizes(k: Keys, key: str, default: tuple[int, ...], *, many: int | None = None, least: int = 1) -> tuple[int, ...]:
    """A list of numbers from ``least`` on, as ``many`` as there have to be, with transformers' default."""
    found = k.optional(key, list)
    if found is None:
        return default
    if not found or not all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in found):
        name = k.path + key
        raise ConfigError(f"{name} must be a list of positive numbers", key=name, value=found, file=k.file)
    if many is not None and len(found) != many:
        name = k.path + key
        raise ConfigError(f"{name} = {found}: {many} numbers are needed", key=name, value=found, file=k.file)
    return tuple(found)
