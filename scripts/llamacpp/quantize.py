"""Compare tonnage's plan of a GGUF file with llama.cpp's converter and quantizer, tensor by tensor.

    python scripts/llamacpp/quantize.py --source LLAMA.CPP --library FOLDER NAME... [--recipes q4_k_m,q8_0]

``--source`` and ``--library`` as for ``buffers.py``. The converter writes the file (names, shapes, formats); the
library's ``llama_model_quantize`` tells with ``dry_run`` which format it would give each tensor. Matrices are compared
by name, shape and format; what is fp32 in both by how many elements each layer has. 1 where anything differs.
"""

from __future__ import annotations

import argparse
import ctypes as c
import re
import subprocess
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent / "src"), str(HERE)]

from files import config_of, make  # noqa: E402

import tonnage as tn  # noqa: E402
from tonnage.memory.ggml.choices import text_of  # noqa: E402
from tonnage.quant import called, recipe  # noqa: E402

FILE_TYPES = {
    "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq3_s": 26, "iq3_m": 27,
    "iq3_xs": 22, "iq4_nl": 25, "iq4_xs": 30, "mxfp4_moe": 38,
}  # fmt: skip
"""``llama_ftype`` of llama.h v0.5.0."""

LINE = re.compile(r"\] +(\S+) +- \[ *([\d, ]+)\], type = +(\w+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)
OURS = {"f32": "fp32", "f16": "fp16"}


class Params(c.Structure):
    """``llama_model_quantize_params`` of llama.h v0.5.0."""

    _fields_ = [
        ("nthread", c.c_int32), ("ftype", c.c_int), ("output", c.c_int), ("tokens", c.c_int),
        *((name, c.c_bool) for name in (
            "allow_requantize", "quantize_output_tensor", "only_copy", "pure", "keep_split", "dry_run",
        )),
        ("imatrix", c.c_void_p), ("kv", c.c_void_p), ("types", c.c_void_p), ("prune", c.c_void_p), ("most", c.c_size_t),
    ]  # fmt: skip


def child(folder: str, path: str, kind: str) -> None:
    """Run the quantizer in this process; its log goes to standard output."""
    base = c.CDLL(f"{folder}/libggml-base.so", c.RTLD_GLOBAL)
    ggml = c.CDLL(next(str(p) for p in sorted(Path(folder).glob("libggml.*so*"))), c.RTLD_GLOBAL)
    llama = c.CDLL(next(str(p) for p in sorted(Path(folder).glob("libllama.*so*"))))
    kept = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(
        lambda _, text, __: sys.stdout.write(text.decode(errors="replace"))
    )
    llama.llama_log_set(kept, None)
    base.ggml_log_set(kept, None)
    ggml.ggml_backend_load_all_from_path.argtypes = [c.c_char_p]
    ggml.ggml_backend_load_all_from_path(folder.encode())
    llama.llama_backend_init()
    llama.llama_model_quantize_default_params.restype = Params
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.dry_run, params.nthread = int(kind), True, 1
    llama.llama_model_quantize.argtypes = [c.c_char_p, c.c_char_p, c.c_void_p]
    failed = llama.llama_model_quantize(path.encode(), b"/dev/null", c.byref(params))
    print("failed" if failed else "done", flush=True)


def theirs(library: Path, path: Path, kind: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape, outermost dimension first, and format of every tensor of the quantized file."""
    command = [sys.executable, __file__, "--child", str(library), str(path), str(FILE_TYPES[kind])]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if not out.endswith("done\n"):
        raise SystemExit(f"{path}: llama.cpp did not quantize\n{out[-2000:]}")
    found = {}
    for name, shape, kept, form in LINE.findall(out):
        sizes = [int(n) for n in shape.split(",")]
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        # What is not quantized comes from the converter as it is.
        form = kept if kind == "f16" else form or kept
        found[name] = (tuple(reversed(sizes)), OURS.get(form, form))
    return found


def differences(model: Any, kind: str, there: dict[str, tuple[tuple[int, ...], str]]) -> list[str]:
    """What differs, in words."""
    plan = recipe(called("gguf-f16" if kind == "f16" else kind)).plan
    assert plan is not None
    here = {t.name: (tuple(n for _, n in t.axes), t.dtype or "") for _, t, _ in plan(text_of(model))}

    def packed(held: dict[str, tuple[tuple[int, ...], str]]) -> dict[str, tuple[tuple[int, ...], str]]:
        return {name: found for name, found in held.items() if found[1] != "fp32"}

    def rest(held: dict[str, tuple[tuple[int, ...], str]]) -> Counter[tuple[str, int]]:
        return Counter(
            (name.split(".")[1] if name.startswith("blk.") else "", prod(shape))
            for name, (shape, form) in held.items() if form == "fp32"
        )  # fmt: skip

    ours, other = packed(here), packed(there)
    out = [f"{n}: {ours.get(n)} here, {other.get(n)} there" for n in sorted({*ours, *other})
           if ours.get(n) != other.get(n)]  # fmt: skip
    return (
        out
        + [f"fp32 {key}: {n:+d} here" for key, n in (rest(here) - rest(there)).items()]
        + [f"fp32 {key}: {n:+d} there" for key, n in (rest(there) - rest(here)).items()]
    )


def main() -> int:
    """Compare every model with every recipe."""
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:5])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("gguf"))
    parser.add_argument("--recipes", default=",".join(FILE_TYPES))
    asked = parser.parse_args()
    off = 0
    for name in asked.names:
        file = make(asked.source, name, None, asked.folder)
        model = tn.load({"config": config_of(name), "name": name})
        for kind in asked.recipes.split(","):
            there = theirs(asked.library, file, kind)
            found = differences(model, kind, there)
            off += bool(found)
            print(f"{name:28s} {kind:9s} {len(there)} tensors, {len(found)} differ",
                  *(f"\n    {line}" for line in found[:12]), flush=True)  # fmt: skip
    return int(off > 0)


if __name__ == "__main__":
    sys.exit(main())
