"""What is asked of ``train``."""

from __future__ import annotations

from typing import ClassVar, Final

from tonnage.workload import Workload

OBJECTIVE_KEYS: Final = (
    "reference", "completion_length", "teacher", "generations", "steps_per_generation", "iterations", "rollout",
    "rollout_share", "rollout_batch", "critic", "reward_model", "embed_loss", "columns", "mini_batch",
    "matryoshka_dims", "rejected_length", "teacher_quant",
)  # fmt: skip
"""Keys that only an objective other than the next token has."""


class Train(Workload):
    """A training workload, for one optimizer step in its steady state."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "train"
    gpu: str | None = None
    in_use: str | int | None = None
    dtype: str | None = None
    quant: str | None = None
    attention: str | None = None
    gpus: int | None = None
    tp: int | None = None
    pp: int | None = None
    cp: int | None = None
    ep: int | None = None
    dp: int | None = None
    sharding: str | None = None
    stack: str | None = None
    stack_version: str | None = None
    precision: str | None = None
    fp8_recipe: str | None = None
    weights_dtype: str | None = None
    compute_dtype: str | None = None
    grad_dtype: str | None = None
    state_dtype: str | None = None
    master: bool | None = None
    optimizer: str | None = None
    optimizer_in_backward: bool | None = None
    ema: bool | None = None
    clip_grad_norm: bool | None = None
    batch: int | None = None
    accumulate: int | None = None
    seq: int | None = None
    target_seq: int | None = None
    padded: bool | None = None
    mean_length: int | None = None
    eval_batch: int | None = None
    recompute: str | None = None
    experts: str | None = None
    expert_imbalance: float | None = None
    compile: bool | None = None
    offload: str | None = None
    loss: str | None = None
    logits_to_keep: int | None = None
    objective: str | None = None
    reference: str | None = None
    completion_length: int | None = None
    rejected_length: int | None = None
    teacher: str | None = None
    teacher_quant: str | None = None
    generations: int | None = None
    steps_per_generation: int | None = None
    iterations: int | None = None
    rollout: str | None = None
    rollout_share: float | None = None
    rollout_batch: int | None = None
    critic: str | None = None
    reward_model: str | None = None
    embed_loss: str | None = None
    columns: int | None = None
    mini_batch: int | None = None
    matryoshka_dims: str | None = None
    kernels: str | None = None
    retain: tuple[str, ...] = ()
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] = ()
    lora_dropout: float | None = None
    kbit_prepared: bool | None = None
    adapter: str | None = None
    adapter_options: tuple[str, ...] = ()
    virtual_tokens: int | None = None
    encoder_hidden: int | None = None
    modules_to_save: tuple[str, ...] = ()
    train_only: tuple[str, ...] = ()
    freeze_layers: str | None = None
    first_step: bool = False
    replay: bool | None = None
    alloc_conf: str | None = None
