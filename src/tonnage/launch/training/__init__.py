"""Configs and commands of training stacks, read into the keys of a workload.

One module per stack, with one constant: a table of the keys of its config. A key is read, or is told by name because it
changes memory in a way that is not answered, or is listed as one that cannot. What is on none of these lists is told by
name as well, so that nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import InputError
from tonnage.record import Record
from tonnage.registry import chosen, names, variant

PACKAGE: Final = "tonnage.launch.training"
ALIASES: Final = {
    "llamafactory": "llama_factory",
    "hf": "transformers",
    "trainer": "transformers",
}


class Key(Record):
    """A key of a config that memory depends on.

    Args:
        names: all its spellings, with dots where it stands inside of others; ``*`` stands for any text.
        key: of the workload; what begins with an underscore is the stack's own, settled by its ``finish``.
        reads: its value, with the key's name; None is not said.
        matters: what it does to memory, where that is not modelled.
        harmless: values of such a key with which it does nothing; null, false, and what is empty always are.
    """

    names: tuple[str, ...]
    key: str = ""
    reads: Callable[[Any, str], Any] = staticmethod(lambda value, _: value)
    matters: str = ""
    harmless: tuple[Any, ...] = ()


class Settled(Record):
    """What a config comes to.

    Args:
        said: keys of the workload.
        unmodelled: what changes memory in a way that is not answered.
        told: what has to be said, though nothing is in doubt.
    """

    said: dict[str, Any]
    unmodelled: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


class Config(Record):
    """How one stack is configured.

    Args:
        stack: as a workload has it.
        keys: those that memory depends on.
        inert: patterns of keys that cannot change memory.
        marks: sets of keys of which one stands whole in every config of the stack, and in no other's.
        finish: settles what several keys decide together: takes keys as read, ``_model`` among them.
        programs: what its commands begin with, word by word.
        file: the flag that names the config; "" where it is the first argument that is no flag.
        overrides: arguments that are ``key=value`` win over the file.
        flags: the command's own flags are keys of the config.
        endings: of its files.
        fields: keys that are mappings of their own, kept whole.
        reference: the code that reads it.
    """

    stack: str
    keys: tuple[Key, ...]
    inert: tuple[str, ...]
    marks: tuple[frozenset[str], ...]
    finish: Callable[[dict[str, Any]], Settled]
    reference: str
    programs: tuple[tuple[str, ...], ...] = ()
    file: str = ""
    overrides: bool = False
    flags: bool = False
    fields: tuple[str, ...] = ()


class Job(Record):
    """What a training config says.

    Args:
        stack: whose config it is.
        model: as it names it; None where it names none.
        said: keys of the workload.
        unmodelled: what changes memory in a way that is not answered.
        told: what has to be said beside.
        origin: the file or the command, in words.
    """

    stack: str
    model: str | None
    said: Mapping[str, Any]
    unmodelled: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    origin: str = ""


def configs() -> tuple[Config, ...]:
    """Every stack whose configs are read."""
    return tuple(variant(PACKAGE, name, "CONFIG", Config) for name in names(PACKAGE))


def config(name: str) -> Config:
    """The stack of that name.

    Raises:
        InputError: there is none.
    """
    return chosen(PACKAGE, name, "CONFIG", Config, key="stack", what="stack", aliases=ALIASES)


def read(text: str, stack: str | None = None) -> Job:
    """The workload that a config file or a command asks for.

    Args:
        text: a path, or what is typed into a shell.
        stack: whose config it is; None to recognise it by its keys.

    Raises:
        SourceError: the file is not there.
        UnsupportedError: a library is missing that reads files of its kind.
        InputError: no config, or one that contradicts itself.
    """
    from tonnage.launch.training._reading import job

    return job(text, stack)


def named(job: Job) -> str:
    """The model that a config names.

    Raises:
        InputError: none.
    """
    if not job.model:
        raise InputError(
            f"{job.origin} names no model that is known", key="model",
            hint="add --model NAME, as tonnage models lists them, or a config.json",
        )  # fmt: skip
    return job.model
