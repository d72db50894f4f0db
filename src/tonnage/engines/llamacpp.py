"""llama.cpp: ``llama-server``, whose buffers are laid out before anything runs. Its log prints each of them."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.memory.ggml.served import Builds, Defaults
from tonnage.memory.ggml.server import answer

REFERENCE: Final = "https://github.com/ggml-org/llama.cpp/tree/v0.5.0"

DEFAULTS: Final = Defaults(engine="llamacpp", reference=REFERENCE, slots=4, batch=2048, ubatch=512)
"""tools/server/server.cpp: four slots that share one cache where --parallel is left out; common/common.h."""


def deploy(model: Model, s: Setting) -> Deployment:
    """What ``llama-server`` allocates.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with.
    """
    return Deployment(**vars(answer(model, s, DEFAULTS)))


ENGINE: Final = Engine(
    name="llamacpp",
    releases=Builds("llama.cpp", newest=(0, 5), oldest=(0, 1), last={}),
    reference=REFERENCE,
    takes=(
        "logits", "n_gpu_layers", "cpu_moe", "n_cpu_moe", "n_cpu_ffn", "override_tensor", "tensor_split", "split_mode",
        "main_gpu", "parallel", "kv_unified", "kv_dtype_v", "flash_attn", "batch_size", "ubatch_size", "swa_full",
        "kv_offload", "op_offload", "repack", "mmap", "mlock", "fit", "fit_target", "fit_ctx", "draft", "draft_quant",
        "draft_gpu_layers", "speculative_tokens", "mmproj", "mmproj_offload", "mmproj_device", "image_min_tokens",
        "image_max_tokens",
    ),
    deploy=deploy,
)  # fmt: skip
