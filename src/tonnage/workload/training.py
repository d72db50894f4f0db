"""What is asked of ``train``: every key with what it means, as its flag tells it."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Final

from tonnage.workload import ATTENTION, PRECISION, Placed, key

batched = partial(key, heading="Batch")
numeric = partial(key, heading="Precision and optimizer")
passes = partial(key, heading="Forward and backward pass")
tuned = partial(key, heading="Adapters, and what is trained")
aimed = partial(key, heading="Objective")
stacked = partial(key, heading="Stack and checkpoint")
played = partial(key, heading="Step and allocator")


class Train(Placed):
    """A training workload, for one optimizer step in its steady state."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    task: str = "train"
    batch: int | None = batched("count", "Sequences in one forward pass (1).")
    seq: int | None = batched("count", "Tokens of a sequence (2048, or the model's positions).")
    target_seq: int | None = batched("count", "Tokens that an encoder-decoder model's decoder is given (as --seq).")
    images: int | None = batched("count", "Pictures of a sequence, whose tokens are part of --seq (none: text alone).")
    image_size: str | None = batched("text", "Pixels of a picture, where these vary: 512x384.", wants="WxH")
    padded: bool | None = batched("switch", "Texts end before --seq: attention is handed a mask.")
    mean_length: int | None = batched(
        "count", "Batches are padded to their own longest sample: of N tokens on average, --seq at most."
    )
    packing: str | None = batched(
        "text",
        "Rows hold several texts, whose positions begin anew; flat: the batch is one row (none)",
        ("none", "rows", "flat"),
    )
    packed_texts: int | None = batched("count", "Texts of a pass, with --packing (one or two a row).")
    accumulate: int | None = batched("count", "Forward passes a step (1).")
    eval_batch: int | None = batched("count", "Sequences of an evaluation step behind the optimizer's (none).")

    precision: str | None = numeric("text", "Formats of weights and computation (what the stack does)", PRECISION)
    fp8_recipe: str | None = numeric("text", "How fp8 scales, with -compiled where it is (tensorwise)")
    weights_dtype: str | None = numeric("text", "Format of the weights, where it is not the precision's.")
    compute_dtype: str | None = numeric("text", "Format of the computation.")
    grad_dtype: str | None = numeric("text", "Format of the gradients.")
    state_dtype: str | None = numeric("text", "Format of the optimizer's state.")
    master: bool | None = numeric("switch", "fp32 master weights.")
    optimizer: str | None = numeric("text", "What steps (adamw, as the stack has it)")
    optimizer_rank: int | None = numeric("count", "Rank of the projections of GaLore, APOLLO and Q-GaLore (128).")
    optimizer_in_backward: bool | None = numeric("switch", "Step each parameter as its gradient arrives.")
    clip_grad_norm: bool | None = numeric("switch", "Gradients are clipped by their norm.")
    ema: bool | None = numeric("switch", "A copy of the model holds moving averages of its weights.")

    attention: str | None = passes("text", "Its code, or the kernel of sdpa (sdpa)", ATTENTION)
    recompute: str | None = passes(
        "text",
        "none, full (as the stack's release has it), reentrant, non-reentrant, every-2, first-8, selective, unsloth, "
        "or modules: core_attn,mlp,moe,attention,shared_experts; "
        "those whose output is let go of: layernorm,moe_act,mla_up_proj (none).",
    )
    offload: str | None = passes(
        "text",
        "What lies on the host: activations, with --recompute full, or all that is saved (none)",
        ("none", "activations", "save-on-cpu"),
    )
    loss: str | None = passes("text", "How it is computed; chunked-16 in 16 chunks (the stack's or --kernels')")
    logits_to_keep: int | None = passes("count", "Tokens at each sequence's end whose logits and loss are made (all).")
    kernels: str | None = passes(
        "text", "none, liger, liger==0.8.5, liger:rope+rms_norm; of mixers: mamba-ssm, fla; liger,mamba-ssm (none)."
    )
    experts: str | None = passes(
        "text", "How they run; eager: one after the other (grouped_mm)", ("grouped_mm", "batched_mm", "eager")
    )
    expert_imbalance: float | None = passes(
        "ratio", "Tokens of the fullest expert over the mean, with --experts eager (a range)."
    )
    compile: bool | None = passes("switch", "Run through torch.compile, as the stack's own switch does.")
    retain: tuple[str, ...] = passes(
        "list", "What the loop still holds", ("outputs", "step-outputs", "last-outputs", "grads")
    )

    adapter: str | None = tuned("text", "The method (lora, given a rank)")
    adapter_options: tuple[str, ...] = tuned(
        "list", "Settings of the adapter, by the names of peft's config: oft_block_size=64."
    )
    lora_rank: int | None = tuned("count", "Rank of the adapters; turns LoRA on.")
    lora_targets: tuple[str, ...] = tuned("list", "Module names, a pattern over full names, attention, all-linear.")
    lora_dropout: float | None = tuned("part", "Dropout of the adapters.")
    virtual_tokens: int | None = tuned(
        "count", "Trained tokens before each sequence (prompt tuning, p-tuning, prefix)."
    )
    encoder_hidden: int | None = tuned("count", "Inner width of the network that makes them (p-tuning, prefix).")
    modules_to_save: tuple[str, ...] = tuned(
        "list", "Modules trained as copies beside the adapters: embed_tokens,lm_head."
    )
    train_only: tuple[str, ...] = tuned(
        "list", "Train these parts of the model and freeze the rest: lm_head,layers.31."
    )
    freeze_layers: str | None = tuned("text", "Layers that are not trained: 0-15.")
    freeze: tuple[str, ...] = tuned(
        "list",
        "Parts of a model that sees or hears that are not trained (none; with llama-factory vision,projector)",
        ("vision", "projector", "language", "none"),
    )
    kbit_prepared: bool | None = tuned("switch", "As prepare_model_for_kbit_training leaves it.")

    objective: str | None = aimed("text", "What the loss is of (sft)")
    reference: str | None = aimed(
        "text", "Of DPO, KTO, GRPO: resident, adapter (switched off), precomputed, none.", wants="WHERE"
    )
    completion_length: int | None = aimed(
        "count", "Tokens of a sequence that the objective scores, or that GRPO, RLOO and PPO write."
    )
    rejected_length: int | None = aimed(
        "count", "Of DPO: tokens of rejected answers, where chosen ones are longer or shorter."
    )
    teacher: str | None = aimed("text", "The model that distillation compares with.", wants="MODEL")
    teacher_quant: str | None = aimed("text", "Quantization of the teacher (its checkpoint's).", wants="SCHEME")
    generations: int | None = aimed("count", "Completions of a prompt (8).")
    steps_per_generation: int | None = aimed("count", "Passes that one rollout is for (those of a step).")
    iterations: int | None = aimed("count", "Updates that one rollout of GRPO or RLOO is for: its num_iterations (1).")
    rollout: str | None = aimed(
        "text", "generate, vllm (beside, with a share), vllm-sleep (in turns), server (generate).", wants="HOW"
    )
    rollout_share: float | None = aimed("part", "Of the device's memory, for vLLM (0.3).")
    rollout_batch: int | None = aimed("count", "Sequences that PPO writes and scores at once (64).")
    critic: str | None = aimed(
        "text", "The model whose values PPO trains beside (that of --reward-model).", wants="MODEL"
    )
    reward_model: str | None = aimed("text", "A model that judges completions on this device.", wants="MODEL")
    embed_loss: str | None = aimed("text", "How embeddings are compared (mnrl)")
    columns: int | None = aimed("count", "Texts of an example that is embedded (2; with triplet 3).")
    mini_batch: int | None = aimed("count", "Texts that cached-mnrl embeds at once (32).")
    matryoshka_dims: str | None = aimed("text", "Widths at which embeddings are compared beside their own: 512,256.")

    stack: str | None = stacked("text", "Whose defaults hold (transformers)")
    stack_version: str | None = stacked("text", "Its release (newest known).")
    dtype: str | None = stacked("text", "Format of the checkpoint's weights.")
    quant: str | None = stacked("text", "Quantization of the base.", wants="SCHEME")

    first_step: bool | None = played("switch", "The first step instead of the steady state.")
    replay: bool | None = played(
        "switch", "Play the step through the caching allocator (where the verdict is open without)."
    )
    empty_cache: bool | None = played(
        "switch", "The allocator's cache is given back before every backward pass: torch_empty_cache_steps=1."
    )
    alloc_conf: str | None = played(
        "text", "Settings of the allocator, as PYTORCH_ALLOC_CONF has them.", wants="SETTINGS"
    )

    @property
    def adapts(self) -> bool:
        """Whether something is trained beside a model that is frozen."""
        return self.lora_rank is not None or self.adapter is not None


OBJECTIVE_KEYS: Final = tuple(
    [name for name, said in Train.keys.items() if said.heading == "Objective" and name != "objective"]
)
"""Keys that only an objective other than the next token has."""
