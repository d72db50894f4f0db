"""What a workload leaves open, settled as the stack, the engine and torch would; and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from tonnage.arch import flash_attention
from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.forward import AttentionKernel
from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.formats import storage_format
from tonnage.record import fields, stated

if TYPE_CHECKING:
    from tonnage.placement.mesh import Mesh
    from tonnage.quant import Recipe
    from tonnage.workload.serving import Serve
    from tonnage.workload.training import Train

SEVERAL: Final = ("gpus", "tp", "pp", "cp", "ep", "dp")
HINT_ONE: Final = "answers are for one device so far; without it ({flag} beside --from) the whole model is on one"


def one_device(w: Train | Serve) -> dict[str, Any]:
    """Degrees and sharding of a single device; anything else is refused."""
    for key in SEVERAL:
        degree = getattr(w, key)
        if degree is not None and degree != 1:
            raise UnsupportedError(
                f"{key} = {degree}: several devices are not modelled yet", key=key, value=degree,
                hint=HINT_ONE.format(flag=f"--{key} 1"),
            )  # fmt: skip
    if w.sharding not in (None, "none"):
        raise UnsupportedError(
            f"sharding = {w.sharding}: several devices are not modelled yet", key="sharding", value=w.sharding,
            hint=HINT_ONE.format(flag="--sharding none"),
        )  # fmt: skip
    return {**dict.fromkeys(SEVERAL, 1), "sharding": "none"}


def serving_mesh(w: Serve) -> Mesh:
    """Degrees of parallelism; ``gpus`` alone is tensor parallelism.

    Raises:
        InputError: the degrees do not make up the devices.
        UnsupportedError: weights sharded over data-parallel ranks, which no engine does.
    """
    if w.sharding not in (None, "none"):
        raise UnsupportedError(
            f"sharding = {w.sharding}: engines do not shard weights over data-parallel ranks",
            key="sharding", value=w.sharding, hint="--tp, --pp, --ep",
        )  # fmt: skip
    # Imported late: training does not need it yet.
    from tonnage.placement.mesh import Mesh

    degrees: dict[str, Any] = {key: getattr(w, key) or 1 for key in ("dp", "cp", "tp", "pp")}
    if w.gpus is not None and w.tp is None:
        rest = degrees["dp"] * degrees["cp"] * degrees["pp"]
        degrees["tp"] = max(w.gpus // rest, 1)
    mesh = Mesh(**degrees, ep=w.ep or 1)
    if w.gpus is not None and mesh.world != w.gpus:
        told = " x ".join(f"{key} {n}" for key, n in degrees.items() if n > 1) or "1"
        raise InputError(f"gpus = {w.gpus}, but {told} = {mesh.world}", key="gpus", value=w.gpus)
    return mesh


def refuse(
    w: Train | Serve, key: str, why: str, *, unless: tuple[object, ...] = (None,), hint: str | None = None
) -> None:
    """Refuse a key whose value is understood and not modelled."""
    value = getattr(w, key)
    if value not in unless and value != ():
        raise UnsupportedError(f"{key} = {value}: {why}", key=key, value=str(value), hint=hint)


def tokens_within(model: Model, tokens: int, key: str) -> list[str]:
    """Refuse lengths beyond a table of positions; a caveat beyond trained ones."""
    limit = model.positions
    if limit is None or tokens <= limit:
        return []
    if model.table:
        raise UnsupportedError(
            f"{key} = {tokens:,} is beyond the {limit:,} positions of {model.name}: its position table ends there",
            key=key, value=tokens, hint=f"at most --{key.replace('_', '-')} {limit}",
        )  # fmt: skip
    return [f"{key} = {tokens:,} is beyond the {limit:,} positions that the model was trained for"]


def default_length(model: Model, longest: int) -> int:
    """The default length: ``longest``, or the model's positions where they are fewer."""
    return min(longest, model.positions or longest)


def loaded_in(model: Model, form: str) -> Model:
    """The model as transformers loads it in that format: some of it stays in fp32 where fp16 is asked for."""
    if form != "fp16" or not model.fp32_for_fp16:
        return model
    return model.but(fp32=(*model.fp32, *model.fp32_for_fp16))


def kernel(model: Model, asked: str, *, dtype: str, device: Device | None) -> tuple[AttentionKernel, list[str]]:
    """What computes attention: ``sdpa`` picks as torch does on that device.

    Args:
        model: its heads decide what a kernel accepts.
        asked: "eager", "sdpa", or the kernel that sdpa is held to: "flash", "efficient" (with the heads repeated where
            they are grouped), "cudnn", "math"; "flash_attention_2" and "flex" as packages call them.
        dtype: format in which attention is computed.
        device: None when none is named: then one with flash attention is meant.

    Returns:
        The kernel, and caveats.
    """
    if asked == "eager":
        return "eager", []
    if asked == "flex":
        # Imported late: few ask for it.
        from tonnage.estimate.flexible import flexible

        return flexible(model), []
    if model.eager_only:
        if asked not in ("sdpa", "efficient", "math"):
            raise UnsupportedError(
                f"attention = {asked} is not modelled for {model.model_type}, which sdpa does not run",
                key="attention", value=asked, hint="--attention eager",
            )  # fmt: skip
        return "eager", [f"transformers runs {model.model_type} with eager attention only"]
    if asked in ("efficient", "math"):
        return "efficient" if asked == "efficient" else "unfused", []
    if asked in ("flash_attention_2", "flash_attention_3"):
        return packaged(model, asked, dtype=dtype, device=device), []
    blocks = attention_blocks(model)
    architecture = device.architecture if device is not None else ""
    fit = [b for b in blocks if flash_attention.takes(*_widths(b))]
    # A layer whose heads alone do not fit runs another kernel (``arch/kernels.py``).
    why_not = _no_flash(fit if fit and asked == "sdpa" else blocks, dtype, architecture)
    if asked == "cudnn":
        odd = [b for b in blocks if (b.H if isinstance(b, GroupedQuery) else b.nope + b.rope) % 8]
        why_not = why_not or ("heads are no multiple of eight wide" if odd else None)
        if why_not is not None:
            raise InputError(
                f"cuDNN's attention refuses this: {why_not.replace('flash attention', 'it')}", key="attention",
                value=asked, hint="--attention sdpa",
            )  # fmt: skip
        return "cudnn", []
    if why_not is None:
        return "flash", []
    if asked == "flash":
        raise InputError(
            f"flash attention refuses this: {why_not}", key="attention", value=asked, hint="--attention sdpa"
        )
    # Where heads do not fit, transformers repeats the grouped ones.
    grouped = any(isinstance(b, GroupedQuery) and b.K != b.N and not b.repeats for b in fit)
    if grouped:
        return "math", [f"{why_not}, and the memory-efficient kernel takes no grouped heads"]
    return "efficient", [why_not]


WITHOUT_FLASH: Final = frozenset((
    "axk2", "blt", "deepseek_v32", "doge", "dots3_note", "dots3_note_text", "glm_moe_dsa", "granite_speech",
    "granite_speech_plus", "inkling_text", "layoutlm", "llama4", "llama4_text", "minimax_m3_vl_text", "mllama", "mt5",
    "qwen4_exp", "qwen4_exp_text", "seamless_m4t", "seamless_m4t_v2", "t5", "t5gemma2", "umt5",
))  # fmt: skip
"""Types whose class in transformers 5.23 says that it does not support flash-attn, though it does support sdpa."""
OWN_FLASH: Final = frozenset(("bark", "falcon", "gpt_bigcode"))
"""Types whose code calls flash-attn in a way of its own."""
ALIGNED: Final = 8
"""Widths of heads that flash-attn does not pad."""


def packaged(model: Model, asked: str, *, dtype: str, device: Device | None) -> AttentionKernel:
    """flash-attn's own kernels, which transformers calls by the name of their release.

    Raises:
        UnsupportedError: transformers does not run the model with them, or their tensors are not modelled.
        InputError: the kernels refuse the format, the heads or the device.
    """
    hint = "--attention sdpa"
    if asked == "flash_attention_3":
        raise UnsupportedError(
            f"attention = {asked} is traced, and has no closed form", key="attention", value=asked,
            hint="tonnage trace --attention flash_attention_3",
        )  # fmt: skip
    if model.model_type in WITHOUT_FLASH:
        raise UnsupportedError(
            f"transformers does not run {model.model_type} with flash-attn", key="attention", value=asked, hint=hint
        )
    blocks = attention_blocks(model)
    why_not = _no_flash(blocks, dtype, device.architecture if device is not None else "")
    if why_not is not None and "differ" not in why_not:
        raise InputError(f"flash-attn refuses this: {why_not}", key="attention", value=asked, hint=hint)
    odd = any(isinstance(b, GroupedQuery) and b.H % ALIGNED for b in blocks)
    if why_not is not None or odd or model.model_type in OWN_FLASH:
        why = why_not or ("heads are padded" if odd else f"{model.model_type} calls it in a way of its own")
        raise UnsupportedError(
            f"attention = {asked} is not modelled where {why}", key="attention", value=asked,
            hint="tonnage trace runs its code",
        )  # fmt: skip
    return "flash_attention_2"


def attention_blocks(model: Model) -> list[GroupedQuery | Latent]:
    """The attention of each different layer."""
    subs = [sub for stack in model.stacks for layer, _ in stack.distinct() for sub in layer.sublayers]
    # What is gated holds what attends.
    found = (getattr(sub.block, "inner", sub.block) for sub in subs)
    return [block for block in found if isinstance(block, GroupedQuery | Latent)]


def _no_flash(blocks: list[GroupedQuery | Latent], dtype: str, architecture: str) -> str | None:
    if dtype not in ("bf16", "fp16"):
        return f"flash attention takes 16-bit formats, not {dtype}"
    major = architecture.removeprefix("sm_").rstrip("abcdef")[:-1]
    if architecture.startswith("sm_") and major.isdigit() and int(major) < 8:
        return f"flash attention needs sm_80, not {architecture}"
    for b in blocks:
        width, value = _widths(b)
        if width != value:
            return f"keys of width {width} and values of width {value} differ"
        if width > flash_attention.WIDEST:
            return f"heads of width {width} exceed {flash_attention.WIDEST}"
    return None


def _widths(b: GroupedQuery | Latent) -> tuple[int, int]:
    """Of a head's keys and values."""
    return (b.H, b.value_width) if isinstance(b, GroupedQuery) else (b.nope + b.rope, b.VH)


AS_NEWEST: Final = "the blocks' forward passes are those of transformers 5.23"


KERNELS: Final = {
    "flash": "flash attention",
    "flash_attention_2": "flash-attn 2.8",
    "flex": "flex attention, compiled where it is called",
    "efficient": "the memory-efficient kernel",
    "cudnn": "cuDNN's attention",
    "math": "the unfused path",
    "eager": "transformers' own code",
}


def asked_as(kernel: AttentionKernel) -> str:
    """The name under which a kernel is asked for: that of the unfused path covers both of its ways."""
    return "math" if kernel == "unfused" else kernel


def attention_told(ran: set[str], asked: str, device: Device | None) -> list[str]:
    """What computed attention, in words: ``sdpa`` may run another kernel where a mask is handed."""
    if asked == "eager" or not ran:
        return []
    names = [words for name, words in KERNELS.items() if name in ran]
    told = [
        f"attention runs as {' and, where a mask is handed, '.join(names) if len(names) == 2 else ', '.join(names)}"
    ]
    if "flash" in ran and device is not None and device.architecture[:5] in ("sm_90", "sm_10"):
        told.append(
            "where the runtime has cuDNN 9.15 or newer, torch prefers cuDNN's attention on this device, which keeps "
            "8 B a layer less"
        )
    return told


def remarks(model: Model) -> list[str]:
    """What its kinds of block have to say: where other code than the modelled one is what many would train with."""
    blocks = [sub.block for layer, _ in model.decoder.distinct() for sub in layer.sublayers]
    return list(dict.fromkeys(found for b in blocks if (found := getattr(b, "remark", ""))))


def checkpoint_format(model: Model, asked: str | None) -> str:
    """The format that a checkpoint's weights are loaded in: asked for, the config's, else bf16."""
    found = storage_format(asked or model.dtype or "bf16", key="dtype").name
    if found not in ("fp64", "fp32", "fp16", "bf16"):
        raise UnsupportedError(
            f"no forward pass runs in {found}", key="dtype", value=asked or model.dtype,
            hint="--quant names a scheme that stores weights so; --dtype is the format that is computed in",
        )  # fmt: skip
    return found


def quantization(model: Model, asked: str | None) -> tuple[Recipe | None, list[str]]:
    """How the weights are stored: as asked, else as the checkpoint has them.

    Args:
        model: whose weights.
        asked: a scheme's name, "checkpoint", "none", or None for the checkpoint's own.

    Returns:
        The recipe, None where they are not quantized; and caveats.

    Raises:
        InputError: no scheme has this name.
        UnsupportedError: the checkpoint's method is not modelled.
    """
    own = model.quantization
    if asked == "none" or (own is None and asked in (None, "checkpoint")):
        return None, [] if own is None else [f"the checkpoint is quantized ({model.quantized}): answered dequantized"]
    # Imported late: most checkpoints are not quantized.
    from tonnage import quant

    if asked in (None, "checkpoint"):
        assert own is not None
        return quant.recipe(own, lenient=True), []
    anew = [] if own is None else [f"the checkpoint is quantized ({model.quantized}): answered as if quantized anew"]
    return quant.recipe(quant.called(asked or ""), checkpoint=False), anew


def dequantized(recipe: Recipe, device: Device | None) -> str | None:
    """Why transformers holds the weights unpacked; None where it holds them packed."""
    if recipe.resident == "dense":
        return recipe.told[0] if recipe.told else f"{recipe.title}: dequantized while loading, as its config asks"
    major, minor = recipe.needs or (0, 0)
    found = _capability(device)
    if found is not None and found < (major, minor):
        return (
            f"{recipe.title}: transformers dequantizes it while loading on devices of compute capability below "
            f"{major}.{minor}"
        )
    return None


def _capability(device: Device | None) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA device; None for others."""
    text = "" if device is None else device.architecture.removeprefix("sm_").rstrip("abcdef")
    if device is None or not device.architecture.startswith("sm_") or not text.isdigit():
        return None
    return int(text[:-1]), int(text[-1])


def filled(w: Train | Serve, values: Mapping[str, Any]) -> dict[str, Any]:
    """The workload as a result repeats it: every key, with what was settled."""
    out = {**stated(w), **values}
    return {name: list(out[name]) if isinstance(out[name], tuple) else out[name] for name in fields(w)}
