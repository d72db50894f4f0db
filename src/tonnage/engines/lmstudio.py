"""LM Studio on a GGUF file: llama.cpp's server with defaults of the application's own.

Read in lmstudio-ai/lmstudio-js of 2026-08-21, packages/lms-kv-config/src/schema.ts (``llm.load``), and
lmstudio-ai/lms of 2026-08-13, src/subcommands/load.ts. The application itself is closed, and brings builds of
llama.cpp of its own. A model for MLX is the engine ``mlx``. That all layers of the slider mean the output as well, and
one fewer means neither it nor that layer, is what lmstudio-ai/lmstudio-js #252 logs (40: 41/41, 39: 39/41); that a
share is rounded down to layers is assumed.
"""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.errors import InputError
from tonnage.memory.ggml.served import Defaults
from tonnage.memory.ggml.server import answer
from tonnage.memory.ggml.vision.served import left_out
from tonnage.releases import Releases

REFERENCE: Final = "https://github.com/lmstudio-ai/lmstudio-js/blob/main/packages/lms-kv-config/src/schema.ts"

DEFAULTS: Final = Defaults(
    engine="lmstudio",
    reference=REFERENCE,
    slots=4,
    batch=2048,
    ubatch=512,
    ranged=True,
    not_modelled=(
        "what the application itself takes; its guardrails, which may shorten the context or refuse to load",
    ),
)
"""``numParallelSessions``, which share one cache (``useUnifiedKvCache``), ``evalBatchSize``, ``physicalBatchSize``."""

PROJECTOR: Final = "the projector of pictures that it loads with the model is left out (--mmproj f16, or its file)"
CONTEXT: Final = 4096
"""What "Default Context Length" is set to: lmstudio-ai/lmstudio-bug-tracker #2174, zed-industries/zed #33938."""


def deploy(model: Model, s: Setting) -> Deployment:
    """What its llama.cpp allocates.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with, or a share of layers that is none.
    """
    caveats: list[str] = []
    said = dict(s.said)
    if "context" not in said:
        said["context"] = min(CONTEXT, model.positions or CONTEXT)
        caveats.append(f"context = {said['context']:,}: the application's Default Context Length, as it is installed")
    share = said.pop("gpu_ratio", None)
    if share is None:
        # autoFit: layers go where there is room, unless a share is told.
        said.setdefault("fit", True)
    else:
        said["n_gpu_layers"] = _layers(share, len(model.decoder.layers))
        if share not in ("off", "max") and 0 < said["n_gpu_layers"] <= len(model.decoder.layers):
            caveats.append(
                f"gpu_ratio = {share} is taken as {said['n_gpu_layers']} layers, rounded down (assumed); where a model "
                "nearly fills the device, LM Studio 0.4.25 was seen to offload one layer whatever the ratio "
                "(lmstudio-bug-tracker #2431)"
            )
    found = answer(model, s.but(context=said["context"], said=said), DEFAULTS)
    return Deployment(
        **{
            **vars(found),
            "settled": {**found.settled, "context": said["context"], "gpu_ratio": share},
            "caveats": (*caveats, *found.caveats),
            "doubt": (*found.doubt, *((PROJECTOR,) if left_out(model) else ())),
        }
    )


def _layers(share: str, layers: int) -> int:
    """Layers that ``--gpu`` puts on devices, the output being one: ``off``, ``max``, or a share from 0 to 1."""
    if share in ("off", "max"):
        return 0 if share == "off" else layers + 1
    try:
        found = float(share)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise InputError(
            f"gpu_ratio = {share}: off, max or a number from 0 to 1 is meant", key="gpu_ratio", value=share
        )  # fmt: skip
    return layers + 1 if found == 1 else int(found * layers)


ENGINE: Final = Engine(
    name="lmstudio",
    releases=Releases("lmstudio", newest=(0, 4), oldest=(0, 4), last={}),
    reference=REFERENCE,
    takes=(
        "gpu_ratio", "parallel", "kv_unified", "kv_dtype_v", "flash_attn", "batch_size", "ubatch_size", "kv_offload",
        "n_cpu_moe", "mmap", "mlock", "draft", "draft_quant", "speculative_tokens", "mmproj",
    ),
    deploy=deploy,
)  # fmt: skip
