"""Ollama: llama.cpp with defaults of its own."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.engines import Deployment, Engine, Setting
from tonnage.memory.ggml.served import Defaults
from tonnage.memory.ggml.server import answer
from tonnage.releases import Releases

REFERENCE: Final = "https://docs.ollama.com/faq; github.com/ollama/ollama api/types.go DefaultOptions"

DEFAULTS: Final = Defaults(
    engine="ollama",
    reference=REFERENCE,
    slots=1,
    batch=512,
    ubatch=512,
    ranged=True,
    not_modelled=("how many layers it offloads where the device is too small (num_gpu); models of its own engine",),
)
"""One request at once (OLLAMA_NUM_PARALLEL; the context is num_ctx times that) and batches of 512 (num_batch)."""


def deploy(model: Model, s: Setting) -> Deployment:
    """What its runner allocates.

    Raises:
        UnsupportedError: understood, and not modelled yet.
        InputError: what llama.cpp would refuse to start with.
    """
    return Deployment(**vars(answer(model, s, DEFAULTS)))


ENGINE: Final = Engine(
    name="ollama",
    releases=Releases("ollama", newest=(0, 30), oldest=(0, 12), last={}),
    reference=REFERENCE,
    takes=("n_gpu_layers", "parallel", "flash_attn", "batch_size", "mmap"),
    deploy=deploy,
)
