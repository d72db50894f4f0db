"""The flags that keys of a workload are, under headings, with every name that may follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from tonnage.workload import Key, Workload

F = TypeVar("F", bound=Callable[..., Any])

WANTS: Final = {
    "count": "N", "number": "N", "share": "SHARE", "part": "SHARE", "ratio": "RATIO", "size": "SIZE", "list": "LIST",
}  # fmt: skip
"""What help writes for a value where a key says nothing better."""

NAMES: Final = {
    "adapter": "tonnage.estimate.methods:METHODS",
    "embed_loss": "tonnage.estimate.objectives.embed:LOSSES",
    "engine": "tonnage.engines",
    "fp8_recipe": "tonnage.estimate.float8:RECIPES",
    "loss": "tonnage.estimate.savers:NAMES",
    "objective": "tonnage.estimate.objectives",
    "optimizer": "tonnage.memory.optimizers:NAMES",
    "stack": "tonnage.stacks",
}
"""Where the names are that a key takes: a mapping or a list of a module, or the modules of a package."""


class Flag(click.Option):
    """An option that stands under a heading, and that lists the names it takes when help is asked for."""

    def __init__(
        self, *args: Any, heading: str = "", names: Callable[[], Iterable[str]] | None = None, **more: Any
    ) -> None:
        super().__init__(*args, **more)
        self.heading = heading
        self.names = names

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The flag, and what it means."""
        record = super().get_help_record(ctx)
        if record is None or self.names is None:
            return record
        return record[0], f"{record[1]}: {', '.join(self.names())}."


class Verb(click.Command):
    """A command whose help has a section for each heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Sections in the order in which their first flags stand; flags without a heading come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "heading", ""), []).append(record)
        last = sections.pop("", [])
        for heading, records in (*sections.items(), ("Options", last)):
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Apply options so that they are listed in the order given."""

    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


def headed(heading: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """The same, under a heading of help."""

    def apply(function: F) -> F:
        before = len(getattr(function, "__click_params__", ()))
        function = together(*options)(function)
        for param in function.__click_params__[before:]:  # type: ignore[attr-defined]
            param.heading = heading
        return function

    return apply


def text(flag: str, help: str, metavar: str = "TEXT", *, into: str | None = None, **more: Any) -> Callable[[F], F]:
    """An option that is checked by the core, which knows what it means; its value goes ``into`` that name."""
    return click.option(flag, *_into(into), cls=Flag, metavar=metavar, help=help, **more)


def switch(flag: str, help: str, *, into: str | None = None, **more: Any) -> Callable[[F], F]:
    """An option without a value: on, or with its opposite beside it on, off or not said."""
    default = None if "/" in flag else False
    return click.option(flag, *_into(into), cls=Flag, is_flag=True, default=default, help=help, **more)


def _into(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def flags(kind: type[Workload], *only: str) -> Callable[[F], F]:
    """The flags of a workload's keys.

    Args:
        kind: of workload.
        only: these keys, in this order; all where none are named.
    """

    return together(*[_flag(name, kind.keys[name]) for name in only or kind.keys])


def _flag(name: str, key: Key) -> Callable[[F], F]:
    flag = name.replace("_", "-")
    if key.kind == "switch":
        return switch(f"--{flag}/--no-{flag}", key.says, heading=key.heading)
    more: dict[str, Any] = {"multiple": True, "callback": _said} if key.kind == "list" else {}
    if key.choices or name in NAMES:
        more["names"] = lambda: key.choices or _listed(NAMES[name])
    return text(f"--{flag}", key.says, key.wants or WANTS.get(key.kind, "TEXT"), heading=key.heading, **more)


def _said(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    """A list that was not given was not said."""
    return value or None


def _listed(where: str) -> Iterable[str]:
    """Names at a place of ``NAMES``."""
    from importlib import import_module

    from tonnage.registry import names

    module, _, attribute = where.partition(":")
    if attribute:
        listed: Iterable[str] = getattr(import_module(module), attribute)
        return listed
    return [name.replace("_", "-") for name in names(module)]
