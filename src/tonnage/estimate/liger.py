"""Liger settled: which of a model's operations the Trainer's ``use_liger_kernel`` replaces, by release.

The Trainer patches the model that stands, so a norm that a release's function does not name stays as it is.

Reference: https://github.com/linkedin/Liger-Kernel/blob/v0.8.5/src/liger_kernel/transformers/monkey_patch.py
(``_apply_liger_kernel_to_instance``), with Triton's kernels; those that CuTe or cuTile bring on Hopper and Blackwell
are left out.
"""

from __future__ import annotations

from typing import Final, Literal

from tonnage.arch.fused import NEWEST, Fused
from tonnage.arch.objectives.losses import FusedLinear, InPlace
from tonnage.devices import Device
from tonnage.errors import InputError, UnsupportedError, nearest
from tonnage.record import Record
from tonnage.releases import Since, Version, since

OLDEST: Final[Version] = (5, 10)
HEADS: Final = ("q_norm", "k_norm")
MIXERS: Final = ("linear_attn.norm",)
FUSES: Final[Version] = (8, 0)
"""The release whose ``LigerExperts`` is one function; before, it ran experts one after the other."""

PARTS: Final = frozenset(("rope", "rms_norm", "swiglu"))
"""Switches of Liger's functions; ``swiglu`` stands for ``geglu`` as well."""

PROCESSORS: Final = {
    "a100": 108, "h100-sxm": 132, "h100-pcie": 114, "h100-nvl": 132, "h200": 132, "v100": 80, "t4": 40, "l4": 58,
    "l40s": 142, "l40": 142, "a10": 72, "a40": 84, "rtx-a6000": 84, "rtx-4090": 128, "rtx-3090": 82, "b200": 148,
}  # fmt: skip
"""Multiprocessors by the beginning of a device's name. Vendors' data sheets; 132 where it is not listed."""


class Patch(Record):
    """What is replaced in the models of one type.

    Args:
        since: first release that knows the type.
        norms: whether RMS norms are, and whether their backward pass writes over the gradient that it is given.
        own: endings of norms that stay as they are.
        named: first release that names those norms too.
        rope: rotary embeddings are.
        gated: gated feed-forward blocks are, those of experts aside.
        experts: release from which on routed experts are one function; None where they stay as they are.
        budget: how often the hidden states' elements a chunk's logits may be, by release.
        loss: the loss that replaces the model's own.
    """

    since: Version = (5, 0)
    norms: Literal["in place", "apart"] = "in place"
    own: tuple[str, ...] = ()
    named: Version | None = None
    rope: bool = True
    gated: bool = True
    experts: Version | None = None
    budget: Since[int] = (((0, 0), 1),)
    loss: type[FusedLinear] | type[InPlace] = FusedLinear


PATCHES: Final = {
    "llama": Patch(),
    "mistral": Patch(),
    "qwen2": Patch(),
    "phi3": Patch(),
    "gemma": Patch(),
    "gemma2": Patch(norms="apart"),
    "gemma3_text": Patch(since=(5, 7), norms="apart"),
    "granite": Patch(since=(5, 4), loss=InPlace),
    "olmo2": Patch(since=(5, 4), norms="apart", own=HEADS),
    "olmo3": Patch(since=(6, 4), norms="apart", own=HEADS),
    "glm4": Patch(since=(5, 9), norms="apart", rope=False),
    "qwen3": Patch(since=(5, 9), own=HEADS, named=(8, 5)),
    "smollm3": Patch(since=(6, 1)),
    "exaone4": Patch(since=(6, 5), norms="apart"),
    "ministral": Patch(since=(8, 0)),
    "hunyuan_v1_dense": Patch(since=(6, 4), own=("query_layernorm", "key_layernorm")),
    "qwen3_5_text": Patch(since=(8, 0), norms="apart", own=MIXERS, rope=False),
    "mixtral": Patch(gated=False, experts=FUSES),
    "qwen3_moe": Patch(since=(5, 9), gated=False, experts=FUSES),
    "hunyuan_v1_moe": Patch(since=(6, 4), own=("query_layernorm", "key_layernorm"), gated=False, experts=FUSES),
    "gpt_oss": Patch(since=(6, 5), gated=False, budget=(((8, 3), 8), ((0, 0), 1))),
    "qwen3_next": Patch(since=(6, 3), norms="apart", own=MIXERS, rope=False, experts=FUSES),
    "deepseek_v3": Patch(since=(8, 4), rope=False, experts=FUSES),
    "deepseek_v2": Patch(since=(8, 5), rope=False, experts=FUSES),
}
"""By ``model_type``. OLMo's last norm is replaced in place: nothing else sees its gradient."""

ELSEWHERE: Final = frozenset(
    [
        "mllama", "mllama_text_model", "qwen2_vl", "qwen2_5_vl", "llava", "paligemma", "gemma3", "llama4_text",
        "llama4", "glm4v", "glm4v_moe", "internvl", "falcon_h1", "smolvlm", "qwen3_vl", "qwen3_vl_moe", "pixtral",
        "gemma4_text", "gemma4", "nemotron", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "deepseek_v4",
        "muse_glimmer",
    ]
)  # fmt: skip
"""Types that Liger patches and that are not stated here yet."""


class Asked(Record):
    """What of Liger is asked for.

    Args:
        release: of liger-kernel.
        parts: what is replaced, as ``PARTS`` names it.
    """

    release: Version
    parts: frozenset[str]


def asked(text: str) -> Asked:
    """What ``liger``, ``liger==0.8.5`` or ``liger:rope+rms_norm`` means.

    Raises:
        InputError: no release of liger-kernel, or nothing that it replaces.
        UnsupportedError: older than what is stated.
    """
    text = next((name for name in text.split(",") if not name.startswith("liger")), text)
    named, _, listed = text.partition(":")
    name, _, release = named.partition("==")
    numbers = release.split(".")
    if name != "liger" or (release and (len(numbers) != 3 or numbers[0] != "0" or not "".join(numbers).isdigit())):
        raise InputError(
            f"unknown kernels {text!r}", key="kernels", value=text, hint="liger, liger==0.8.5, mamba-ssm, fla or none"
        )
    parts = frozenset(listed.split("+")) if ":" in text else PARTS
    for part in sorted(parts - PARTS):
        raise InputError(
            f"kernels = {text}: Liger replaces no {part!r}", key="kernels", value=text, nearest=nearest(part, PARTS),
            hint=f"liger:{'+'.join(sorted(PARTS))}",
        )  # fmt: skip
    found = (int(numbers[1]), int(numbers[2])) if release else NEWEST
    if found < OLDEST:
        raise UnsupportedError(
            f"kernels = {text}: liger-kernel before 0.{shown(OLDEST)} is not modelled", key="kernels", value=text,
            hint=f"modelled: 0.{shown(OLDEST)} to 0.{shown(NEWEST)}",
        )  # fmt: skip
    return Asked(release=found, parts=parts)


def shown(release: Version) -> str:
    """Minor and patch number."""
    return f"{release[0]}.{release[1]}"


def replaced(
    model_type: str, release: Version, processors: int, parts: frozenset[str] = PARTS
) -> tuple[Fused, FusedLinear | InPlace] | None:
    """The kernels and the loss that stand in for a model's own; None where the release knows no such model.

    Raises:
        UnsupportedError: Liger patches this type in a way that is not stated here.
    """
    patch = PATCHES.get(model_type)
    if patch is None and model_type in ELSEWHERE:
        raise UnsupportedError(
            f"Liger's kernels are not modelled for {model_type}", key="kernels", value="liger",
            hint=f"modelled for {', '.join(PATCHES)}",
        )  # fmt: skip
    if patch is None or release < patch.since:
        return None
    fuses = patch.experts if "swiglu" in parts else None
    if fuses is not None and release < fuses:
        raise UnsupportedError(
            f"Liger's experts of {model_type} before 0.{shown(fuses)}, one after the other, are not modelled",
            key="kernels", value=f"liger==0.{shown(release)}", hint=f"--kernels liger==0.{shown(fuses)}",
        )  # fmt: skip
    own = () if patch.named is not None and release >= patch.named else patch.own
    norms = patch.norms if "rms_norm" in parts else None
    fused = Fused(
        release=release, norms=norms, own=own, rope=patch.rope and "rope" in parts,
        gated=patch.gated and "swiglu" in parts, experts=fuses is not None, processors=processors,
        last="in place" if norms and model_type in ("olmo2", "olmo3") else norms,
    )  # fmt: skip
    whole = FusedLinear(release=release, budget=since(release, patch.budget))
    return fused, whole if patch.loss is FusedLinear else InPlace()


def multiprocessors(device: Device | None) -> int:
    """Of the device; those of an H100 where it is not listed."""
    name = "" if device is None else device.name
    return next((n for start, n in PROCESSORS.items() if name.startswith(start)), 132)
