"""Inverse questions as tables: the same estimate, made for every value of one key or of two.

The largest context, the largest concurrency, the largest quantization and the smallest number of devices that fit are
rows of such tables; nothing here knows a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.devices import Device, device, names
from tonnage.errors import InputError, TonnageError, UnsupportedError, nearest
from tonnage.estimate.result import Result
from tonnage.estimate.serve import answer
from tonnage.memory.pool.served import longest
from tonnage.workload.serving import Serve

KEYS: Final = ("context", "concurrency", "quant", "kv_dtype", "gpus", "gpu")
LEAST: Final = 1024
"""Tokens of the shortest context in a table."""
SEQUENCES: Final = tuple(2**i for i in range(11))
DEGREES: Final = (1, 2, 4, 8, 16, 32, 64)
SCHEMES: Final = ("none", "int8", "ct-int8", "fp8", "fp8-block", "nf4", "awq-int4", "gptq-int4", "mxfp4", "nvfp4")
FILES: Final = ("none", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "iq3_xxs", "q2_k", "iq2_xxs", "iq1_s")
CACHES: Final = {
    "llamacpp": ("f16", "q8_0", "q5_1", "q4_0"),
    "transformers": ("bf16",),
    "vllm": ("bf16", "fp8", "int8_per_token_head", "nvfp4", "fp8_ds_mla"),
}
DEFAULT_CACHES: Final = ("bf16", "fp8_e4m3", "nvfp4")
MOST_ROWS: Final = 400


def table(model: Model, w: Serve, where: Device | None, in_use: int, keys: str) -> dict[str, Any]:
    """Answers for every value of one key, or of every pair of two.

    Args:
        model: that runs.
        w: the workload whose keys are gone through.
        where: the device.
        in_use: what others hold there. [byte]
        keys: one or two of ``KEYS``, with a comma between.

    Returns:
        ``keys``; ``rows``, each with its values, ``verdict``, ``device_bytes``, ``weights_bytes``, ``kv_bytes``,
        ``max_context``, ``max_concurrency`` and ``refused``, why there is no answer; ``best``: the row that answers the
        inverse question, None where no row fits.

    Raises:
        InputError: an unknown key, or no device where one is needed.
        UnsupportedError: the workload itself is refused.
    """
    asked = _keys(keys, where)
    base = answer(model, w, where, in_use=in_use, capacity=False)
    axes = [list(_values(key, model, w, base)) for key in asked]
    combined = [(v,) for v in axes[0]] if len(axes) == 1 else [(a, b) for a in axes[0] for b in axes[1]]
    if len(combined) > MOST_ROWS:
        raise InputError(f"a table of {len(combined):,} rows", key="table", value=keys, hint=f"at most {MOST_ROWS}")
    wants = len(asked) == 1
    rows = [_row(model, w, where, in_use, dict(zip(asked, values, strict=True)), search=wants) for values in combined]
    if "quant" in asked or "kv_dtype" in asked:
        rows = [row for row in rows if row["refused"] is None]
    if asked == ("quant",):
        rows.sort(key=lambda row: -int(row["weights_bytes"]))
    return {"keys": list(asked), "rows": rows, "best": _best(asked, rows)}


def _keys(text: str, where: Device | None) -> tuple[str, ...]:
    found = tuple(part.strip().replace("-", "_").lower() for part in text.split(",") if part.strip())
    for key in found:
        if key not in KEYS:
            raise InputError(
                f"no table over {key!r}", key="table", value=key, nearest=nearest(key, KEYS),
                hint=f"one or two of {', '.join(KEYS)}",
            )  # fmt: skip
    if not 1 <= len(found) <= 2 or len(set(found)) != len(found):
        raise InputError("a table goes through one key or two", key="table", value=text, hint=f"of {', '.join(KEYS)}")
    if where is None and "gpu" not in found:
        raise InputError("a table of what fits needs a device", key="table", value=text, hint="add --gpu")
    return found


def _values(key: str, model: Model, w: Serve, base: Result) -> Iterator[Any]:
    """The values of a key that are gone through, from small to large memory where there is such an order."""
    engine = str(base.workload["engine"])
    if key == "context":
        most = longest(model) or 2**20
        yield from _doubling(LEAST, most)
    elif key == "concurrency":
        yield from SEQUENCES
    elif key == "gpus":
        yield from DEGREES
    elif key == "gpu":
        yield from names()
    elif key == "kv_dtype":
        yield from CACHES.get(engine, DEFAULT_CACHES)
    else:
        if model.quantization is not None:
            yield "checkpoint"
        yield from FILES if engine == "llamacpp" else SCHEMES


def _doubling(least: int, most: int) -> Iterator[int]:
    """Twice as much each time, and the most at the end.

    >>> list(_doubling(1024, 5000))
    [1024, 2048, 4096, 5000]
    """
    size = least
    while size < most:
        yield size
        size *= 2
    yield most


def _row(
    model: Model, w: Serve, where: Device | None, in_use: int, change: Mapping[str, Any], *, search: bool
) -> dict[str, Any]:
    """The answer for one set of values."""
    out: dict[str, Any] = {
        **change, "verdict": None, "device_bytes": None, "weights_bytes": None, "kv_bytes": None, "max_context": None,
        "max_concurrency": None, "refused": None,
    }  # fmt: skip
    keys = dict(change)
    if "gpus" in keys:
        # So many devices as one rank each: a degree that was said gives way.
        keys["tp"] = None
    try:
        place = device(keys["gpu"]) if "gpu" in keys else where
        if where is not None and place is not None and place.name == where.name:
            # With what was measured on it.
            place = where
        result = answer(model, w.but(**keys), place, in_use=in_use, capacity=search)
    except (InputError, UnsupportedError) as e:
        return {**out, "refused": e.message}
    except TonnageError as e:
        return {**out, "refused": str(e)}
    found = result.capacity or {}
    return {
        **out,
        "verdict": result.fit.verdict if result.fit is not None else None,
        "device_bytes": result.fullest.tier("device"),
        "weights_bytes": sum(c.bytes for c in result.fullest.components if c.name == "weights"),
        "kv_bytes": found.get("kv_bytes"),
        "max_context": found.get("max_context"),
        "max_concurrency": found.get("max_concurrency"),
    }


def _best(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row that answers the question of one key: the most that fits, of devices the fewest.

    Of quantizations and caches it is the one that keeps most: the fullest device that still fits.
    """
    fitting = [row for row in rows if row["verdict"] == "fits"]
    if len(keys) != 1 or not fitting:
        return None
    key = keys[0]
    if key == "gpus":
        return min(fitting, key=lambda row: int(row[key]))
    if key in ("context", "concurrency"):
        return max(fitting, key=lambda row: int(row[key]))
    if key == "model":
        return max(fitting, key=lambda row: int(row["parameters"]))
    return fitting[0] if key in ("quant", "kv_dtype") else None


def models(
    load: Callable[[str], Model], known: Iterable[str], w: Serve, where: Device | None, in_use: int
) -> dict[str, Any]:
    """Which models fit, the largest first: a table over their names.

    Args:
        load: reads a model by its name.
        known: the names.
        w: what each is asked; a context beyond a model's positions is cut to them.
        where: the device.
        in_use: what others hold there. [byte]

    Raises:
        InputError: no device.
    """
    if where is None:
        raise InputError("a table of what fits needs a device", key="table", value="model", hint="add --gpu")
    rows = []
    for name in known:
        model = load(name)
        asked = w.but(context=min(w.context, longest(model) or w.context)) if w.context is not None else w
        row = _row(model, asked, where, in_use, {}, search=False)
        if row["refused"] is None:
            rows.append({"model": name, "parameters": model.parameters.total, **row})
    rows.sort(key=lambda row: -int(row["parameters"]))
    return {"keys": ["model"], "rows": rows, "best": _best(("model",), rows)}
