"""``lms load``.

Names: lmstudio-ai/lms of 2026-08-13, src/subcommands/load.ts. Everything else is a setting of the application.
"""

from __future__ import annotations

from typing import Any, Final

from tonnage.launch import Flag, Launch
from tonnage.launch._values import count


def _share(text: str, flag: str) -> str:
    """``off``, ``max`` or a number, which the engine checks."""
    return text.lower()


def _finish(said: dict[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """The model's key: its publisher, and a variant behind an @, are the application's own."""
    name = said.get("_model")
    if name is not None and not name.endswith(".gguf"):
        said["_model"] = name.rpartition("/")[2].partition("@")[0]
        variant = name.partition("@")[2].lower()
        said["_quantization"] = variant or "q4_k_m"
    if devices is not None and devices > 1:
        said["gpus"] = devices
    return said, []


LAUNCH: Final = Launch(
    name="lmstudio",
    starts=(("lms", "load"),),
    images=(),
    begin=("lms", "load", "MODEL"),
    reference="src/subcommands/load.ts, lmstudio-ai/lms of 2026-08-13",
    positional=True,
    finish=_finish,
    whole=False,
    log="llamacpp",
    always=("context", "parallel"),
    formats={
        name: name for name in ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q4_0", "q3_k_l",
                                "q3_k_m", "iq4_xs", "mxfp4_moe")
    },
    flags=(
        Flag(("--context-length",), "context", count),
        Flag(("--gpu",), "gpu_ratio", _share),
        Flag(("--parallel",), "parallel", count),
        Flag(("--speculative-draft-model",), "draft"),
        Flag(("--speculative-draft-max-tokens",), "speculative_tokens", count),
        Flag(("--speculative-draft-mtp",), matters="the model's own prediction layers"),
    ),
)  # fmt: skip
