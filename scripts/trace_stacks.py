"""Trace torchtune's and litgpt's own code, and print each peak beside the closed form.

    python scripts/trace_stacks.py            a table: case, traced, answered, difference
    python scripts/trace_stacks.py --cases    rows as accuracy/cases/stacks.jsonl has them

Needs the extra ``trace`` and, in an environment of their own, ``torchtune==0.6.1 torchao==0.9.0`` and
``litgpt==0.5.13`` with what they import. Two whole steps of a model of four layers run on tensors without data; what
counts is the most that was alive, not rounded.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch

import tonnage as tn
from tonnage.tracing.levels import levels

D, F, LAYERS, N, K, V, POSITIONS = 512, 1408, 4, 8, 4, 1000, 1024
B, T = 2, 384
BASE: dict[str, Any] = {
    "hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS, "num_attention_heads": N, "vocab_size": V,
    "max_position_embeddings": POSITIONS, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "num_key_value_heads": K, **BASE},
    "phi": {
        "model_type": "phi", "num_key_value_heads": N, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new", **BASE,
    },
    "gpt-neox": {
        "model_type": "gpt_neox", "rotary_pct": 0.25, "use_parallel_residual": True, "hidden_act": "gelu", **BASE,
    },
}  # fmt: skip
SAID: dict[str, Any] = {
    "precision": "bf16", "dtype": "bf16", "batch": B, "seq": T, "optimizer": "adamw-loop", "replay": False,
}  # fmt: skip
ADAPTED = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj", "output_proj", "mlp"]}
PARTS = {"lora_rank": 8, "lora_targets": ["query", "value"], "lora_dropout": 0.05}
HOW = "two whole steps of its own modules and loss traced with fake tensors, the most that was alive; not rounded"

Run = Callable[[Any], None]


def in_bf16(make: Callable[[], Any]) -> Any:
    """A model that is made with bf16 as the default format, as both stacks make theirs."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return make()
    finally:
        torch.set_default_dtype(torch.float32)


def steps(t: Any, model: Any, loss_of: Callable[[Any], Any]) -> None:
    """Two steps; the loop keeps what its local variables name."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for number in (1, 2):
        t.step(number)
        ids = torch.zeros(B, T, dtype=torch.int64)
        loss = loss_of(ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def torchtune(
    *, rank: int | None = None, chunked: bool = True, checkpointed: bool = False, packed: bool = False
) -> Run:
    """As recipes/full_finetune_single_device.py and lora_finetune_single_device.py run a step."""
    # It looks for a device as it is imported, without which it has no flex attention.
    with patch("torch.cuda.is_available", lambda: True), patch("torch.cuda.get_device_capability", lambda: (9, 0)):
        from torchtune import modules, training
    from torchtune.models.llama3._component_builders import llama3, lora_llama3
    from torchtune.modules.loss import CEWithChunkedOutputLoss
    from torchtune.modules.peft import get_adapter_params, set_trainable_params

    shape: dict[str, Any] = {
        "vocab_size": V, "num_layers": LAYERS, "num_heads": N, "num_kv_heads": K, "embed_dim": D,
        "max_seq_len": POSITIONS, "intermediate_dim": F,
    }  # fmt: skip
    adapted: dict[str, Any] = {
        "lora_attn_modules": ["q_proj", "v_proj", "output_proj"], "apply_lora_to_mlp": True, "lora_rank": rank,
        "lora_alpha": 16,
    }  # fmt: skip

    def run(t: Any) -> None:
        model = in_bf16(lambda: llama3(**shape) if rank is None else lora_llama3(**adapted, **shape))
        if rank is not None:
            set_trainable_params(model, get_adapter_params(model))
        if checkpointed:
            training.set_activation_checkpointing(model, auto_wrap_policy={modules.TransformerSelfAttentionLayer})
        kind = CEWithChunkedOutputLoss() if chunked else torch.nn.CrossEntropyLoss(ignore_index=-100)
        if chunked:
            model.set_num_output_chunks(kind.num_output_chunks)

        # The loop's name stands for the last batch until the next is there.
        loop: dict[str, Any] = {}

        def loss_of(ids: Any) -> Any:
            loop["batch"] = in_rows(ids) if packed else {}
            logits = model(tokens=ids, **loop["batch"])
            # The recipe keeps this column of ignored labels, 8 B a sequence.
            labels = torch.hstack((ids[..., 1:], torch.full((B, 1), -100)))
            if not isinstance(logits, list):
                labels, logits = labels.reshape(-1), logits.reshape(-1, logits.size(-1))
            loss = kind(logits, labels)
            del logits
            return loss

        steps(t, model, loss_of)

    return run


def in_rows(ids: Any) -> dict[str, Any]:
    """Positions and mask of packed rows, as ``padded_collate_packed`` hands them to the model."""
    from torchtune.modules import attention_utils

    documents = torch.zeros_like(ids)
    mask = attention_utils.create_block_causal_mask_flex(
        lambda b, h, i, j: (i >= j) & (documents[b, i] == documents[b, j]), B, None, T, T, device=ids.device
    )
    return {"input_pos": torch.zeros_like(ids), "mask": mask}


def litgpt(family: str, *, rank: int | None = 8) -> Run:
    """As litgpt/finetune/lora.py and full.py run a step, with what Fabric's ``convert_output`` does to the logits."""
    from litgpt import config, lora, model
    from litgpt.utils import chunked_cross_entropy

    shape: dict[str, Any] = {
        "block_size": POSITIONS, "padded_vocab_size": V, "vocab_size": V, "n_layer": LAYERS, "n_head": N, "n_embd": D,
        "intermediate_size": F,
    }  # fmt: skip
    kind: dict[str, Any] = {
        "llama": {"n_query_groups": K, "rotary_percentage": 1.0, "parallel_residual": False, "bias": False,
                  "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP"},
        "phi": {"rotary_percentage": 0.5, "shared_attention_norm": True, "bias": True, "lm_head_bias": True,
                "gelu_approximate": "tanh"},
        "gpt-neox": {"rotary_percentage": 0.25, "bias": True},
    }[family]  # fmt: skip
    adapted = {"lora_r": rank, "lora_alpha": 16, "lora_dropout": 0.05, "lora_query": True, "lora_value": True}

    def run(t: Any) -> None:
        if rank is None:
            gpt = in_bf16(lambda: model.GPT(config.Config(**shape, **kind)))
        else:
            gpt = in_bf16(lambda: lora.GPT(lora.Config(**shape, **kind, **adapted)))
            lora.mark_only_lora_as_trainable(gpt)
        gpt.train()
        gpt.max_seq_length = T
        loop: dict[str, Any] = {}

        def loss_of(ids: Any) -> Any:
            # The loop's name stands for the last pass's logits until these are there.
            loop["logits"] = [chunk.float() for chunk in gpt(ids, lm_head_chunk_size=128)]
            loop["logits"][-1] = loop["logits"][-1][..., :-1, :]
            return chunked_cross_entropy(loop["logits"], ids[..., 1:])

        steps(t, gpt, loss_of)

    return run


def cases() -> list[tuple[str, str, dict[str, Any], str, Run]]:
    """Name, config, workload, source and what runs."""
    tune = {**SAID, "stack": "torchtune", "stack_version": "0.6"}
    lit = {**SAID, "stack": "litgpt", "stack_version": "0.5"}
    of_tune, of_lit = (f"{name} on torch {torch.__version__}: {HOW}" for name in ("torchtune 0.6.1", "litgpt 0.5.13"))
    return [
        ("torchtune-full", "llama", tune, of_tune, torchtune()),
        ("torchtune-full-plain-loss", "llama", {**tune, "loss": "full"}, of_tune, torchtune(chunked=False)),
        ("torchtune-full-checkpointed", "llama", {**tune, "recompute": "full"}, of_tune, torchtune(checkpointed=True)),
        ("torchtune-full-packed", "llama", {**tune, "attention": "flex"}, of_tune, torchtune(packed=True)),
        ("torchtune-full-packed-checkpointed", "llama", {**tune, "attention": "flex", "recompute": "full"}, of_tune,
         torchtune(packed=True, checkpointed=True)),
        ("torchtune-lora-packed", "llama", {**tune, **ADAPTED, "attention": "flex"}, of_tune,
         torchtune(packed=True, rank=8)),
        ("torchtune-lora", "llama", {**tune, **ADAPTED}, of_tune, torchtune(rank=8)),
        ("torchtune-lora-checkpointed", "llama", {**tune, **ADAPTED, "recompute": "full"}, of_tune,
         torchtune(rank=8, checkpointed=True)),
        *((f"litgpt-lora-{name}", name, {**lit, **PARTS}, of_lit, litgpt(name)) for name in CONFIGS),
        ("litgpt-full-llama", "llama", lit, of_lit, litgpt("llama", rank=None)),
    ]  # fmt: skip


def main() -> None:
    warnings.filterwarnings("ignore")
    for name, config, said, source, run in cases():
        with tn.trace(item=1.0) as t:
            run(t)
        peak = max(levels(t.trace()).requested)
        model = {"config": CONFIGS[config]}
        if "--cases" in sys.argv:
            row = {"id": name, "model": model, "workload": {"task": "train", **said},
                   "measured": {"value": peak, "unit": "B", "counter": "requested"}, "source": source,
                   "exactness": "traced", "seen": True}  # fmt: skip
            print(json.dumps(row))
        else:
            found = tn.train(model, suggest=False, **said).fullest.tier("requested")
            print(f"{name:30s} {peak:>14,} {found:>14,} {found - peak:>+10,}")


if __name__ == "__main__":
    main()
