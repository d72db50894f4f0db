"""Parts of torch and transformers that a trace of a model has no use for, loaded only where they are touched.

Two thirds of the time of a short trace go into imports, and a third of those into the compiler, the exporter, the
distributed tensors and a list of every class of every model. A package in WAITING runs its code when something beyond
the answers given there is asked of it; transformers is told that torch has no distributed package, as some builds have
none; its list of classes is made when a name is asked for that it would be needed to find. The answers are what code
that is not compiled gets anyway.

All of it is private to a release: other releases than those in KNOWN are imported as they are, which takes longer and
gives the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, version
from operator import and_, or_
from types import ModuleType
from typing import Any, Final

KNOWN: Final = {"torch": ("2.13.",), "transformers": ("5.23.",)}
"""Releases whose imports are known."""
STRUCTURES: Final = "transformers.utils.import_utils"


def _as_is(fn: Any = None, *args: Any, **how: Any) -> Any:
    """A function marked for the compiler: itself."""
    return fn if fn is not None else lambda f: f


def _of_numbers(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
    """What a function on symbolic sizes gives for plain ones; the function itself for others."""

    def asked(*args: Any, **how: Any) -> Any:
        if not how and all(map(_plain, args)):
            return answer(*args)
        return _real(SYMBOLS, name)(*args, **how)

    return asked


def _real(module: str, name: str) -> Any:
    """What a module that waits has under a name, once it is loaded."""
    load(sys.modules[module])
    return getattr(sys.modules[module], name)


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    # A tensor is, if its sizes are.
    return type(value) in (bool, int) or getattr(value, "_has_symbolic_sizes_strides", None) is False


class _Absent(type):
    """Of a class in a module that waits: it has no instances before its module is loaded, which making one does."""

    def __call__(cls, *args: Any, **how: Any) -> Any:
        return _real(cls.__module__, cls.__name__)(*args, **how)

    def __instancecheck__(cls, value: object) -> bool:
        module = sys.modules[cls.__module__]
        return PENDING not in module.__dict__ and isinstance(value, getattr(module, cls.__name__))


def _absent(module: str, name: str) -> dict[str, Any]:
    return {name: _Absent(name, (), {"__module__": module})}


PENDING: Final = "_pending"
"""Where a module that waits holds what loads it."""
SYMBOLS: Final = "torch.fx.experimental.symbolic_shapes"
MASKS: Final = "torch._dynamo._trace_wrapped_higher_order_op"
ALGEBRA: Final = "sympy"
MAXIMA: Final = "torch.utils._sympy.functions"
ITSELF: Final = ("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true")
"""Functions of it that give back a plain truth value."""

WAITING: Final[dict[str, dict[str, Callable[..., Any]]]] = {
    SYMBOLS: {
        "guarding_hint_or_throw": _of_numbers("guarding_hint_or_throw", lambda size: size),
        **{name: _of_numbers(name, lambda known: known) for name in ITSELF},
        "is_nested_int": _of_numbers("is_nested_int", lambda size: False),
        "has_guarding_hint": _of_numbers("has_guarding_hint", lambda size: True),
        **{name: _of_numbers(name, lambda value: frozenset()) for name in ("free_symbols", "free_unbacked_symbols")},
        **{name: _of_numbers(name, lambda value: False) for name in ("has_free_symbols", "has_free_unbacked_symbols")},
        "sym_and": _of_numbers("sym_and", lambda *known: reduce(and_, known)),
        "sym_or": _of_numbers("sym_or", lambda *known: reduce(or_, known)),
        "sym_eq": _of_numbers("sym_eq", lambda a, b: a == b),
    },
    MASKS: _absent(MASKS, "TransformGetItemToIndex"),
    ALGEBRA: _absent(ALGEBRA, "Basic"),
    MAXIMA: _absent(MAXIMA, "Max"),
    "torch._dynamo": {
        "disable": _as_is,
        "allow_in_graph": _as_is,
        "assume_constant_result": _as_is,
        "graph_break": lambda msg="": None,
    },
    "torch.export": {},
}
"""Packages and modules that wait, and what they answer until they are loaded."""
LIGHT: Final = frozenset(("torch._dynamo.config",))
"""Modules of them that need no more of their package than its name."""
BESIDE: Final = {SYMBOLS: "torch.fx.experimental._config"}
"""What code that asks a module relies on it to have imported."""


def install() -> Finder | None:
    """Have packages wait from here on; None where a release is not known, or torch is there already."""
    if "torch" in sys.modules or not all(_known(name) for name in KNOWN):
        return None
    finder = Finder()
    sys.meta_path.insert(0, finder)
    return finder


def _known(name: str) -> bool:
    try:
        return version(name).startswith(KNOWN[name])
    except PackageNotFoundError:
        return False


class Finder:
    """Finds the packages that wait, loads one whose modules are asked for, and changes how transformers lists classes.

    What waits may still be loaded once this no longer stands in ``sys.meta_path``.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module that is changed; None for all others."""
        package = name.rpartition(".")[0]
        if package in WAITING and name not in LIGHT and name not in WAITING:
            return _loaded_with(sys.modules[package], name)
        if name not in WAITING and name != STRUCTURES:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = Waits(spec.loader) if name in WAITING else Changes(spec.loader)
        return spec


class Waiting(ModuleType):
    """A package whose code has not run: what it is asked for, beyond the answers it has, makes it run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or PENDING not in self.__dict__:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        load(self)
        return getattr(self, name)


def load(package: ModuleType) -> None:
    """Run the code of a package that waits; nothing where it has run."""
    loader = package.__dict__.pop(PENDING, None)
    if loader is None:
        return
    for name in WAITING[package.__name__]:
        package.__dict__.pop(name, None)
    if package.__spec__ is not None:
        package.__spec__.loader = package.__loader__ = loader
    package.__class__ = ModuleType
    loader.exec_module(package)


class Waits(Loader):
    """Makes a package that waits; ``real`` loads it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The package, empty."""
        return Waiting(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Its answers, and not its code."""
        if module.__name__ in BESIDE:
            import_module(BESIDE[module.__name__])
        module.__dict__.update({**WAITING[module.__name__], PENDING: self.real})


def _loaded_with(package: ModuleType, name: str) -> ModuleSpec | None:
    """The spec of a module whose package had to be loaded first, and may have loaded it."""
    load(package)
    there = sys.modules.get(name)
    if there is None or there.__spec__ is None:
        return None
    # The import that asked would run its code again.
    there.__spec__.loader = There(there, there.__spec__.loader)
    return there.__spec__


class There(Loader):
    """Gives a module that is there, once."""

    def __init__(self, module: ModuleType, real: Any) -> None:
        self.module = module
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module."""
        spec.loader = self.real
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        """Its code has run."""


class Changes(Loader):
    """Loads transformers' module on what is installed and what is exported, and changes three names of it."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The module, as ever."""
        return self.real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        """Run it, then change it."""
        self.real.exec_module(module)
        names = module.__dict__
        names["is_torch_distributed_available"] = lambda: False
        names["_LazyModule"] = listed_late(names["_LazyModule"])
        whole = names["define_import_structure"]

        def define(module_path: Any, prefix: str | None = None) -> Mapping[Any, Any]:
            every = str(module_path).rstrip("/").removesuffix("/__init__.py").endswith("/transformers/models")
            return Later(whole, module_path, prefix) if every else whole(module_path, prefix)

        names["define_import_structure"] = define


class Later(dict[frozenset[str], dict[str, set[str]]]):
    """What a package exports, as far as its own code says it; the modules of its folder are not yet looked at."""

    def __init__(self, define: Callable[..., Mapping[Any, Any]], *where: Any) -> None:
        super().__init__({frozenset(): {}})
        self.define = define
        self.where = where

    def whole(self) -> dict[frozenset[str], dict[str, set[str]]]:
        """With those of its folder."""
        found = {backends: dict(modules) for backends, modules in self.define(*self.where).items()}
        for backends, modules in self.items():
            found.setdefault(backends, {}).update(modules)
        return found


def listed_late(lazy: type[Any]) -> type[Any]:
    """transformers' module of names, whose list is completed when it does not have one."""

    class ListedLate(lazy):  # type: ignore[misc]
        """Its list may be a Later."""

        def __init__(self, name: str, module_file: str, import_structure: Mapping[Any, Any], **more: Any) -> None:
            super().__init__(name, module_file, import_structure, **more)
            if isinstance(import_structure, Later):
                self._later = (import_structure, more)

        def _complete(self) -> None:
            found = self.__dict__.pop("_later", None)
            if found is not None:
                later, more = found
                super().__init__(self._name, self.__file__, later.whole(), **more)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                if name.startswith("__") or "_later" not in self.__dict__:
                    raise
            if PathFinder.find_spec(f"{self._name}.{name}", self.__path__) is not None:
                return import_module(f"{self._name}.{name}")
            self._complete()
            return getattr(self, name)

        def __dir__(self) -> list[str]:
            self._complete()
            return super().__dir__()  # type: ignore[no-any-return]

    ListedLate.__name__ = lazy.__name__
    return ListedLate
