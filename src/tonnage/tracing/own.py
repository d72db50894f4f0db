"""A user's own function under the tracer, and errors of traced code by the line that made them."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.tracing.needs import HINT, PACKED_HINT, SHAPE_HINT, NeedsDataError, packed
from tonnage.tracing.stream import Traced

SHAPES: Final = ("DynamicOutputShapeException", "DynamicOutputShape", "GuardOnDataDependentSymNode")
DATA: Final = ("DataDependentOutputException",)
ARRAYS: Final = (
    ".numpy() is not supported for tensor subclasses", "Cannot copy out of meta tensor",
    "meta device type tensor to numpy", "Can't pickle local object 'set_up",
)  # fmt: skip
"""What torch says where data leaves a tensor."""
LEAVE: Final = "leave it out of what is traced"
NO_DEVICE: Final = "Torch not compiled with CUDA enabled"


def function_trace(job: Mapping[str, Any], tell: Callable[[Any], None] = lambda r: None) -> Traced:
    """Trace ``file.py:function`` or ``module:function``.

    Args:
        job: ``target``, ``calls`` and what a context takes.
        tell: given the recorder before anything runs.

    Raises:
        InputError: no such file or function, or its code is wrong or needs data.
    """
    from tonnage.tracing.context import Tracing

    target, _, name = str(job["target"]).rpartition(":")
    folder = os.path.dirname(os.path.abspath(target)) if target.endswith(".py") else os.getcwd()
    sys.path.insert(0, folder)
    tracing = Tracing(
        device=tuple(job["capability"]), workspace=job["workspace"], item=job["item"], backend=job["backend"],
        kernels=tuple(job["kernels"]),
    )  # fmt: skip
    try:
        with tracing:
            tell(tracing.recorder)
            tracing.phase("load")
            function = _loaded(target, name)
            for call in range(1, job["calls"] + 1):
                tracing.step(call)
                _ran(function(), target, name)
            tracing.phase("end")
    except TonnageError as e:
        # The context says what it is, and not where.
        cause = e.__cause__
        raise (blamed(cause, folder) if cause is not None and packed(cause) else e) from cause
    except (Exception, SystemExit, KeyboardInterrupt) as e:
        raise blamed(e, folder) from e
    return tracing.trace()


def _loaded(target: str, name: str) -> Callable[[], Any]:
    """The function that is named.

    Raises:
        InputError: there is none.
    """
    if target.endswith(".py"):
        if not os.path.isfile(target):
            raise InputError(f"no such file: {target}", key="target", value=target)
        found = runpy.run_path(target, run_name="traced").get(name)
    else:
        try:
            found = getattr(importlib.import_module(target), name, None)
        except ModuleNotFoundError as e:
            raise InputError(f"no module named {e.name}", key="target", value=target) from e
    if not callable(found):
        raise InputError(
            f"{target} has no function {name!r}", key="target", value=name, hint="tonnage trace train.py:step"
        )
    if inspect.isclass(found):
        raise InputError(
            f"{target}:{name} is a class, and a trace calls a function", key="target", value=name,
            hint="def step(): makes one and runs it",
        )  # fmt: skip
    with contextlib.suppress(ValueError):
        try:
            inspect.signature(found).bind()
        except TypeError as e:
            raise InputError(
                f"{target}:{name} is called without arguments: {e}", key="target", value=name,
                hint="def step(): calls it with what it needs",
            ) from e  # fmt: skip
    return found  # type: ignore[no-any-return]


def _ran(returned: Any, target: str, name: str) -> None:
    """Refuse what has not run yet.

    Raises:
        InputError: the function gives something that would.
    """
    kind = "generator" if inspect.isgenerator(returned) else "coroutine" if inspect.iscoroutine(returned) else None
    if kind is not None:
        returned.close()
        raise InputError(
            f"{target}:{name} returns a {kind}, of which nothing has run", key="target", value=name,
            hint="def step(): runs it to its end",
        )  # fmt: skip


def blamed(e: BaseException, folder: str | None) -> TonnageError:
    """An error of traced code, told by the line of the user's file.

    Args:
        e: the error.
        folder: of the user's file; None where the code is a library's.
    """
    kind = type(e).__name__
    where, line = _line(e, folder)
    at = f"{where}: " if where else ""
    code = f" ({line})" if line else ""
    if isinstance(e, SyntaxError) and e.filename:
        at = f"{os.path.relpath(e.filename)}:{e.lineno}: "
        return _as(folder, f"{at}{kind}: {e.msg} ({(e.text or '').strip()})", "python FILE says the same")
    if isinstance(e, SystemExit | KeyboardInterrupt):
        how = "sys.exit" if isinstance(e, SystemExit) else "an interrupt"
        return _as(folder, f"{at}the code ended itself by {how}{code}", "what is traced returns")
    if isinstance(e, NeedsDataError) or kind in DATA:
        return _as(folder, f"{at}a number is read out of a tensor, and a trace has no data{code}", HINT)
    if packed(e):
        words = f"{at}weights packed by bitsandbytes are not traced in code of one's own{code}"
        return UnsupportedError(words, key="trace", hint=PACKED_HINT)
    if any(said in str(e) for said in ARRAYS):
        return _as(folder, f"{at}an array, a list or a file is made of a tensor that has no data{code}", LEAVE)
    if kind in SHAPES or _shape(e):
        return _as(folder, f"{at}a shape depends on data that a trace does not have{code}", SHAPE_HINT)
    said = " ".join(str(e).split())
    if NO_DEVICE in said:
        return _as(folder, f"{at}the driver is asked, and a trace has no device{code}", LEAVE)
    return _as(
        folder, f"{at}{kind}: {said}"[:400] + code, "the traced code failed by itself: run it on a device or the CPU"
    )


def _as(folder: str | None, message: str, hint: str) -> TonnageError:
    if folder is None:
        return UnsupportedError(
            message, key="trace", hint="tonnage train and tonnage serve answer without running the code"
        )
    return InputError(message, key="trace", hint=hint)


def _shape(e: BaseException) -> bool:
    """Operations whose result's size depends on data have no kernel for meta tensors."""
    text = str(e)
    return "nonzero" in text or "data-dependent" in text or "aten::unique" in text or "masked_select" in text


def _line(e: BaseException, folder: str | None) -> tuple[str, str]:
    """File and line of the innermost frame that is the user's own, and its text."""
    frames = traceback.extract_tb(e.__traceback__)
    own = [f for f in frames if _is_own(f.filename, folder)] or ([] if folder is not None else frames[-1:])
    if not own:
        return "", ""
    last = own[-1]
    return (
        f"{os.path.relpath(last.filename) if folder else os.path.basename(last.filename)}:{last.lineno}",
        last.line or "",
    )


def _is_own(name: str, folder: str | None) -> bool:
    here = os.path.dirname(os.path.abspath(__file__))
    name = os.path.abspath(name)
    if folder is None:
        return False
    return name.startswith(folder + os.sep) and "site-packages" not in name and not name.startswith(here)
