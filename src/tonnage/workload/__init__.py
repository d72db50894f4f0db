"""What is asked: the keys of a workload are the flags of the command line.

A key that is None was not said; the stack or engine decides it, and a result repeats what it decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from tonnage.errors import InputError, nearest
from tonnage.record import Record, fields
from tonnage.units import parse_bytes, parse_count

if TYPE_CHECKING:
    from tonnage.workload.serving import Serve
    from tonnage.workload.training import Train

ATTENTION: Final = (
    "eager", "sdpa", "flash", "efficient", "cudnn", "math", "flash_attention_2", "flash_attention_3", "flex",
)  # fmt: skip
SHARDING: Final = ("none", "ddp", "zero-1", "zero-2", "zero-3", "fsdp", "hsdp")
PRECISION: Final = (
    "fp32", "tf32", "bf16-mixed", "fp16-mixed", "bf16-autocast", "fp16-autocast", "bf16", "fp16", "bf16-master",
    "fp8", "fp8-autocast", "fp8-mixed",
)  # fmt: skip

CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "attention": ATTENTION,
    "sharding": SHARDING,
    "precision": PRECISION,
    "retain": ("outputs", "step-outputs", "last-outputs", "grads"),
    "offload": ("none", "activations", "save-on-cpu"),
    "task": ("train", "serve"),
    "experts": ("grouped_mm", "batched_mm", "eager"),
}
COUNTS: Final = (
    "batch", "accumulate", "seq", "context", "concurrency", "gpus", "tp", "pp", "cp", "ep", "dp", "lora_rank",
    "target_seq", "mean_length", "eval_batch", "logits_to_keep", "virtual_tokens", "encoder_hidden",
    "completion_length", "generations", "steps_per_generation", "iterations", "rollout_batch", "columns", "mini_batch",
    "rejected_length",
)  # fmt: skip
SWITCHES: Final = (
    "first_step", "kbit_prepared", "master", "replay", "optimizer_in_backward", "ema", "compile", "padded",
    "clip_grad_norm",
)  # fmt: skip
SIZES: Final = ("in_use",)
LISTS: Final = ("retain", "lora_targets", "adapter_options", "modules_to_save", "train_only")
SHARES: Final = ("lora_dropout", "rollout_share")
RATIOS: Final = ("expert_imbalance",)

W = TypeVar("W", "Train", "Serve")


class Key(Record):
    """A key that its flag on the command line is made of.

    Args:
        kind: how its value is read: "count" (from 1), "number" (from 0), "share" (from 0 to 1), "switch", "size",
            "choice" or "text".
        says: what it means, in one line.
        choices: the values of a choice.
    """

    kind: str
    says: str
    choices: tuple[str, ...] = ()


class Workload(Record):
    """Base of what is asked: a ``Key`` in the class body is a field that is None where it is not said."""

    keys: ClassVar[Mapping[str, Key]] = {}

    def __init_subclass__(cls) -> None:
        cls.keys = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}
        for name in cls.keys:
            setattr(cls, name, None)
        super().__init_subclass__()


def workload(kind: type[W], said: Mapping[str, Any]) -> W:
    """Check what was said and make a workload of it.

    Args:
        kind: ``Train`` or ``Serve``.
        said: keys and values; None counts as not said.

    Raises:
        InputError: an unknown key, a value of the wrong type or outside its set.

    >>> from tonnage.workload.training import Train
    >>> workload(Train, {"seq": "2k"}).seq
    2048
    """
    known = fields(kind)
    values: dict[str, Any] = {}
    task = kind.__name__.lower()
    if said.get("task", task) != task:
        raise InputError(f"task = {said['task']!r} is asked of {task}", key="task", value=said["task"])
    for key, value in said.items():
        if key not in known:
            raise InputError(f"unknown key {key!r}", key=key, value=value, nearest=nearest(key, known))
        if value is not None:
            values[key] = _checked(key, value, kind.keys.get(key))
    return kind(**values)


def _checked(key: str, value: Any, own: Key | None) -> Any:
    """A value as its kind is read; the lists above tell it where the key does not."""
    kind = None if own is None else own.kind
    if key in LISTS:
        if not isinstance(value, str | tuple | list) or not all(isinstance(v, str) for v in value):
            raise InputError(f"{key} is a list of texts, not {value!r}", key=key, value=value)
        parts = (value,) if isinstance(value, str) else value
        return tuple(_one_of(key, item.strip()) for part in parts for item in part.split(","))
    if kind == "number" and str(value) == "0":
        return 0
    if key in COUNTS or kind in ("count", "number"):
        return parse_count(value, key=key)
    if key in SWITCHES or kind == "switch":
        if not isinstance(value, bool):
            raise InputError(f"{key} is true or false, not {value!r}", key=key, value=value)
        return value
    if key in SIZES or kind == "size":
        if not isinstance(value, str):
            raise InputError(f"{key} = {value!r} has no unit", key=key, value=value, hint="write for example '2341MiB'")
        return value if value == "here" else parse_bytes(value, key=key)
    if key in SHARES or kind == "share":
        number = float(value) if isinstance(value, int | float | str) and _is_number(value) else -1.0
        if not 0.0 <= number <= 1.0 or (number == 1.0 if key in SHARES else number == 0.0):
            raise InputError(f"{key} is a number from 0 to 1, not {value!r}", key=key, value=value)
        return number
    if key in RATIOS:
        number = float(value) if isinstance(value, int | float | str) and _is_number(value) else 0.0
        if not 1.0 <= number < float("inf"):
            raise InputError(f"{key} is a number from 1 on, not {value!r}", key=key, value=value)
        return number
    if not isinstance(value, str):
        raise InputError(f"{key} is a text, not {value!r}", key=key, value=value)
    return _one_of(key, value, () if own is None else own.choices)


def _one_of(key: str, value: str, choices: tuple[str, ...] = ()) -> str:
    choices = choices or CHOICES.get(key, ())
    if value.lower() in choices:
        return value.lower()
    if choices and value not in choices:
        raise InputError(
            f"{key} is one of {', '.join(choices)}, not {value!r}",
            key=key,
            value=value,
            nearest=nearest(value, choices),
        )
    return value


def _is_number(value: object) -> bool:
    try:
        float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
