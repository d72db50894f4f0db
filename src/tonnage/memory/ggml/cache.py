"""llama.cpp's caches: cells of keys and values for every stream, and a state for every sequence.

Reference: src/llama-context.cpp (``n_ctx_seq``), src/llama-kv-cache.cpp, src/llama-kv-cache-iswa.cpp,
src/llama-memory-recurrent.cpp and src/llama-hparams.cpp (``n_embd_r``, ``n_embd_s``) of ggml-org/llama.cpp v0.5.0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.model import Model
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.formats import FORMATS
from tonnage.memory.ggml.recurrent import sizes
from tonnage.memory.ggml.weights import row_pad
from tonnage.record import Record

TYPES: Final = {
    "f32": "fp32", "fp32": "fp32", "f16": "fp16", "fp16": "fp16", "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0",
    "q4_1": "q4_1", "iq4_nl": "iq4_nl", "q5_0": "q5_0", "q5_1": "q5_1",
}  # fmt: skip
"""Formats of a cache (``--cache-type-k``, ``--cache-type-v``), and ours for them."""

PRINTED: Final = {"fp32": "f32", "fp16": "f16"}

PAD: Final = 256
"""Cells come in multiples of this."""

ALIGN: Final = 128
"""Of tensors in a buffer of CUDA. [byte]"""

WINDOWED: Final = (
    "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gpt_oss", "cohere2", "olmo3", "exaone4", "afmoe",
    "granite_swa", "mellum", "mimo_v2_flash", "laguna", "cohere2_moe", "exaone_moe", "llama4_text",
)  # fmt: skip
"""Models whose windowed layers have a cache of their own; others (Mistral, Phi-3, StarCoder2) keep every token."""


def padded(n: int, to: int = PAD) -> int:
    """The next multiple.

    >>> padded(257), padded(256)
    (512, 256)
    """
    return -(-n // to) * to


def cache_format(name: str | None, key: str) -> str:
    """Our name of a cache's format.

    Raises:
        InputError: no such format.
    """
    found = TYPES.get((name or "f16").lower())
    if found is None:
        raise InputError(
            f"{key} = {name}: llama.cpp keeps caches in {', '.join(TYPES)}", key=key, value=name,
            nearest=nearest(str(name), TYPES),
        )  # fmt: skip
    return found


def cache_block(b: Any) -> tuple[int, int, int, int | None, bool] | None:
    """Heads, their widths of keys and values, window, and whether it is latent; None for what has no cache."""
    if isinstance(b, GroupedQuery):
        return (b.K, b.H, b.value_width, b.window, False) if b.cached else None
    if isinstance(b, Latent):
        return 1, b.kv_rank + b.rope, b.kv_rank, b.window, True
    for part in getattr(b, "parts", ()):
        if hasattr(part, "K") and hasattr(part, "window"):
            return part.K, part.H, part.VH or part.H, part.window, False
    return cache_block(b.block) if hasattr(b, "block") else None


class Layer(Record):
    """What one layer keeps.

    Args:
        index: of the layer.
        keys, values: elements of a token; values 0 where keys stand for both.
        head: widths of a head's keys and values.
        window: tokens that it sees; None for all, or where llama.cpp keeps them all the same.
        states: elements of a sequence's convolution and recurrence; None for none.
    """

    index: int
    keys: int
    values: int
    head: tuple[int, int]
    window: int | None
    states: tuple[int, int] | None


def layers(model: Model) -> tuple[Layer, ...]:
    """What every layer keeps.

    Raises:
        UnsupportedError: a cache of a kind that is not known here.
    """
    windows = model.model_type in WINDOWED
    if model.model_type == "exaone4" and len(model.decoder.layers) != 64:
        windows = False
    known: dict[int, tuple[int, int, tuple[int, int], int | None, tuple[int, int] | None]] = {}
    out = []
    for index, layer in enumerate(model.decoder.layers):
        found = known.get(id(layer))
        if found is None:
            found = known[id(layer)] = _kept(layer.sublayers, windows, model)
        keys, values, head, window, states = found
        out.append(Layer(index, keys, values, head, window, states))
    return tuple(out)


def _kept(sublayers: Any, windows: bool, model: Model) -> Any:
    keys = values = 0
    head, window, states = (0, 0), None, None
    for sub in sublayers:
        b = sub.block
        cached, kept = cache_block(b), sizes(b)
        states = kept if kept is not None else states
        if cached is not None:
            K, H, VH, seen, latent = cached
            keys, values, head = K * H, 0 if latent else K * VH, (H, VH)
            window = seen if windows else None
        elif kept is None and getattr(b, "state", None) is not None and any(True for _ in b.state(1, 1)):
            raise UnsupportedError(
                f"llama.cpp's cache of {model.model_type} is not modelled yet", key="engine", value=model.model_type
            )
    return keys, values, head, window, states


class Cells(Record):
    """How many cells and streams the caches have.

    Args:
        context: cells of all streams together, as ``n_ctx`` prints.
        each: of one stream (``n_ctx_seq``).
        window: of one stream's windowed cache; None where no layer has one.
        streams: caches side by side.
        slots: states of recurrent layers.
    """

    context: int
    each: int
    window: int | None
    streams: int
    slots: int


def cells(
    kept: tuple[Layer, ...], context: int, sequences: int, ubatch: int, *, unified: bool, swa_full: bool
) -> Cells:
    """The cells that a context of so many tokens has.

    Args:
        kept: the model's layers.
        context: ``n_ctx``, over all sequences.
        sequences: ``n_seq_max``.
        ubatch: tokens of one pass.
        unified: one cache for all sequences.
        swa_full: windowed layers keep every token.
    """
    whole = padded(context)
    each = whole if unified else padded(whole // sequences)
    streams = 1 if unified else sequences
    windows = [layer.window for layer in kept if layer.window is not None]
    window = None
    if windows:
        window = padded(min(each, max(windows) * (sequences if unified else 1) + ubatch))
        window = each if swa_full else window
    return Cells(context=each * streams, each=each, window=window, streams=streams, slots=sequences)


class Caches(Record):
    """Bytes of the caches by device.

    Args:
        full: of layers that see every token. [byte]
        window: of windowed layers. [byte]
        states: of recurrent layers. [byte]
    """

    full: tuple[int, ...]
    window: tuple[int, ...]
    states: tuple[int, ...]

    def on(self, device: int) -> int:
        """Keys and values on one device. [byte]"""
        return self.full[device] + self.window[device]


def caches(
    kept: tuple[Layer, ...], c: Cells, k: str, v: str, *, where: Callable[[int], int], devices: int,
    padded_values: bool, cuda: bool,
) -> Caches:  # fmt: skip
    """The caches' bytes by device; the host comes last.

    Args:
        kept: the model's layers.
        c: cells.
        k, v: formats.
        where: device of a layer.
        devices: accelerators.
        padded_values: values lie transposed (no flash attention), and every layer takes the widest one's width.
        cuda: whether the accelerators' buffers pad quantized rows.
    """
    full, window, states = ([0] * (devices + 1) for _ in range(3))
    widest = max((layer.values for layer in kept), default=0)
    for layer in kept:
        at = where(layer.index)
        if layer.keys:
            n = c.each if layer.window is None else c.window or c.each
            values = widest if padded_values and layer.values else layer.values
            size = token_bytes(layer.keys, values, k, v) * n * c.streams
            if cuda and at < devices:
                size = sum(
                    padded(FORMATS[form].nbytes(width) * n * c.streams + row_pad(form, width), ALIGN)
                    for form, width in ((k, layer.keys), (v, values))
                    if width
                )
            (full if layer.window is None else window)[at] += size
        if layer.states is not None:
            states[at] += 4 * sum(layer.states) * c.slots
    return Caches(full=tuple(full), window=tuple(window), states=tuple(states))


def token_bytes(keys: int, values: int, k: str, v: str) -> int:
    """Bytes of one token in one layer. [byte]

    >>> token_bytes(1024, 1024, "fp16", "q8_0")
    3136
    """
    return FORMATS[k].nbytes(keys) + (FORMATS[v].nbytes(values) if values else 0)
