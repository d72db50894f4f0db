"""``tonnage train``."""

from __future__ import annotations

from typing import Any, Final

import click

from tonnage.cli.options import (
    CALIBRATION,
    CONFIG,
    DEVICES,
    MODEL,
    OUTPUT,
    PLACE,
    configured,
    exit_code,
    model_beside,
    text,
    together,
)

WORKLOAD: Final = together(
    text("--batch", "Sequences in one forward pass (1).", "N"),
    text("--seq", "Tokens of a sequence (2048, or the model's positions).", "N"),
    click.option("--padded", is_flag=True, default=None, help="Texts end before --seq: attention is handed a mask."),
    text(
        "--mean-length", "Batches are padded to their own longest sample: of N tokens on average, --seq at most.", "N"
    ),
    text("--target-seq", "Tokens that an encoder-decoder model's decoder is given (as --seq).", "N"),
    text("--eval-batch", "Sequences of an evaluation step behind the optimizer's (none).", "N"),
    text("--accumulate", "Forward passes a step (1).", "N"),
    text(
        "--precision",
        "fp32 tf32 bf16-mixed fp16-mixed bf16-autocast fp16-autocast bf16 fp16 bf16-master fp8 fp8-autocast fp8-mixed "
        "(what the stack does).",
    ),
    text(
        "--fp8-recipe",
        "tensorwise, rowwise, rowwise-gw-hp, -compiled; te-delayed te-current te-mxfp8 te-block (tensorwise).",
    ),
    text("--optimizer", "adamw, adamw-fused, adamw-foreach, adamw-loop, sgd, sgd-momentum (adamw)."),
    click.option(
        "--optimizer-in-backward", is_flag=True, default=None, help="Step each parameter as its gradient arrives."
    ),
    click.option("--clip-grad-norm", is_flag=True, default=None, help="Gradients are clipped by their norm."),
    click.option("--ema", is_flag=True, default=None, help="A copy of the model holds moving averages of its weights."),
    text(
        "--attention", "eager, sdpa, a kernel of sdpa: flash, efficient, cudnn, math; flash_attention_2, flex (sdpa)."
    ),
    text(
        "--recompute",
        "none, full, every-2, first-8, selective, unsloth, or modules: core_attn,mlp,moe,attention,shared_experts; "
        "those whose output is let go of: layernorm,moe_act,mla_up_proj (none).",
    ),
    text("--experts", "How they run: grouped_mm, batched_mm, eager: one after the other (grouped_mm).", "HOW"),
    text("--expert-imbalance", "Tokens of the fullest expert over the mean, with --experts eager (a range).", "RATIO"),
    click.option(
        "--compile/--no-compile", default=None, help="Run through torch.compile, as the stack's own switch does."
    ),
    text(
        "--offload", "none, activations (to the host, with --recompute full), save-on-cpu (all that is saved) (none)."
    ),
    text(
        "--loss",
        "full, fused, liger, chunked-16, cut, cut-fp32, trl, vocab-parallel, -te (full, or the stack's or --kernels').",
    ),
    text("--logits-to-keep", "Tokens at each sequence's end whose logits and loss are made (all).", "N"),
    text("--kernels", "none, liger, liger==0.8.5; of mixers: mamba-ssm, fla; liger,mamba-ssm (none)."),
    text("--objective", "sft dpo kto orpo cpo simpo reward embed rerank distill grpo rloo ppo (sft)."),
    text("--reference", "Of DPO, KTO, GRPO: resident, adapter (switched off), precomputed, none.", "WHERE"),
    text(
        "--completion-length", "Tokens of a sequence that the objective scores, or that GRPO, RLOO and PPO write.", "N"
    ),
    text("--teacher", "The model that distillation compares with.", "MODEL"),
    text("--teacher-quant", "Quantization of the teacher (its checkpoint's).", "SCHEME"),
    text("--generations", "Completions of a prompt (8).", "N"),
    text("--steps-per-generation", "Passes that one rollout is for (those of a step).", "N"),
    text("--iterations", "Updates that one rollout of GRPO or RLOO is for: its num_iterations (1).", "N"),
    text("--rollout", "generate, vllm (beside, with a share), vllm-sleep (in turns), server (generate).", "HOW"),
    text("--rollout-share", "Of the device's memory, for vLLM (0.3).", "SHARE"),
    text("--rollout-batch", "Sequences that PPO writes and scores at once (64).", "N"),
    text("--critic", "The model whose values PPO trains beside (that of --reward-model).", "MODEL"),
    text("--rejected-length", "Of DPO: tokens of rejected answers, where chosen ones are longer or shorter.", "N"),
    text("--embed-loss", "mnrl cached-mnrl cosent cosine contrastive triplet (mnrl)."),
    text("--columns", "Texts of an example that is embedded (2; with triplet 3).", "N"),
    text("--mini-batch", "Texts that cached-mnrl embeds at once (32).", "N"),
    text("--matryoshka-dims", "Widths at which embeddings are compared beside their own: 512,256."),
    text("--reward-model", "A model that judges completions on this device.", "MODEL"),
    click.option(
        "--retain",
        multiple=True,
        help="What the loop still holds: outputs, step-outputs, last-outputs, grads.",
    ),
    text("--stack", "transformers trl torchtune torchtitan litgpt axolotl llama-factory unsloth (transformers)."),
    text("--stack-version", "Its release (newest known)."),
    click.option("--first-step", is_flag=True, help="The first step instead of the steady state."),
    click.option(
        "--replay/--no-replay",
        default=None,
        help="Play the step through the caching allocator (where the verdict is open without).",
    ),
    text("--alloc-conf", "Settings of the allocator, as PYTORCH_ALLOC_CONF has them.", "SETTINGS"),
    text("--dtype", "Format of the checkpoint's weights."),
    text("--quant", "Quantization of the base."),
    text("--weights-dtype", "Format of the weights, where it is not the preset's."),
    text("--compute-dtype", "Format of the computation."),
    text("--grad-dtype", "Format of the gradients."),
    text("--state-dtype", "Format of the optimizer's state."),
    click.option("--master/--no-master", default=None, help="Keep fp32 master weights."),
    text(
        "--adapter",
        "lora rslora lora-fa dora vera ia3 adalora oft boft hra osf loha lokr hira fourierft waveft randlora miss beft "
        "road c3a prompt p-tuning layernorm (lora, given a rank).",
    ),
    text("--adapter-options", "Settings of the adapter, by the names of peft's config: oft_block_size=64."),
    text("--lora-rank", "Rank of the adapters; turns LoRA on.", "N"),
    text("--virtual-tokens", "Trained tokens before each sequence (prompt tuning, p-tuning, prefix).", "N"),
    text("--encoder-hidden", "Inner width of the network that makes them (p-tuning, prefix).", "N"),
    text("--modules-to-save", "Modules trained as copies beside the adapters: embed_tokens,lm_head."),
    text("--train-only", "Train these parts of the model and freeze the rest: lm_head,layers.31."),
    text("--freeze-layers", "Layers that are not trained: 0-15."),
    text("--lora-targets", "Module names, attention, all-linear."),
    text("--lora-dropout", "Dropout of the adapters."),
    click.option("--kbit-prepared", is_flag=True, default=None, help="As prepare_model_for_kbit_training leaves it."),
)


@click.command(short_help="Memory to train or fine-tune a model.")
@MODEL
@PLACE
@CONFIG
@WORKLOAD
@CALIBRATION
@DEVICES
@OUTPUT
def command(**given: Any) -> int:
    """Memory to train or fine-tune MODEL, at its peak.

    MODEL is a catalogue name, a config.json, a folder with one, org/name[@revision] or org/name:Q4_K_M of the Hub, or
    dimensions (--hidden 768 --layers 12 ...).
    """
    from tonnage import api
    from tonnage.cli.show import shown

    as_json, strict = given.pop("as_json"), given.pop("strict")
    job = configured(given)
    given["head"] = given["head"] or api.HEADS.get(given["objective"])
    result = api.train(model_beside(given, named=job is not None), config=job, **given)
    shown(result, as_json=as_json)
    return exit_code(result.fit.verdict if result.fit else None, strict)
