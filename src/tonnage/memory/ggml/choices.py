"""Every choice that llama.cpp makes before it allocates: slots, cells, formats, and which device holds what.

Follows ggml-org/llama.cpp v0.5.0: src/llama.cpp ``llama_prepare_model_devices``, src/llama-model.cpp
``make_gpu_buft_list`` and ``load_tensors``, src/llama-context.cpp, common/arg.cpp, tools/server/server.cpp.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.ggml.build import Asked, check_cache, context_of, flash_runs, shares_of
from tonnage.memory.ggml.cache import PRINTED, cache_format, layers
from tonnage.memory.ggml.layers import COMPARED
from tonnage.memory.ggml.served import Defaults, Served
from tonnage.memory.ggml.weights import DENSE, EXPERTS, Placing, file_of, overrides
from tonnage.quant import Recipe, called
from tonnage.quant import recipe as named_recipe

MOST_SLOTS: Final = 256
"""``LLAMA_MAX_SEQ``"""
WINDOWS: Final = (-1, 5450)
"""The build from which on windowed layers have a cache of their own (ggml-org/llama.cpp #13194)."""

OUTPUT_FIRST: Final = (-1, 7450)
"""The build from which on the output is offloaded before the layers: ggml-org/llama.cpp #18148 of 17 December 2025
(b7406 is of the 15th, b7571 of the 29th)."""
FEW_OUTPUTS: Final = (-1, 9460)
"""The build from which on a graph has as many outputs as there are slots (#23861)."""

BUFFERS: Final = {"NVIDIA": "CUDA", "AMD": "ROCm", "Apple": "MTL", "Intel": "SYCL"}
"""What buffers of a vendor's devices are called; bare sizes are taken for CUDA."""

DRAFTED: Final = 3
"""Tokens drafted at once (``--spec-draft-n-max``)."""

OTHER_BACKEND: Final = "laid out as CUDA lays buffers out: other backends align, pad and place in their own way"


ENCODERS: Final = ("vision", "audio")


def text_of(model: Model) -> Model:
    """The model as its GGUF file has it: encoders stand in a file of their own (``--mmproj``)."""
    return model.but(extra=tuple(t for t in model.extra if t.role not in ENCODERS))


def checked(model: Model, s: Served, d: Defaults) -> None:
    """Refuse what llama.cpp does not run, or not in a way that is modelled.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with.
    """
    if len(model.stacks) > 1 or not model.causal or model.head is None:
        raise UnsupportedError(
            f"{d.engine} is modelled for decoders, and {model.class_name or model.model_type} is none",
            key="engine", value=d.engine,
        )  # fmt: skip
    for key in ("tp", "cp", "ep", "dp"):
        if s.said.get(key, 1) != 1:
            raise UnsupportedError(
                f"{key} = {s.said[key]}: {d.engine} divides layers among devices (--split-mode layer); others are not "
                "modelled", key=key, value=s.said[key], hint="--gpus N, with --tensor-split for unequal shares",
            )  # fmt: skip


def chosen(model: Model, s: Served, d: Defaults) -> tuple[Asked, tuple[str, ...]]:
    """Every choice made, and what has to be said of it.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with.
    """
    said = s.said
    caveats: list[str] = []
    recipe = _recipe(s, caveats)
    file, named = file_of(text_of(model), recipe, s.dtype)
    if recipe is None:
        caveats.append(f"weights as a GGUF file in {PRINTED.get(s.dtype, s.dtype)}; norms and biases in f32")
    if not named:
        caveats.append("the file's tensors are told by rule: matrices in its format, the rest in f32")
    names, cuda = _names(s)
    if names and not cuda:
        caveats.append(OTHER_BACKEND)
    slots, unified = _slots(s, d)
    kept = layers(model)
    k = cache_format(said.get("kv_dtype"), "kv_dtype")
    v = cache_format(said.get("kv_dtype_v") or said.get("kv_dtype"), "kv_dtype_v")
    flash = said.get("flash_attn") or "auto"
    check_cache(kept, k, v, flash)
    known = model.model_type in COMPARED
    if not known:
        caveats.append(f"the graph of {model.model_type} follows from its blocks; it was not compared with llama.cpp's")
    on = flash == "on" or (flash == "auto" and (not names or not cuda or flash_runs(model)))
    context = context_of(s.context, s.concurrency, slots, unified=unified)
    batch = min(said.get("batch_size") or d.batch, context)
    tokens = min(said.get("ubatch_size") or d.ubatch, batch)
    if said.get("ubatch_size", 0) > batch:
        caveats.append(f"ubatch_size is cut to the batch of {batch:,} tokens, as llama.cpp does")
    older = s.version < (0, 1)
    early = d.early or s.version < FEW_OUTPUTS
    every = said.get("logits") == "all" or (early and said.get("logits") is None)
    whole = bool(said.get("swa_full")) or s.version < WINDOWS
    drafted = (said.get("speculative_tokens") or DRAFTED) if model.beside.get("draft") is not None else 0
    asked = Asked(
        model=model, file=file, kept=kept, context=context, sequences=slots, unified=unified, batch=batch,
        tokens=tokens, outputs=batch if every else min(batch, slots * (1 + drafted)), flash=on, k=k, v=v,
        placing=_placing(model, s, names, late=late(s, d)), names=names, cuda=cuda, swa_full=whole,
        host_cache=bool(names) and said.get("kv_offload") is False, mmap=said.get("mmap") is not False,
        mlock=bool(said.get("mlock")), repack=said.get("repack") is not False,
        fetch=said.get("op_offload") is not False, older=older or d.ranged or not known,
    )  # fmt: skip
    return asked, tuple(caveats)


def at(a: Asked, s: Served, d: Defaults, context: int) -> Asked:
    """The same for another ``n_ctx``: no batch is longer than it."""
    batch = min(s.said.get("batch_size") or d.batch, context)
    tokens = min(s.said.get("ubatch_size") or d.ubatch, batch)
    return a.but(context=context, batch=batch, tokens=tokens)


def drafts(target: Asked, draft: Model, s: Served) -> Asked:
    """What the draft model's context is made for: as many tokens as the target's, a cache of its own in fp16.

    common/speculative.cpp ``common_base_params_to_speculative``: batches, slots and flash attention are the target's;
    layers, formats of the cache and where tensors go are its own.
    """
    own = s.but(
        recipe=_draft_recipe(draft, s),
        said={
            key: value
            for key, value in {**s.said, "n_gpu_layers": s.said.get("draft_gpu_layers")}.items()
            if key in ("n_gpu_layers", "split_mode", "main_gpu", "tensor_split", "flash_attn", "swa_full", "kv_offload",
                       "mmap", "mlock", "repack", "op_offload", "quant") and value is not None
        },
    )  # fmt: skip
    file, _ = file_of(text_of(draft), own.recipe, s.dtype)
    kept = layers(draft)
    flash = s.said.get("flash_attn") or "auto"
    check_cache(kept, "fp16", "fp16", flash)
    on = flash == "on" or (flash == "auto" and (not target.names or not target.cuda or flash_runs(draft)))
    return target.but(
        model=draft, file=file, kept=kept, k="fp16", v="fp16", flash=on, outputs=target.sequences,
        placing=_placing(draft, own, target.names, late=target.placing.late),
        older=target.older or draft.model_type not in COMPARED,
    )  # fmt: skip


def _draft_recipe(draft: Model, s: Served) -> Recipe | None:
    """The draft file's formats: its own, else those asked for it, else the target's."""
    asked = s.said.get("draft_quant")
    if asked is not None:
        return None if asked == "none" else named_recipe(called(asked), checkpoint=False)
    if draft.quantization is not None:
        return named_recipe(draft.quantization, lenient=True)
    return s.recipe if s.recipe is not None and s.recipe.method == "gguf" else None


def _recipe(s: Served, caveats: list[str]) -> Recipe | None:
    """How the file's weights are stored, where the checkpoint is quantized and nothing else was asked for."""
    found = s.recipe
    if found is None or found.method == "gguf" or s.said.get("quant") is not None:
        return found
    if found.method == "mxfp4":
        caveats.append("weights as a GGUF file of recipe mxfp4_moe: experts in mxfp4, other matrices in q8_0")
        return named_recipe(called("mxfp4_moe"))
    caveats.append(f"the checkpoint is quantized ({found.title}); llama.cpp's converter dequantizes it")
    return None


def _names(s: Served) -> tuple[tuple[str, ...], bool]:
    """Names of the accelerators' buffers, and whether they are CUDA's; none where nothing is offloaded to any.

    Raises:
        InputError: a device that there is not, or a split that its backend does not know.
        UnsupportedError: matrices cut between devices.
    """
    device: Device | None = s.device
    if device is None and s.said.get("n_gpu_layers") == 0:
        return (), False
    kind = BUFFERS.get(device.vendor, "CUDA") if device is not None and device.kind != "size" else "CUDA"
    _split(s, kind)
    names = tuple(f"{kind}{i}" for i in range(s.mesh.world))
    main = s.said.get("main_gpu") or 0
    if s.said.get("split_mode") == "none":
        if main >= len(names):
            raise InputError(
                f"invalid value for main_gpu: {main} (available devices: {len(names)})", key="main_gpu", value=main,
                hint="--gpus tells how many there are",
            )  # fmt: skip
        names = names[main : main + 1]
    return names, kind in ("CUDA", "ROCm")


def _split(s: Served, kind: str) -> None:
    """Refuse split modes but ``layer`` and ``none``."""
    mode = s.said.get("split_mode")
    if mode == "row" and s.version >= (0, 1) and kind != "SYCL":
        raise InputError(
            f"split_mode = row: device {kind}0 does not support split buffers", key="split_mode", value=mode,
            hint="only SYCL's backend has them since 0.5; --split-mode layer",
        )  # fmt: skip
    if mode in ("row", "tensor"):
        what = "rows of matrices" if mode == "row" else "matrices, keys and values"
        raise UnsupportedError(
            f"split_mode = {mode} cuts {what} between devices, which is not modelled", key="split_mode", value=mode,
            hint="--split-mode layer, which is the default",
        )  # fmt: skip


def _slots(s: Served, d: Defaults) -> tuple[int, bool]:
    """Slots of the server, and whether they share one cache."""
    told = s.said.get("parallel")
    slots = told or max(d.slots, s.concurrency)
    if slots < s.concurrency:
        raise InputError(
            f"parallel = {slots} slots do not hold concurrency = {s.concurrency} sequences", key="parallel", value=slots
        )
    if slots > MOST_SLOTS:
        raise InputError(f"{slots} slots: llama.cpp has {MOST_SLOTS} at most", key="concurrency", value=slots)
    unified = s.said.get("kv_unified")
    return slots, (told is None and s.concurrency <= d.slots) if unified is None else unified


def late(s: Served, d: Defaults) -> bool:
    """Whether the output is offloaded after all layers."""
    return d.early or s.version < OUTPUT_FIRST


def _placing(model: Model, s: Served, names: tuple[str, ...], *, late: bool) -> Placing:
    said, count = s.said, len(model.decoder.layers)
    given = list(overrides(said.get("override_tensor"), names))
    if said.get("cpu_moe"):
        given.append((EXPERTS, -1))
    for key, kind in (("n_cpu_moe", EXPERTS), ("n_cpu_ffn", DENSE)):
        given += [(rf"blk\.{i}{kind}", -1) for i in range(min(said.get(key) or 0, count))]
    layers_asked = said.get("n_gpu_layers")
    return Placing(
        layers=count,
        devices=len(names),
        offloaded=count + 1 if layers_asked is None else min(layers_asked, count + 1),
        shares=shares_of(said.get("tensor_split"), len(names)),
        overrides=tuple(given),
        late=late,
    )
