"""Structured pruning as a change of the config: fewer layers, heads, experts or rows, narrower matrices.

What is left is a smaller dense model of the same family, so that every answer holds for it as for any other: weights,
gradients and optimizer state shrink with the parameters, a cache with layers and heads alone, saved activations with
what they are made of. Pruning that leaves layers of different shapes is no config of most families, and is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError, nearest

KEYS: Final[dict[str, tuple[str, ...]]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "ffn": ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "n_inner", "ffn_dim"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "vocab": ("vocab_size",),
}
"""What can be pruned, and the keys that tell how much there is. All that a config has are changed."""
GROUPS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
OTHERS: Final = ("encoder_layers", "num_decoder_layers", "decoder_layers")
INNER: Final = ("text_config",)
WIDTH: Final = "head_dim"


def pruned(config: Mapping[str, Any], wishes: Iterable[str]) -> tuple[dict[str, Any], bool]:
    """A config with less of some things.

    Args:
        config: as written.
        wishes: ``heads=0.25`` or ``heads=25%`` removes a quarter, ``layers=24`` leaves 24.

    Returns:
        The new config, and whether it tells the width of a head where the old one did not.

    Raises:
        InputError: a wish is not understood, or leaves nothing, or more than there is.
        UnsupportedError: the config has no such key, or two stacks of layers.

    >>> pruned({"hidden_size": 64, "num_hidden_layers": 8}, ["layers=6"])[0]["num_hidden_layers"]
    6
    """
    new, told = dict(config), False
    for wish in wishes:
        what, _, how = wish.partition("=")
        what, how = what.strip(), how.strip()
        if what not in KEYS or not how:
            raise InputError(
                f"cannot prune {wish!r}", key="prune", value=wish, nearest=nearest(what, KEYS),
                hint=f"WHAT=HOW: {', '.join(KEYS)}; 0.25 or 25% removes a quarter, 24 leaves 24",
            )  # fmt: skip
        inner = next((k for k in INNER if isinstance(new.get(k), Mapping)), None)
        part = dict(new[inner]) if inner else new
        told |= _change(part, what, how)
        if inner:
            new[inner] = part
    return new, told


def _change(config: dict[str, Any], what: str, how: str) -> bool:
    """Change one part of a config in place; whether a head's width had to be told."""
    if any(isinstance(config.get(k), int) for k in OTHERS) and what == "layers":
        raise UnsupportedError("layers of two stacks cannot be pruned by one number", key="prune", value=what)
    found = [k for k in KEYS[what] if isinstance(config.get(k), int) and not isinstance(config[k], bool)]
    if what == "ffn" and not found and isinstance(config.get("n_embd"), int):
        config["n_inner"], found = 4 * config["n_embd"], ["n_inner"]
    if not found:
        raise UnsupportedError(
            f"the config does not tell how many {what} there are in a key that is known",
            key="prune", value=what, hint=f"one of {', '.join(KEYS[what])}",
        )  # fmt: skip
    told = what in ("heads", "hidden") and _told_width(config)
    if what == "heads":
        _heads(config, found[0], how)
        return told
    for key in found:
        before = config[key]
        config[key] = _left(before, how, what)
        if what == "layers":
            _shorter_lists(config, before, config[key])
    return told


def _left(before: int, how: str, what: str) -> int:
    """How many are left of ``before``.

    >>> _left(32, "25%", "heads"), _left(32, "0.25", "heads"), _left(32, "24", "heads")
    (24, 24, 24)
    """
    try:
        share = float(how[:-1]) / 100 if how.endswith("%") else float(how) if "." in how else None
        left = int(how) if share is None else before - round(share * before) if 0 <= share < 1 else 0
    except ValueError:
        raise InputError(f"not a share or a number of {what}: {how!r}", key="prune", value=how) from None
    if not 0 < left <= before:
        raise InputError(f"{what}={how} leaves {left} of {before}", key="prune", value=how)
    return left


def _heads(config: dict[str, Any], key: str, how: str) -> None:
    """Whole groups go: queries with the keys and values that they share."""
    N = config[key]
    group_key = next((k for k in GROUPS if isinstance(config.get(k), int)), None)
    K = config[group_key] if group_key else N
    left = _left(N, how, "heads")
    each, rest = divmod(N, K)
    if rest or left % each:
        raise InputError(
            f"{left} of {N} heads split a group of {each} that share their keys and values", key="prune", value=how,
            hint=f"a multiple of {each}",
        )  # fmt: skip
    config[key] = left
    if group_key:
        config[group_key] = left // each


def _told_width(config: dict[str, Any]) -> bool:
    """State a head's width, which would follow from what is changed otherwise."""
    if any(config.get(k) is not None for k in (WIDTH, "qk_nope_head_dim", "kv_lora_rank")):
        return False
    D = next((config[k] for k in KEYS["hidden"] if isinstance(config.get(k), int)), 0)
    N = next((config[k] for k in KEYS["heads"] if isinstance(config.get(k), int)), 0)
    if not D or not N:
        return False
    config[WIDTH] = D // N
    return True


def _shorter_lists(config: dict[str, Any], before: int, left: int) -> None:
    """What is listed layer by layer keeps its first entries."""
    for key, value in config.items():
        if isinstance(value, list) and len(value) == before:
            config[key] = value[:left]


def model_pruned(
    config: Mapping[str, Any],
    wishes: tuple[str, ...],
    *,
    name: str,
    file: str | None,
    ignored: frozenset[str],
    lenient: bool,
    head: str | None,
) -> Model:
    """The model of a pruned config; the arguments are those of ``model_from``.

    Raises:
        UnsupportedError: what is left is no config of the family.
        InputError: a wish that cannot be read, or a config that is wrong.
    """
    from tonnage.families import model_from

    less, told = pruned(config, wishes)
    try:
        model = model_from(less, file=file, ignored=ignored, lenient=lenient, head=head)
    except InputError as e:
        if not told:
            raise
        # Where a head's width is no key of the family, it follows from what was changed.
        raise UnsupportedError(
            f"a model with {', '.join(wishes)} is no config of {config.get('model_type')}: {e.message}",
            key="prune", value=", ".join(wishes), file=file,
        ) from None  # fmt: skip
    return model.but(name=f"{name or model.model_type}, pruned to {', '.join(wishes)}")
