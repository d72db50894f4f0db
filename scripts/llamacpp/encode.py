"""One projector of llama.cpp, made through libmtmd: prints the lines of its log that tell sizes.

Run by ``pictures.py`` in a process of its own: ``encode.py LIBRARIES MTMD FILE SETTINGS``, the settings as JSON:
``device`` (a library that it is loaded from), ``flash`` (-1, 0, 1), ``least`` and ``most`` tokens of a picture,
``picture`` (a library of picture.cpp, width, height, how many: the graph is reserved for these instead).
"""

from __future__ import annotations

import ctypes as c
import json
import os
import re
import sys

from run import libraries

TOLD = re.compile(r"buffer size|model size|warmup with|flash attention|splits|error|failed|image_m|projector:|unable")


class Params(c.Structure):
    """``clip_context_params`` of tools/mtmd/clip.h v0.5.0."""

    _fields_ = [
        ("use_gpu", c.c_bool), ("device", c.c_void_p), ("flash", c.c_int), ("least", c.c_int), ("most", c.c_int),
        ("warmup", c.c_bool), ("cb", c.c_void_p), ("cb_data", c.c_void_p), ("no_alloc", c.c_bool),
        ("progress", c.c_void_p), ("progress_data", c.c_void_p),
    ]  # fmt: skip


class Made(c.Structure):
    """``clip_init_result``."""

    _fields_ = [("pictures", c.c_void_p), ("sound", c.c_void_p), ("made", c.c_void_p)]


def main() -> None:
    """Load, reserve, print what the log tells."""
    folder, library, path, said = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    _, ggml, _ = libraries(folder)
    mtmd = c.CDLL(library)
    told: list[str] = []
    picture = said.pop("picture", None)

    def finish(word: str) -> None:
        print("\n".join(line for line in "".join(told).splitlines() if TOLD.search(line)))
        print(word)
        sys.stdout.flush()
        os._exit(0)

    def heard(_: int, text: bytes, __: object) -> None:
        told.append(text.decode(errors="replace"))
        if picture is not None and "flash attention is" in told[-1]:
            # Reserved; what comes next is the work itself.
            finish("ready")

    callback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(heard)
    mtmd.mtmd_log_set(callback, None)
    for name in ("ggml_backend_load", "ggml_backend_load_all_from_path"):
        getattr(ggml, name).argtypes, getattr(ggml, name).restype = [c.c_char_p], c.c_void_p
    if "device" in said:
        ggml.ggml_backend_load(said["device"].encode())
    ggml.ggml_backend_load_all_from_path(folder.encode())
    init = mtmd._Z9clip_initPKc19clip_context_params
    init.restype, init.argtypes = Made, [c.c_char_p, Params]
    params = Params(
        use_gpu="device" in said, flash=said.get("flash", -1), least=said.get("least", -1), most=said.get("most", -1),
        warmup=picture is None,
    )  # fmt: skip
    made = init(path.encode(), params)
    if made.pictures and picture is not None:
        encode = c.CDLL(picture[0]).encode
        encode.argtypes = [c.c_void_p, c.c_int, c.c_int, c.c_int]
        encode(made.pictures, *picture[1:])
    finish("ready" if made.pictures and picture is None else "failed")


if __name__ == "__main__":
    main()
