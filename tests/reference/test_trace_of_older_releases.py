"""What older releases computed otherwise, against torch: losses up to transformers 4.48, packed models up to TRL 0.26.

These releases do not run beside what else is tested. Their loss functions are put in place of the installed one's, in
the operations of transformers 4.45.2 and 4.48.1 (loss/loss_utils.py, models/llama/modeling_llama.py, models/gpt2/
modeling_gpt2.py); norms are cast as trl/models/utils.py of 0.26.2 does (``peft_module_casting_to_bf16``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from test_trace_of_adapters import same_parts  # noqa: E402
from tracing_cases import CONFIGS  # noqa: E402

SETTINGS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "one sequence": {"batch": 1},
    "recomputed": {"recompute": "non-reentrant"},
    "autocast": {"precision": "bf16-autocast", "dtype": "bf16"},
    "lora": {"lora_rank": 4, "lora_targets": ["q_proj", "v_proj"], "recompute": "full"},
}
SHAPE: Final = {"batch": 3, "seq": 320, "optimizer": "adamw-foreach", "precision": "bf16"}


def by_loss(logits: Any, labels: Any, vocab_size: int, **rest: Any) -> Any:
    """``ForCausalLMLoss`` of 4.48."""
    logits = logits.float()
    return shifted(logits, labels, vocab_size)


def shifted(logits: Any, labels: Any, vocab_size: int, **rest: Any) -> Any:
    """The end of that function, and of models' own code."""
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = labels[..., 1:].contiguous()
    return torch.nn.functional.cross_entropy(shift_logits.view(-1, vocab_size), shift_labels.view(-1))


LOSSES: Final[dict[str, tuple[str, str, Callable[..., Any]]]] = {
    "4.48": ("llama", "4.48.1", by_loss),
    "4.46, tied": ("qwen2", "4.46.3", by_loss),
    "as they are": ("gpt2", "4.48.1", shifted),
    "as they are, rotated": ("gpt_neox", "4.45.2", shifted),
}


def handed_out_in_fp32(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``accelerate.utils.convert_outputs_to_fp32``, which the Trainer's models run in under autocast."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(family))]
    forward = kind.forward

    def converted(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = out.logits.float()
        return out

    monkeypatch.setattr(kind, "forward", converted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_of_all_logits_but_the_last(case: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.loss.loss_utils import LOSS_MAPPING

    family, release, loss = LOSSES[case]
    said = SHAPE | SETTINGS[setting]
    targets = {"gpt2": ["c_attn"], "gpt_neox": ["query_key_value"]}.get(family, said.get("lora_targets"))
    adapts = "lora_rank" in said
    said |= {"lora_targets": targets} if adapts else {}
    config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM") if adapts else None
    monkeypatch.setitem(LOSS_MAPPING, "ForCausalLM", loss)
    if setting == "autocast" and loss is shifted:
        handed_out_in_fp32(family, monkeypatch)
    same_parts(CONFIGS[family], config, said | {"stack_version": release}, monkeypatch)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", ["plain", "one sequence", "recomputed", "autocast"])
def test_logits_that_the_model_casts_itself(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama of 4.45: ``logits = self.lm_head(hidden_states).float()``."""
    from transformers.loss.loss_utils import LOSS_MAPPING
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    init = LlamaForCausalLM.__init__

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.lm_head.register_forward_hook(lambda module, given, out: out.float())

    monkeypatch.setattr(LlamaForCausalLM, "__init__", made)
    monkeypatch.setitem(LOSS_MAPPING, "ForCausalLM", shifted)
    same_parts(CONFIGS["llama"], None, SHAPE | SETTINGS[setting] | {"stack_version": "4.45.2"}, monkeypatch)


def norms_in_fp32(model: Any) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm) or "norm" in name:
            module.to(torch.float32)
    for p in model.parameters():
        p.requires_grad_(False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recompute", ["none", "non-reentrant"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "starcoder2", "gpt2"])
def test_norms_in_fp32_beside_packed_weights(family: str, recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = ["c_attn"] if family == "gpt2" else ["q_proj", "v_proj"]
    config = peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    said = {
        "batch": 3, "seq": 320, "optimizer": "adamw-foreach", "precision": "bf16-autocast", "dtype": "bf16",
        "quant": "nf4", "lora_rank": 4, "lora_targets": targets, "recompute": recompute, "stack": "trl",
        "stack_version": "0.26", "loss": "full",
    }  # fmt: skip
    same_parts(CONFIGS[family], config, said, monkeypatch, cast=norms_in_fp32)
