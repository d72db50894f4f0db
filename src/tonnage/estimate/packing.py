"""Rows of several texts settled: what the batch is, and what such rows are not answered with."""

from __future__ import annotations

from typing import Final

from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.arch.texts import Texts
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.settle import asked_as
from tonnage.estimate.switches import refuse
from tonnage.estimate.wanted import Rows
from tonnage.releases import Version, since
from tonnage.stacks import Stack
from tonnage.workload.training import Train

SINCE: Final = (4, 53)
"""Release of transformers from which masks keep texts apart."""
FLAT: Final = "flat"
UNMODELLED: Final = "how {model} keeps the texts of a row apart is not modelled: answered as rows of one text"
UNTOLD: Final = ("persimmon",)
"""Types whose layers do not hand positions to flash-attn."""


def settled(
    model: Model,
    w: Train,
    stack: Stack,
    version: Version,
    kernel: AttentionKernel,
    batch: int,
    seq: int,
    compute: str,
) -> Rows:
    """The rows of a pass that hold several texts.

    Args:
        model: that is trained.
        w: the workload.
        stack, version: whose code runs.
        kernel: what computes attention.
        batch, seq: as they are asked for: rows of ``seq`` tokens.
        compute: format that attention computes in.

    Raises:
        UnsupportedError: packed rows are not modelled so.
        InputError: fewer texts than rows.
    """
    _refuse(w, stack, version, kernel)
    flat, count = w.packing == FLAT, counted(w, batch)
    if count < (1 if flat else batch):
        raise InputError(
            f"packed_texts = {count}: fewer texts than the batch has rows, {batch}", key="packed_texts", value=count,
            hint=f"--packed-texts {batch}",
        )  # fmt: skip
    rows, tokens = (1, batch * seq) if flat else (batch, seq)
    if not _modelled(model, kernel):
        return Rows(count=rows, tokens=tokens, doubt=(UNMODELLED.format(model=model.model_type),))
    brings = stack.masks and kernel != "flash_attention_2"
    texts = Texts(count, told=flat and since(version, stack.bounds), form=compute if brings else None)
    return Rows(count=rows, tokens=tokens, texts=texts, told=tuple(_told(w, texts, rows, tokens, kernel)))


def counted(w: Train, batch: int) -> int:
    """Texts of a pass: as many as are said; else a text for each ``seq`` tokens, or two in a row."""
    return w.packed_texts or (max(2, batch) if w.packing == FLAT else 2 * batch)


def _told(w: Train, texts: Texts, rows: int, tokens: int, kernel: AttentionKernel) -> list[str]:
    if not texts.found(rows) and texts.form is None:
        return [f"{texts.count} texts in {rows} rows of {tokens:,} tokens: no row holds two, and no mask is made"]
    said = [f"{texts.count} texts in {'one row' if rows == 1 else f'{rows} rows'} of {tokens:,} tokens"]
    if kernel == "flash_attention_2" and texts.separate(rows):
        if w.packed_texts is None:
            said[0] += ", as nothing else is said: each one more takes 128 rows of the backward pass's sums"
        return [*said, "flash-attn's kernels keep texts apart: stated from its code, its tensors traced without data"]
    if kernel == "flash_attention_2" and rows > 1:
        return [*said, "with several rows transformers does not look for texts: attention runs over each whole row"]
    if texts.form is not None:
        return [*said, f"a mask of {tokens:,} x {tokens:,} numbers a row comes with the batch, and all layers share it"]
    form = "in the format of the scores" if kernel == "eager" else "which every layer makes numbers of and keeps"
    return [
        *said,
        f"a mask of {tokens:,} x {tokens:,} a row keeps texts apart, {form}: --attention flash_attention_2 makes none",
    ]


def _refuse(w: Train, stack: Stack, version: Version, kernel: AttentionKernel) -> None:
    beside = {
        "objective": w.objective not in (None, "sft"), "padded": bool(w.padded),
        "mean_length": w.mean_length is not None, "eval_batch": w.eval_batch is not None, "compile": bool(w.compile),
        "logits_to_keep": w.logits_to_keep is not None, "virtual_tokens": w.virtual_tokens is not None,
        "offload": w.offload == "save-on-cpu", "target_seq": w.target_seq is not None,
    }  # fmt: skip
    refuse(w, beside, "packing with {key} = {value} is not modelled")
    if kernel in ("math", "unfused", "cudnn", "flex"):
        raise UnsupportedError(
            f"packing with attention = {asked_as(kernel)} is not modelled", key="attention", value=asked_as(kernel),
            hint="--attention eager or flash_attention_2, or --precision bf16",
        )  # fmt: skip
    if stack.restated is not None or stack.name == "unsloth":
        raise UnsupportedError(
            f"packing as {stack.name} does it is not modelled", key="packing", value=w.packing, hint="--stack trl"
        )
    if stack.name == "transformers" and version < SINCE:
        raise UnsupportedError(
            "packing before transformers 4.53 is not modelled: its masks do not keep texts apart", key="packing",
            value=w.packing, hint="leave out packing",
        )  # fmt: skip


def _modelled(model: Model, kernel: AttentionKernel) -> bool:
    """Whether a model takes the positions of tokens in a row, and attends to earlier tokens alone."""
    stem = model.decoder.stem
    # Mixers carry a state from text to text, and pictures have positions of three axes.
    other = any(t.role in ("mixer", "vision", "audio") for _, group in model.groups() for t in group)
    counted = any(t.fixed or t.counted or t.batched or t.offset for t in stem.tables)
    biased = stem.alibi is not None or stem.relative is not None
    positions = stem.position_ids in ("rotary", "row") and bool(stem.rotary or stem.tables)
    untold = kernel == "flash_attention_2" and model.model_type in UNTOLD
    return len(model.stacks) == 1 and model.causal and positions and not (other or counted or biased or untold)
