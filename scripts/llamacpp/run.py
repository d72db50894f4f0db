"""One context of llama.cpp, made through its library: prints the lines of its log that tell sizes.

Run by ``buffers.py`` in a process of its own: ``run.py LIBRARY FILE SETTINGS``, the settings as JSON. Beside fields of
the library's parameters: ``fit`` (margins in bytes of every device, and the least context) has common/fit.cpp choose
context and layers first; ``draft`` (a file, with settings of its own) makes a second context of as many tokens.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import re
import sys
from itertools import takewhile
from typing import Any

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
TOLD = re.compile(r"^draft$|buffer size|cells,|graph|Flash|error|requires|does not divide")


class Override(c.Structure):
    """``llama_model_tensor_buft_override`` of llama.h v0.5.0."""

    _fields_ = [("pattern", c.c_char_p), ("buft", c.c_void_p)]


class ModelParams(c.Structure):
    """``llama_model_params`` of llama.h v0.5.0."""

    _fields_ = [
        ("devices", c.c_void_p), ("overrides", c.c_void_p), ("n_gpu_layers", c.c_int32), ("split_mode", c.c_int),
        ("load_mode", c.c_int), ("lazy_mode", c.c_int), ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p),
        ("progress", c.c_void_p), ("progress_data", c.c_void_p), ("kv_overrides", c.c_void_p),
        *((name, c.c_bool) for name in (
            "vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc", "load_mtp",
        )),
    ]  # fmt: skip


class ContextParams(c.Structure):
    """``llama_context_params`` of llama.h v0.5.0."""

    _fields_ = [
        *((name, c.c_uint32) for name in (
            "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq",
        )),
        ("n_threads", c.c_int32), ("n_threads_batch", c.c_int32),
        *((name, c.c_int) for name in ("ctx_type", "rope_scaling", "pooling", "attention", "flash_attn_type")),
        *((name, c.c_float) for name in ("rope_base", "rope_scale", "yarn_a", "yarn_b", "yarn_c", "yarn_d")),
        ("yarn_ctx", c.c_uint32), ("defrag", c.c_float), ("cb", c.c_void_p), ("cb_data", c.c_void_p),
        ("type_k", c.c_int), ("type_v", c.c_int), ("abort", c.c_void_p), ("abort_data", c.c_void_p),
        *((name, c.c_bool) for name in (
            "embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full", "kv_unified",
        )),
        ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("other", c.c_void_p),
    ]  # fmt: skip


class Extra(c.Structure):
    """``common_fit_extra_model`` of common/fit.h v0.5.0."""

    _fields_ = [("path", c.c_char_p), ("model", c.c_void_p), ("context", c.c_void_p), ("shares", c.c_bool)]


FIT = (
    "_Z17common_fit_paramsPKcP18llama_model_paramsP20llama_context_paramsPfP32llama_model_tensor_buft_overridePmj"
    "PK22common_fit_extra_model14ggml_log_level"
)


def fit(
    folder: str, path: str, wanted: Any, model: ModelParams, context: ContextParams, draft: Any, kept: list[Any]
) -> None:
    """Choose what is not told, as ``--fit`` does, and print it."""
    common = c.CDLL(os.path.join(folder, "libllama-common.so"))
    call = getattr(common, FIT)
    call.argtypes = [c.c_char_p, *[c.c_void_p] * 5, c.c_uint32, c.c_void_p, c.c_int]
    shares, rows = (c.c_float * 128)(), (Override * 4096)()
    margins = (c.c_size_t * 128)(*(wanted["margins"] * 128)[:128])
    extra = None
    if draft is not None:
        extra = c.byref(Extra(draft[0].encode(), c.addressof(draft[1]), c.addressof(draft[2]), False))
    kept += [common, shares, rows, margins, extra]
    status = call(
        path.encode(), c.byref(model), c.byref(context), shares, rows, margins, wanted["least"], extra, 4
    )  # fmt: skip
    # What stands behind the first empty row is left over from layouts that were tried.
    moved = [row.pattern.decode() for row in takewhile(lambda row: row.pattern, rows)]
    print(f"fit: status {status} n_ctx {context.n_ctx} n_gpu_layers {model.n_gpu_layers} "
          f"shares {','.join(f'{s:g}' for s in shares if s)} overrides {len(moved)} {moved[:1]}")  # fmt: skip


def libraries(folder: str) -> tuple[Any, Any, Any]:
    """ggml-base, ggml and llama of one folder."""

    def load(pattern: str) -> Any:
        name = next(n for n in sorted(os.listdir(folder)) if re.fullmatch(pattern, n))
        return c.CDLL(os.path.join(folder, name), mode=c.RTLD_GLOBAL)

    return load(r"libggml-base\.so"), load(r"libggml\.(v[\d.]+\.)?so"), load(r"libllama\.(v[\d.]+\.)?so")


def main() -> None:
    """Load, make a context, print what the log tells."""
    folder, path, said = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    base, ggml, llama = libraries(folder)
    told: list[str] = []
    callback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(
        lambda _, text, __: told.append(text.decode(errors="replace"))
    )
    llama.llama_log_set(callback, None)
    base.ggml_log_set(callback, None)
    for name in ("ggml_backend_load", "ggml_backend_load_all_from_path"):
        getattr(ggml, name).argtypes, getattr(ggml, name).restype = [c.c_char_p], c.c_void_p
    for device in said.pop("backends", []):
        ggml.ggml_backend_load(device.encode())
    ggml.ggml_backend_load_all_from_path(folder.encode())
    llama.llama_backend_init()
    llama.llama_model_default_params.restype, llama.llama_context_default_params.restype = ModelParams, ContextParams
    model_params, context_params = llama.llama_model_default_params(), llama.llama_context_default_params()
    context_params.n_threads = context_params.n_threads_batch = 1
    wanted, draft = said.pop("fit", None), said.pop("draft", None)
    kept = _set(said, model_params, context_params, base)
    second = None
    if draft is not None:
        second = (draft.pop("file"), llama.llama_model_default_params(), llama.llama_context_default_params())
        kept += _set({**said, **draft}, second[1], second[2], base)
    if wanted is not None:
        fit(folder, path, wanted, model_params, context_params, second, kept)
        told.clear()
    llama.llama_model_load_from_file.restype = c.c_void_p
    llama.llama_model_load_from_file.argtypes = [c.c_char_p, ModelParams]
    llama.llama_init_from_model.restype = c.c_void_p
    llama.llama_init_from_model.argtypes = [c.c_void_p, ContextParams]
    model = llama.llama_model_load_from_file(path.encode(), model_params)
    context = llama.llama_init_from_model(model, context_params) if model else None
    if context and second is not None:
        llama.llama_n_ctx.argtypes = [c.c_void_p]
        second[2].n_ctx = llama.llama_n_ctx(context)
        told.append("draft\n")
        drafts = llama.llama_model_load_from_file(second[0].encode(), second[1])
        context = llama.llama_init_from_model(drafts, second[2]) if drafts else None
    print("\n".join(line for line in "".join(told).splitlines() if TOLD.search(line)))
    print("ready" if context else "failed")
    sys.stdout.flush()
    # Nothing is freed: the process ends here.
    os._exit(0 if kept is not None else 1)


def _set(said: dict[str, Any], model: ModelParams, context: ContextParams, base: Any) -> list[Any]:
    kept: list[Any] = []
    for key, value in said.items():
        if key == "tensor_split":
            shares = (c.c_float * 128)(*value)
            kept.append(shares)
            model.tensor_split = c.cast(shares, c.c_void_p)
        elif key == "on_host":
            base.ggml_backend_cpu_buffer_type.restype = c.c_void_p
            buft = base.ggml_backend_cpu_buffer_type()
            rows = (Override * (len(value) + 1))(*(Override(p.encode(), buft) for p in value), Override(None, None))
            kept.append(rows)
            model.overrides = c.cast(rows, c.c_void_p)
        else:
            target = model if hasattr(model, key) else context
            setattr(target, key, TYPES[value] if key in ("type_k", "type_v") else value)
    return kept


if __name__ == "__main__":
    main()
