"""What is asked: the keys of a workload are the flags of the command line.

A key that is None was not said; the stack or engine decides it, and a result repeats what it decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
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

W = TypeVar("W", "Train", "Serve")


class Key(Record):
    """A key of a workload: how it is read, and what its flag on the command line is made of.

    Args:
        kind: how its value is read: "count" (from 1), "number" (from 0), "share" (above 0, at most 1), "part" (from 0,
            below 1), "ratio" (from 1), "switch", "size", "list" or "text".
        says: what it means, in one line, with what holds in brackets where it is not said.
        choices: the only values that it takes; any where none are given.
        heading: of help, under which its flag stands.
        wants: what help writes for its value.
    """

    kind: str
    says: str
    choices: tuple[str, ...] = ()
    heading: str = ""
    wants: str = ""

    @property
    def unsaid(self) -> Any:
        """The value of a field that was not said."""
        return () if self.kind == "list" else None


def key(kind: str, says: str, choices: tuple[str, ...] = (), *, heading: str = "", wants: str = "") -> Any:
    """A field of a workload that is a ``Key``."""
    return Key(kind, says, choices, heading, wants)


class Workload(Record):
    """Base of what is asked: a ``Key`` in the class body is a field that is None, or empty, where it is not said."""

    keys: ClassVar[Mapping[str, Key]] = {}
    task: str = ""

    def __init_subclass__(cls) -> None:
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Key)}
        for name, value in own.items():
            setattr(cls, name, value.unsaid)
        cls.keys = {**cls.keys, **own}
        super().__init_subclass__()


placed = partial(key, heading="Devices")


class Placed(Workload):
    """What every workload says: the devices, and how they share it."""

    gpu: str | None = placed("text", "A device (tonnage devices), a size such as 24GiB, or here.", wants="DEVICE")
    in_use: str | int | None = placed("size", "What others hold on it, such as 2341MiB.")
    gpus: int | None = placed("count", "Number of devices.")
    tp: int | None = placed("count", "Degree of tensor parallelism.")
    pp: int | None = placed("count", "Degree of pipeline parallelism.")
    cp: int | None = placed("count", "Degree of context parallelism.")
    ep: int | None = placed("count", "Degree of expert parallelism.")
    dp: int | None = placed("count", "Degree of data parallelism.")
    sharding: str | None = placed("text", "How data-parallel devices share weights and states", SHARDING)


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
    for name, value in said.items():
        if name not in known:
            raise InputError(f"unknown key {name!r}", key=name, value=value, nearest=nearest(name, known))
        if value is not None:
            values[name] = _checked(name, value, kind.keys.get(name))
    return kind(**values)


def _checked(name: str, value: Any, asked: Key | None) -> Any:
    """A value as its key's kind is read."""
    kind, choices = ("text", ()) if asked is None else (asked.kind, asked.choices)
    if kind == "list":
        if not isinstance(value, str | tuple | list) or not all(isinstance(v, str) for v in value):
            raise InputError(f"{name} is a list of texts, not {value!r}", key=name, value=value)
        parts = (value,) if isinstance(value, str) else value
        return tuple(_one_of(name, item.strip(), choices) for part in parts for item in part.split(","))
    if kind == "number" and str(value) == "0":
        return 0
    if kind in ("count", "number"):
        return parse_count(value, key=name)
    if kind == "switch":
        if not isinstance(value, bool):
            raise InputError(f"{name} is true or false, not {value!r}", key=name, value=value)
        return value
    if kind == "size":
        if not isinstance(value, str):
            raise InputError(
                f"{name} = {value!r} has no unit", key=name, value=value, hint="write for example '2341MiB'"
            )
        return value if value == "here" else parse_bytes(value, key=name)
    if kind in RANGES:
        says, within = RANGES[kind]
        number = _number(value)
        if number is None or not within(number):
            raise InputError(f"{name} is a number {says}, not {value!r}", key=name, value=value)
        return number
    if not isinstance(value, str):
        raise InputError(f"{name} is a text, not {value!r}", key=name, value=value)
    return _one_of(name, value, choices)


RANGES: Final[Mapping[str, tuple[str, Callable[[float], bool]]]] = {
    "share": ("from 0 to 1", lambda number: 0.0 < number <= 1.0),
    "part": ("from 0 to below 1", lambda number: 0.0 <= number < 1.0),
    "ratio": ("from 1 on", lambda number: 1.0 <= number < float("inf")),
}
"""Kinds that are numbers with a point, and what they may be."""


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if not choices or value in choices:
        return value
    if value.lower() in choices:
        return value.lower()
    raise InputError(
        f"{name} is one of {', '.join(choices)}, not {value!r}",
        key=name,
        value=value,
        nearest=nearest(value, choices),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
