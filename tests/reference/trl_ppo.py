"""TRL's PPO traced on tensors without data: two whole updates of ``PPOTrainer.train``, beside the closed form.

``python tests/reference/trl_ppo.py`` writes data/ppo.json, where trl 1.12.0, the last release with that trainer, is
installed beside torch 2.13.0, transformers 5.23.0, peft and accelerate. What stands in: one process gathers from
itself, no padding is found, no answer ends early; all else is the trainer's code and transformers' ``generate``.
"""

from __future__ import annotations

import contextlib
import json
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
import transformers
from tracing_cases import CONFIGS

from tonnage.tracing.context import Tracing
from tonnage.tracing.levels import levels

FORMATS: Final = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None),
                  "bf16-autocast": (torch.bfloat16, torch.bfloat16),
                  "bf16-mixed": (torch.float32, torch.bfloat16)}  # fmt: skip
S: Final = {"batch": 2, "seq": 64, "completion_length": 16, "precision": "bf16"}
CASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "plain": ("llama", S),
    "fp32": ("llama", {**S, "precision": "fp32"}),
    "long": ("llama", {**S, "seq": 512, "completion_length": 256}),
    "prompted": ("llama", {**S, "seq": 512, "completion_length": 16}),
    "accumulated": ("llama", {**S, "accumulate": 2}),
    "mixed": ("llama", {**S, "precision": "bf16-mixed"}),
    "lora": ("llama", {**S, "lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}),
    "recomputed": ("llama", {**S, "seq": 512, "recompute": "full"}),
    "qwen3": ("qwen3", S),
}


class Alone:
    """What the trainer asks of accelerate, in one process."""

    device = torch.device("cuda")
    num_processes = 1
    is_main_process = True
    state = SimpleNamespace(deepspeed_plugin=None)

    def __init__(self, steps: int) -> None:
        self.steps, self.count = steps, 0

    @contextlib.contextmanager
    def accumulate(self, model: Any) -> Iterator[None]:
        self.count += 1
        yield

    @property
    def syncs(self) -> bool:
        return self.count % self.steps == 0

    def backward(self, loss: Any) -> None:
        (loss / self.steps if self.steps > 1 else loss).backward()

    @staticmethod
    def gather(x: Any) -> Any:
        return x

    gather_for_metrics = unwrap_model = gather

    @staticmethod
    def print(*_: Any) -> None:
        """To nobody."""


class Stepper:
    """accelerate's optimizer: it waits for the last pass of a step."""

    def __init__(self, alone: Alone, inner: Any) -> None:
        self.alone, self.inner = alone, inner

    def step(self) -> None:
        if self.alone.syncs:
            self.inner.step()

    def zero_grad(self) -> None:
        if self.alone.syncs:
            self.inner.zero_grad()


def judge(config: dict[str, Any], weights: torch.dtype) -> Any:
    how = transformers.AutoConfig.for_model(**(config | {"num_labels": 1, "pad_token_id": 0}))
    return transformers.AutoModelForSequenceClassification.from_config(how, attn_implementation="sdpa", dtype=weights)


def actor(config: dict[str, Any], weights: torch.dtype) -> Any:
    how = transformers.AutoConfig.for_model(**config)
    return transformers.AutoModelForCausalLM.from_config(how, attn_implementation="sdpa", dtype=weights)


def run(family: str, said: dict[str, Any], watch: Any = None) -> dict[str, int]:
    """The most that tensors take in each phase of the second update. [byte]"""
    from trl.experimental.ppo import ppo_trainer as ppo

    # Real configs cache.
    config = CONFIGS[family] | {"use_cache": True}
    # It looks for MLX by its name alone.
    transformers.utils.generic._is_mlx_available = False
    weights, autocast = FORMATS[said["precision"]]
    tracing = Tracing(item=1.0)
    with tracing:
        tracing.phase("load")
        policy, value, reward = actor(config, weights), judge(config, weights), judge(config, weights)
        if "lora_rank" in said:
            from peft import LoraConfig, get_peft_model

            adapter = LoraConfig(r=said["lora_rank"], target_modules=said["lora_targets"], task_type="CAUSAL_LM")
            policy, reference = get_peft_model(policy, adapter), None
        else:
            reference = actor(config, weights).eval().requires_grad_(False)
        for module in (policy, value, reward, reference):
            if module is not None:
                ppo.disable_dropout_in_model(module)
        policy.train()
        if said.get("recompute") == "full":
            policy.gradient_checkpointing_enable({"use_reentrant": False})
        model = ppo.PolicyAndValueWrapper(policy, value)
        model.config = policy.config
        if autocast is not None:
            from accelerate.utils import convert_outputs_to_fp32

            inner = torch.autocast("cuda", dtype=autocast)(model.forward.__func__)
            model.forward = types.MethodType(inner, model)
            model.forward = types.MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
        accumulate = said.get("accumulate", 1)
        alone = Alone(accumulate)
        trained = [p for p in model.parameters() if p.requires_grad]
        batch = said["batch"] * accumulate
        args = SimpleNamespace(
            response_length=said["completion_length"], temperature=0.7, num_ppo_epochs=said.get("epochs", 2),
            num_mini_batches=1, gradient_accumulation_steps=accumulate, num_total_batches=2, total_episodes=4,
            logging_steps=None, eval_steps=None, save_steps=None, local_rollout_forward_batch_size=64,
            batch_size=batch, local_batch_size=batch, local_mini_batch_size=batch,
            per_device_train_batch_size=said["batch"], missing_eos_penalty=None, kl_estimator="k1", kl_coef=0.05,
            whiten_rewards=False, gamma=1.0, lam=0.95, cliprange_value=0.2, vf_coef=0.1, cliprange=0.2,
            num_sample_generations=0, ds3_gather_for_generation=True,
        )  # fmt: skip
        control = SimpleNamespace(should_save=False)
        hooks = SimpleNamespace(
            on_train_begin=lambda *_: control, on_step_end=lambda *_: control, on_train_end=lambda *_: control
        )
        given = [{"input_ids": torch.empty(batch, said["seq"] - said["completion_length"], dtype=torch.int64)}] * 2
        owner = SimpleNamespace(
            args=args, accelerator=alone, model=model, ref_model=reference, reward_model=reward, dataloader=given,
            optimizer=Stepper(alone, torch.optim.AdamW(trained, lr=1e-4, fused=True)), train_dataset_len=4,
            processing_class=SimpleNamespace(pad_token_id=-1, eos_token_id=1), stop_token_id=None,
            state=SimpleNamespace(), control=control, callback_handler=hooks, is_deepspeed_enabled=False,
            log=lambda *_: None, lr_scheduler=SimpleNamespace(step=lambda: None, get_last_lr=lambda: [0.0]),
            is_peft_model=reference is None, ref_adapter_name=None,
        )  # fmt: skip
        owner.null_ref_context = types.MethodType(ppo.PPOTrainer.null_ref_context, owner)
        with watched(ppo, tracing, said["completion_length"]):
            ppo.PPOTrainer.train(owner)
        tracing.phase("end")
    found = levels(tracing.trace())
    peaks: dict[str, int] = {}
    for name, start, stop in found.traced.phases():
        if stop > start:
            peaks[name] = max([peaks.get(name, 0), *(found.requested[i] for i in range(max(start - 1, 0), stop))])
    if watch is not None:
        watch(found)
    return peaks


@contextlib.contextmanager
def watched(ppo: Any, tracing: Tracing, written: int) -> Iterator[None]:
    """Phases of an update by the functions that they begin with; no answer ends early."""
    updates = iter(range(1, 9))
    number = [0]

    def named(phase: str, function: Any) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if phase == "generation":
                number[0] = next(updates)
                tracing.step(number[0])
            tracing.phase(f"step{number[0]}.{phase}")
            return function(*args, **kwargs)

        return wrapper

    def forward(model: Any, *args: Any) -> Any:
        tracing.phase(f"step{number[0]}." + ("forward" if torch.is_grad_enabled() else "reference"))
        return before["forward"](model, *args)

    def rewarded(model: Any, *args: Any) -> Any:
        turn[0] = not turn[0]
        tracing.phase(f"step{number[0]}." + ("value" if turn[0] else "reward"))
        out = before["get_reward"](model, *args)
        tracing.phase(f"step{number[0]}.scores")
        return out

    def nothing() -> None:
        """A cache that is emptied."""

    def unended(*_: Any, **__: Any) -> bool:
        token[0] = (token[0] + 1) % (written + 1)
        return token[0] > 0

    def variance(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``masked_var`` where something counts."""
        apart = values - ppo.masked_mean(values, mask)
        found = ppo.masked_mean(apart**2, mask)
        count = mask.sum()
        return found * (count / (count - 1))

    token = [0]
    turn = [False]
    generation = transformers.generation.GenerationMixin
    ended, generation._has_unfinished_sequences = generation._has_unfinished_sequences, unended
    names = ("forward", "get_reward", "batch_generation", "empty_cache", "masked_var")
    before = {name: getattr(ppo, name) for name in names if hasattr(ppo, name)}
    ppo.forward, ppo.get_reward = forward, rewarded
    ppo.batch_generation = named("generation", ppo.batch_generation)
    ppo.empty_cache, ppo.masked_var = nothing, variance
    try:
        yield
    finally:
        generation._has_unfinished_sequences = ended
        for name, made in before.items():
            setattr(ppo, name, made)


def main() -> None:
    """Record every case: the phases of the second update."""
    runs = []
    for name, (family, said) in CASES.items():
        found = {k.removeprefix("step2."): n for k, n in run(family, said).items() if k.startswith("step2.")}
        found.pop("scores")
        runs.append({"id": name, "family": family, "said": said, "peaks": found})
    how = "tests/reference/trl_ppo.py: trl 1.12.0, torch 2.13.0, transformers 5.23.0, peft 0.21.2, accelerate 1.15.0"
    lines = ",\n".join(json.dumps(run) for run in runs)
    path = Path(__file__).parent.parent / "data" / "ppo.json"
    path.write_text(f'{{"made": {json.dumps(how)}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
