"""TRL's own losses traced on tensors without data, for comparison with the closed form.

``python tests/reference/trl_losses.py`` writes what the installed release of trl does into data/objectives.json, beside
torch 2.13.0, transformers 5.23.0, peft and accelerate (``pip install --no-deps trl==1.16.0 datasets pandas pyarrow dill
multiprocess xxhash``); an older one, unpacked from its wheel, is put before it on the path. What stands in for a
device: Triton's kernels, which allocate nothing, do nothing; an index by a mask finds as many elements as the test
says; one process gathers from itself. All else is the trainers' code.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
import transformers
import transformers.masking_utils
from tracing_cases import CONFIGS

from tonnage.tracing import bitsandbytes
from tonnage.tracing.context import Tracing
from tonnage.tracing.levels import levels
from tonnage.tracing.models import on_device

KINDS: Final = ("forward", "backward", "optimizer")


@cache
def release() -> tuple[int, ...]:
    """That of trl which is installed."""
    return tuple(int(part) for part in importlib.metadata.version("trl").split(".")[:2])


TOLD: Final = {
    "dpo": ("log_probs", "entropy", "mean_logits", "is_top1"),
    "kto": ("log_probs", "entropy", "mean_logits"),
    "grpo": ("log_probs", "entropy"),
    "rloo": ("log_probs", "entropy"),
}
FORMATS: Final = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None),
                  "bf16-autocast": (torch.bfloat16, torch.bfloat16),
                  "bf16-mixed": (torch.float32, torch.bfloat16)}  # fmt: skip
"""By precision: format of the weights, and what autocast computes in."""

L: Final = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"]}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "fp32": {"precision": "fp32"},
    "mixed": {"precision": "bf16-mixed"},
    "autocast": {"precision": "bf16-autocast"},
    "recomputed": {"recompute": "full", "seq": 512},
    "long": {"seq": 2000},
    "lora": L,
}
OWN: Final[dict[str, dict[str, Any]]] = {
    "dpo": {"batch": 1}, "kto": {"batch": 3}, "orpo": {"batch": 2}, "cpo": {"batch": 2}, "simpo": {"batch": 2},
    "reward": {"batch": 2}, "distill": {"batch": 2}, "grpo": {"batch": 8, "completion_length": 16},
    "rloo": {"batch": 8, "completion_length": 16, "reference": "none"},
}  # fmt: skip


def cases() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is traced: a name, a family, and the keys of a workload."""
    for objective, own in OWN.items():
        for name, said in VARIANTS.items():
            if name != "lora" or objective != "reward":
                both = {"objective": objective, "precision": "bf16", "seq": 64, **own, **said}
                yield f"{objective} {name}", "llama", both
    for objective in ("dpo", "kto"):
        known = {"reference": "precomputed", "precision": "bf16", "seq": 64}
        yield f"{objective} precomputed", "llama", {"objective": objective, **OWN[objective], **known}
    for family in ("qwen3", "gpt2", "gpt_neox", "gemma2"):
        attention = {"attention": "eager"} if family == "gemma2" else {}
        for objective in ("dpo", "distill", "grpo"):
            both = {"objective": objective, "precision": "bf16", "seq": 64, **OWN[objective], **attention}
            yield f"{objective} {family}", family, both
    for objective, precision in (("dpo", "bf16"), ("dpo", "bf16-autocast"), ("grpo", "bf16-autocast")):
        packed = {**OWN[objective], **L, "quant": "nf4", "precision": precision, "seq": 256}
        yield f"{objective} qlora {precision}", "llama", {"objective": objective, **packed}
    scored = {"objective": "dpo", "batch": 2, "precision": "bf16", "seq": 512, "completion_length": 100}
    yield "dpo of short answers", "llama", scored
    yield "dpo of unequal answers", "llama", {**scored, "rejected_length": 37, "padded": True}
    for objective in ("dpo", "kto", "orpo", "cpo", "simpo", "reward"):
        for name, said in (("", {}), (" odd", {"seq": 77}), (" recomputed", {"recompute": "full", "seq": 256})):
            both = {"objective": objective, "precision": "bf16", "seq": 64, **OWN[objective], "padded": True, **said}
            yield f"{objective} padded{name}", "llama", both
    for name, said in (("", {}), (" mixed", {"precision": "bf16-mixed"})):
        both = {"objective": "grpo", "precision": "bf16", "seq": 64, **OWN["grpo"], "iterations": 2, **said}
        yield f"grpo of two iterations{name}", "llama", both
    for how in WEIGHED:
        for name, said in (("", {}), (" mixed", {"precision": "bf16-mixed"})):
            both = {"objective": "grpo", "precision": "bf16", "seq": 64, **OWN["grpo"], **said, "weighed": how}
            yield f"grpo weighed by {how}{name}", "llama", both
    for name, said in (
        ("", {}),
        (" long", {"seq": 512, "completion_length": 200}),
        (" autocast", {"precision": "bf16-autocast"}),
    ):
        both = {"objective": "grpo", "precision": "bf16", "seq": 64, **OWN["grpo"], **L, "reference": "adapter", **said}
        yield f"grpo beside a reference{name}", "llama", both
    for name, said in (("nf4", {}), ("nf4-dq", {"precision": "bf16-autocast"}), ("nf4", {"seq": 512})):
        taught = {"objective": "distill", "batch": 2, "precision": "bf16", "seq": 64, "teacher_quant": name, **said}
        yield f"distill from {name} {taught['seq']}", "llama", taught
    for family in ("qwen3", "gpt2"):
        both = {"objective": "dpo", "precision": "bf16", "seq": 64, **OWN["dpo"], "padded": True}
        yield f"dpo padded {family}", family, both


OLDER: Final[dict[tuple[int, int], tuple[str, ...]]] = {
    (1, 14): ("dpo", "kto", "orpo", "cpo", "simpo", "grpo", "rloo", "reward p", "distill p", "distill m"),
    (1, 12): ("grpo", "rloo"),
    (1, 9): ("dpo", "kto", "orpo", "cpo", "simpo", "grpo", "rloo", "reward p", "distill p", "distill m"),
    (1, 8): ("kto",),
    (1, 0): ("dpo",),
}
"""By release: how the names of its cases begin."""
ONCE: Final = ("weighed", "nf4", "qlora", "neox", "gemma2", "padded odd", "padded recomputed")
"""Words of cases that differ in the layers, and are traced with the newest release alone."""


def cases_of_release() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is traced with the release that is installed."""
    begin = OLDER.get(release(), ("",))
    for name, family, said in cases():
        again = release() not in OLDER or (name == "dpo padded" or "padded" not in name)
        if again and name.startswith(begin) and not (release() in OLDER and any(word in name for word in ONCE)):
            yield name, family, said


class Picked(torch.autograd.Function):
    """``x[mask]``: so many elements are set, of a mask of the whole batch, and of those of its halves in turn."""

    rows: int | None = None
    whole: int = 0
    halves: Iterator[int] = iter(())

    @staticmethod
    def places(mask: torch.Tensor) -> list[torch.Tensor]:
        set_ = Picked.rows if len(mask) == Picked.whole else next(Picked.halves, None)
        shape = (mask.dim(), set_ or mask.numel())
        return list(torch.empty(shape, dtype=torch.int64, device=mask.device).unbind(0))

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(mask)
        ctx.shape = x.shape
        return torch.ops.aten.index.Tensor(x, Picked.places(mask))

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        (mask,) = ctx.saved_tensors
        zeros = g.new_zeros(ctx.shape)
        torch.ops.aten.index_put_.default(zeros, Picked.places(mask), g, True)
        return zeros, None


class Selected(torch.autograd.Function):
    """``_LogProbEntropyFunction`` of trl/kernels/logprob_entropy.py, but for the launch of its kernels."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, index: torch.Tensor, mask: torch.Tensor | None) -> Any:
        logprobs = torch.empty(logits.shape[:-1], device=logits.device, dtype=torch.float32)
        entropy, log_z, expected = (torch.empty_like(logprobs) for _ in range(3))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(logits, index, log_z, expected, mask)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[torch.Tensor, None, None]:
        return torch.empty_like(ctx.saved_tensors[0], memory_format=torch.contiguous_format), None, None

    @staticmethod
    def both(
        logits: torch.Tensor, index: torch.Tensor, temperature: float = 1.0, row_mask: torch.Tensor | None = None
    ) -> Any:
        return Selected.apply(logits, index, row_mask)


@contextlib.contextmanager
def as_on_a_device(rows: int | None, batch: int, whole: int, halves: Sequence[int] = ()) -> Iterator[None]:
    """What CUDA with Triton does where a trace has no data.

    Args:
        rows: labels of a batch that count; None for all.
        batch: answers that are judged.
        whole: sequences of a batch.
        halves: labels of its halves that count.
    """
    import trl.experimental.gkd.gkd_trainer as gkd
    from trl.trainer import utils

    taken = torch.Tensor.__getitem__
    turns = iter([batch - batch // 2, batch // 2] * 4)

    def getitem(self: torch.Tensor, key: Any) -> Any:
        mask = isinstance(key, torch.Tensor) and key.dtype is torch.bool
        return Picked.apply(self, key) if mask else taken(self, key)

    def nothing(*_: Any, **__: Any) -> None:
        """A kernel, or an emptied cache."""

    def nonzero(x: torch.Tensor, as_tuple: bool = False) -> torch.Tensor:
        return torch.empty(next(turns), 1, dtype=torch.int64, device=x.device)

    swapped = [
        (torch.Tensor, "__getitem__", getitem), (torch, "nonzero", nonzero),
        # It looks for MLX by its name alone.
        (transformers.utils.generic, "_is_mlx_available", False), (gkd, "empty_cache", nothing),
    ]  # fmt: skip
    if release() >= (1, 15):
        from trl.kernels import chunked_logprob

        swapped += [
            (chunked_logprob, "_forward_tile", nothing), (chunked_logprob, "_backward_tile", nothing),
            (utils, "_use_triton", lambda device: True),
        ]  # fmt: skip
    if release() >= (1, 14):
        swapped += [
            (utils, "_fused_logprob_entropy", Selected.both), (utils, "_supports_trl_loss_kernel", lambda *_: True),
            (utils, "is_triton_available", lambda: True),
        ]  # fmt: skip
    before = [(where, name, getattr(where, name, None)) for where, name, _ in swapped]
    for where, name, made in swapped:
        setattr(where, name, made)
    Picked.rows, Picked.whole = rows, whole
    Picked.halves = itertools.cycle(halves)
    try:
        yield
    finally:
        Picked.rows = None
        for where, name, made in before:
            setattr(where, name, made)


class Alone:
    """What the trainers ask of accelerate, in one process."""

    device = torch.device("cuda")
    num_processes = 1
    sync_gradients = True
    is_main_process = True

    def __init__(self, autocast: torch.dtype | None) -> None:
        self._autocast = autocast

    def autocast(self) -> Any:
        return torch.autocast("cuda", dtype=self._autocast) if self._autocast else contextlib.nullcontext()

    @staticmethod
    def gather(x: Any) -> Any:
        return x

    gather_for_metrics = unwrap_model = gather

    @staticmethod
    def pad_across_processes(x: Any, **_: Any) -> Any:
        return x

    @staticmethod
    def reduce(x: Any, reduction: str = "sum") -> Any:
        return x


def prepared(model: Any, autocast: torch.dtype | None) -> Any:
    """As accelerate's ``prepare_model`` leaves it: autocast around the forward pass, what it returns in fp32."""
    if autocast is not None:
        from accelerate.utils import convert_outputs_to_fp32

        inner = torch.autocast("cuda", dtype=autocast)(model.forward.__func__)
        model.forward = types.MethodType(inner, model)
        model.forward = types.MethodType(convert_outputs_to_fp32(model.forward.__func__), model)
    return model


def made(config: dict[str, Any], said: dict[str, Any], device: str, *, trained: bool = True) -> Any:
    """The model, packed and adapted."""
    weights = FORMATS[said["precision"]][0]
    judge = said["objective"] == "reward"
    auto = transformers.AutoModelForSequenceClassification if judge else transformers.AutoModelForCausalLM
    more = {"num_labels": 1, "pad_token_id": 0} if judge else {}
    how = transformers.AutoConfig.for_model(**(config | more))
    with torch.device(device):
        model = auto.from_config(how, attn_implementation=said.get("attention", "sdpa"), dtype=weights)
    scheme = said.get("quant" if trained else "teacher_quant", None if trained else said.get("quant"))
    if scheme is not None:
        bitsandbytes.pack(model, weights, nested=scheme == "nf4-dq")
    if trained and "lora_rank" in said:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=said["lora_rank"], target_modules=said["lora_targets"], task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    if "quant" in said:
        # As the trainers do beside packed weights.
        for p in model.parameters():
            p.data = p.data.to(torch.bfloat16) if p.requires_grad else p.data
    return model


def built(config: dict[str, Any], said: dict[str, Any], *, trained: bool = True, early: Any = None) -> Any:
    """The model that is trained, or the one beside it; ``early`` where it was made on the meta device."""
    from trl.trainer import utils

    model = made(config, said, "cuda", trained=trained) if early is None else early
    if early is not None:
        on_device(model, "cuda")
    base = model.get_base_model() if trained and "lora_rank" in said else model
    if said["objective"] not in ("grpo", "rloo"):
        utils.disable_dropout_in_model(model)
    told = TOLD.get(said["objective"]) if release() >= (1, 15) else None
    if told is not None:
        utils.add_fused_lm_head(base, outputs=told if trained else ("log_probs",))
    model.train(trained)
    if trained and said.get("recompute") == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if "lora_rank" in said:
            model.enable_input_require_grads()
    return prepared(model, FORMATS[said["precision"]][1])


EARLY: Final[dict[str, Any]] = {}
"""Models beside that were made before tensors went without data, since their weights are packed."""


def bound(cls: Any, owner: Any, *names: str) -> None:
    """Methods of a trainer on what stands in for it."""
    for name in names:
        setattr(owner, name, types.MethodType(cls.__dict__[name], owner))


def preferring(said: dict[str, Any], model: Any, config: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch and the loss of DPO and KTO."""
    from trl import DPOTrainer

    kto = importlib.import_module("trl.experimental.kto" if release() < (1, 8) else "trl")
    known = said.get("reference") == "precomputed"
    alone = known or "lora_rank" in said
    owner = SimpleNamespace(
        model=model, ref_model=None if alone else built(config, said, trained=False),
        accelerator=Alone(FORMATS[said["precision"]][1]), aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=known, args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0], beta=0.1, use_weighting=False,
        label_smoothing=0.0, calculate_KL=True, loss_type="kto", desirable_weight=1.0, undesirable_weight=1.0,
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1, use_liger_kernel=False,
    )  # fmt: skip
    pairs = said["objective"] == "dpo"
    rows = said["batch"] * (2 if pairs else 1)
    keys = ("input_ids", "attention_mask", "completion_mask")
    names = keys if pairs else (*keys, *(f"KL_{key}" for key in keys))
    batch = {name: torch.empty(rows, said["seq"], dtype=torch.int64) for name in names}
    if not pairs:
        batch["label"] = torch.empty(rows, dtype=torch.bool)
        bound(kto.KTOTrainer, owner, "_compute_kl_logps")
    if known:
        names = ("ref_chosen_logps", "ref_rejected_logps") if pairs else ("ref_logps", "ref_KL_logps")
        batch |= {name: torch.empty(said["batch"]) for name in names}
    trainer = DPOTrainer if pairs else kto.KTOTrainer
    return batch, lambda: trainer._compute_loss(owner, model, batch, False)


def odds(said: dict[str, Any], model: Any, config: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch and the loss of ORPO, CPO and SimPO."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    simple = said["objective"] == "simpo"
    trainer = ORPOTrainer if said["objective"] == "orpo" else CPOTrainer
    owner = SimpleNamespace(
        model=model, accelerator=Alone(None), aux_loss_enabled=False, is_encoder_decoder=False, padding_value=0,
        pad_token_id=0, beta=0.1, args=SimpleNamespace(device="cuda"), _peft_has_been_casted_to_bf16=False,
        cpo_alpha=0.0 if simple else 1.0, loss_type="simpo" if simple else "sigmoid", label_smoothing=0,
        simpo_gamma=0.5, alpha=0.0, store_metrics=lambda *_, **__: None,
        concatenated_inputs=trainer.concatenated_inputs, get_batch_logps=trainer.get_batch_logps,
    )  # fmt: skip
    bound(trainer, owner, "concatenated_forward", "get_batch_loss_metrics")
    bound(trainer, owner, "odds_ratio_loss" if trainer is ORPOTrainer else "cpo_loss")
    shape = (said["batch"], said["seq"])
    names = [f"{half}_{key}" for half in ("chosen", "rejected") for key in ("input_ids", "attention_mask", "labels")]
    batch = {name: torch.empty(shape, dtype=torch.int64) for name in names}
    return batch, lambda: trainer.compute_loss(owner, model, batch)


def judging(said: dict[str, Any], model: Any, config: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch and the loss of a reward model."""
    from trl import RewardTrainer

    owner = SimpleNamespace(
        model=model, accelerator=Alone(None), args=SimpleNamespace(center_rewards_coefficient=None),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    shape = (2 * said["batch"], said["seq"])
    batch = {name: torch.empty(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    return batch, lambda: RewardTrainer.compute_loss(owner, model, dict(batch))


def teaching(said: dict[str, Any], model: Any, config: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch and the loss of GKD, with a teacher like the student."""
    from trl.experimental.gkd import GKDTrainer

    owner = SimpleNamespace(
        teacher_model=built(config, said, trained=False, early=EARLY.pop("teacher", None)), beta=0.5,
        generalized_jsd_loss=GKDTrainer.generalized_jsd_loss, use_liger_gkd_loss=False,
    )  # fmt: skip
    shape = (said["batch"], said["seq"])
    batch = {name: torch.empty(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask", "labels")}
    return batch, lambda: GKDTrainer.compute_loss(owner, model, batch)


WEIGHED: Final[dict[str, dict[str, Any]]] = {
    "grpo": {}, "bnpo": {}, "dr_grpo": {}, "cispo": {"epsilon_high": 5.0}, "luspo": {}, "sapo": {}, "vespo": {},
    "sequence": {"loss_type": "dapo", "importance_sampling_level": "sequence"},
    "delta": {"loss_type": "dapo", "delta": 2.0},
    "quantile": {"loss_type": "dapo", "top_entropy_quantile": 0.2},
    "off policy": {"loss_type": "dapo", "off_policy_mask_threshold": 0.5},
}  # fmt: skip
"""GRPO's ways to weigh tokens, by name: the loss's own or that of dapo, and what else a trainer says then."""


def weighed(owner: SimpleNamespace, trainer: Any, how: str) -> None:
    """Have the trainer weigh tokens so."""
    vars(owner).update({"loss_type": how, "max_completion_length": 16, **WEIGHED[how]})
    vars(owner.args).update(
        delta=WEIGHED[how].get("delta"), sapo_temperature_pos=1.0, sapo_temperature_neg=1.05, vespo_k_pos=2.0,
        vespo_lambda_pos=3.0, vespo_k_neg=3.0, vespo_lambda_neg=2.0,
    )  # fmt: skip
    for name in ("get_off_policy_mask", "get_gamma_weights"):
        setattr(owner, name, getattr(trainer, name))
    bound(trainer, owner, "get_high_entropy_mask")


def updating(said: dict[str, Any], model: Any, config: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch and the loss of GRPO, of completions that are written."""
    from trl import GRPOTrainer, RLOOTrainer

    trainer = RLOOTrainer if said["objective"] == "rloo" else GRPOTrainer
    owner = SimpleNamespace(
        model=model, accelerator=Alone(FORMATS[said["precision"]][1]), aux_loss_enabled=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, importance_sampling_level="token", beta=0.0,
        loss_type="dapo", epsilon_low=0.2, epsilon_high=0.2, use_vllm=False,
        args=SimpleNamespace(delta=None, steps_per_generation=1, use_bias_correction_kl=False),
        current_gradient_accumulation_steps=1, _entropy_bonus_enabled=False, _metrics={"train": defaultdict(list)},
        model_kwarg_keys=("logits_to_keep",), temperature=1.0, use_liger_kernel=False,
    )  # fmt: skip
    if "weighed" in said:
        weighed(owner, trainer, said["weighed"])
    bound(trainer, owner, "_get_per_token_logps_and_entropies")
    if "_full_logits_logps" in trainer.__dict__:
        bound(trainer, owner, "_full_logits_logps")
    rows, written = said["batch"], said["completion_length"]
    lengths = {"prompt": said["seq"] - written, "completion": written}
    batch = {
        f"{part}_{what}": torch.empty(rows, n, dtype=torch.int64)
        for part, n in lengths.items() for what in ("ids", "mask")
    }  # fmt: skip
    batch["advantages"] = torch.empty(rows)
    if said.get("reference") == "adapter":
        owner.beta = 0.04
        batch["ref_per_token_logps"] = torch.empty(rows, written)
    if said.get("iterations", 1) > 1:
        batch["old_per_token_logps"] = torch.empty(rows, written)
    if trainer is RLOOTrainer:
        batch["old_logps"] = torch.empty(rows)
    else:
        batch["num_items_in_batch"] = torch.empty((), dtype=torch.int64)
    return batch, lambda: trainer._compute_loss(owner, model, batch)


MADE: Final = {
    "dpo": preferring, "kto": preferring, "orpo": odds, "cpo": odds, "simpo": odds, "reward": judging,
    "distill": teaching, "grpo": updating, "rloo": updating,
}  # fmt: skip


def _hides(mask: torch.Tensor) -> bool:
    """Some token is padding, found by the same operations."""
    _ = mask.sum() == mask.numel()
    return False


def peaks(family: str, said: dict[str, Any]) -> list[int]:
    """The most that tensors take in the forward pass, the backward pass and the step. [byte]"""
    config = CONFIGS[family]
    rows, halves, whole = None, (), said["batch"] * (2 if said["objective"] == "dpo" else 1)
    if "completion_length" in said:
        rows = said["completion_length"] * whole
    if said["objective"] == "dpo" and rows is not None:
        chosen = said["completion_length"]
        halves = (chosen * said["batch"], said.get("rejected_length", chosen) * said["batch"])
        rows = sum(halves)
    if "quant" in said:
        bitsandbytes.install()
    early = made(config, said, "meta") if "quant" in said else None
    if "teacher_quant" in said:
        bitsandbytes.install()
        EARLY["teacher"] = made(config, said, "meta", trained=False)
    tracing = Tracing(item=1.0)
    with as_on_a_device(rows, said["batch"], whole, halves), tracing:
        if said.get("padded"):
            # transformers asks whether a mask hides nothing, which a trace else affirms; put back with the trace's own.
            transformers.masking_utils.fast_all = _hides
        tracing.phase("load")
        model = built(config, said, early=early)
        batch, run = MADE[said["objective"]](said, model, config)
        step = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
        loss = None
        for number in (1, 2):
            tracing.step(number)
            loss = run()
            loss.backward()
            loss = loss.detach()
            step.step()
            step.zero_grad()
        tracing.phase("end")
    found = levels(tracing.trace())
    parts: dict[str, range] = {}
    for name, start, stop in found.traced.phases():
        if stop > start:
            parts.setdefault(name, range(start - 1, stop))
    del batch
    return [max(found.requested[i] for i in parts[f"step2.{kind}"]) for kind in KINDS]


def main() -> None:
    """Record every case of the release that is installed; those of others stay."""
    # Before peft is imported, which looks for it.
    bitsandbytes.install()
    path = Path(__file__).parent.parent / "data" / "objectives.json"
    installed = importlib.metadata.version("trl")
    runs = [run for run in json.loads(path.read_text())["runs"] if run["trl"] != installed]
    for name, family, said in cases_of_release():
        runs.append({"id": name, "family": family, "said": said, "peaks": peaks(family, said), "trl": installed})
    runs.sort(key=lambda run: [-int(part) for part in run["trl"].split(".")])
    how = "tests/reference/trl_losses.py: torch 2.13.0, transformers 5.23.0, peft 0.21.2, accelerate 1.15.0"
    lines = ",\n".join(json.dumps(run) for run in runs)
    path.write_text(f'{{"made": {json.dumps(how)}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
