"""``mlx_lm.generate``, ``mlx_lm.server`` and ``mlx_lm.chat``.

Names: ml-explore/mlx-lm 0.32.0, mlx_lm/generate.py, mlx_lm/server.py, mlx_lm/chat.py.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.launch import Flag, Launch
from tonnage.launch._values import count, number


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """The server's limit of sequences is told only where it is small."""
    told: list[str] = []
    if said.pop("_from_start", 0) and said.get("kv_bits"):
        told.append("--quantized-kv-start: the cache is packed only from there on")
    return said, told


LAUNCH: Final = Launch(
    name="mlx",
    starts=(
        ("mlx_lm.generate",), ("mlx_lm.server",), ("mlx_lm.chat",), ("mlx_lm", "generate"), ("mlx_lm", "server"),
        ("mlx_lm", "chat"),
    ),
    images=(),
    begin=("mlx_lm.server", "--model", "MODEL"),
    reference="mlx_lm/generate.py and mlx_lm/server.py, mlx-lm 0.32.0",
    model=("--model",),
    prefixes=False,
    finish=_finish,
    whole=False,
    flags=(
        Flag(("--kv-bits",), "kv_bits", count),
        Flag(("--kv-group-size",), "kv_group_size", count),
        Flag(("--max-kv-size",), "max_kv_size", count),
        Flag(("--prefill-step-size",), "prefill_step_size", count),
        Flag(("--quantized-kv-start",), "_from_start", number),
        Flag(("--draft-model",), matters="speculative decoding: the draft model and its cache"),
        Flag(("--adapter-path",), matters="adapters beside the weights"),
        Flag(("--prompt-cache-file",), matters="a cache of a prompt that is there before"),
        Flag(("--prompt-cache-size",), matters="caches of earlier prompts that the server keeps", harmless=("0",)),
        Flag(("--prompt-cache-bytes",), matters="caches of earlier prompts that the server keeps", harmless=("0",)),
        Flag(("--pipeline",), matters="layers on several machines"),
        Flag(("--quantize-activations",), matters="activations in 8 bits or fewer"),
    ),
)  # fmt: skip
