"""What is measured: a transformers model with random weights, optimizer steps as the Trainer runs them, or a request.

The loops are those that the answers of ``train`` and ``serve`` speak of: gradients set to None after a step, the last
step's loss alive until the next takes its place, the model's output freed before the backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final

import torch

from tonnage.errors import InputError, UnsupportedError
from tonnage.memory.adapter_patterns import of_peft

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AUTO: Final = {
    "causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM",
    "none": "AutoModel",
}  # fmt: skip
SETTLED: Final = (
    "quantization_config",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "transformers_version",
    "attn_implementation",
)
"""Keys of a config that the job says."""
OPTIMIZERS: Final[dict[str, Callable[[Any], Any]]] = {
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-5, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-5, foreach=True),
    "adamw-loop": lambda p: torch.optim.AdamW(p, lr=1e-5, foreach=False, fused=False),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-5),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=1e-5, momentum=0.9),
}
KERNELS: Final = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}

Phase = Callable[[str], AbstractContextManager[Any]]
"""Opens a phase by name; it is counted when it ends."""


def built(job: Mapping[str, Any], device: str) -> Any:
    """The model with random weights on the device; eager, where the class knows no other attention.

    Raises:
        UnsupportedError: transformers does not know or build it.
        InputError: it refuses the config.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = {key: value for key, value in job["config"].items() if key not in SETTLED}
    kind = str(values.pop("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise UnsupportedError(f"transformers has no model_type {kind!r}", key="model_type", value=kind)
    try:
        config = transformers.AutoConfig.for_model(kind, **values)
    except Exception as e:
        raise InputError(f"transformers refuses the config: {type(e).__name__}: {e}"[:300], key="model") from e
    auto = getattr(transformers, AUTO[job["head"] or _head(config)])
    try:
        with torch.device(device):
            return auto.from_config(config, dtype=DTYPES[job["weights"]], attn_implementation=job["attention"])
    except torch.OutOfMemoryError:
        raise
    except Exception as e:
        if job["attention"] != "eager" and "scaled_dot_product" in str(e):
            return built({**job, "attention": "eager"}, device)
        raise UnsupportedError(f"transformers does not build it: {type(e).__name__}: {e}"[:300], key="model") from e


def _head(config: Any) -> str:
    """The head of the config's own class, else the first that the type has."""
    from transformers.models.auto import modeling_auto

    named = str((getattr(config, "architectures", None) or [""])[0])
    for suffix, head in (("ForCausalLM", "causal"), ("LMHeadModel", "causal"), ("ForMaskedLM", "masked")):
        if named.endswith(suffix):
            return head
    tables = {
        "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    found = next((head for head, table in tables.items() if config.model_type in table), None)
    if found is None:
        raise UnsupportedError(f"transformers has no language model of type {config.model_type!r}", key="model")
    return found


def tuned(model: Any, job: Mapping[str, Any]) -> Any:
    """The model ready for its task: adapters, checkpointing, mode."""
    if job.get("nf4"):
        raise UnsupportedError("packed weights are not measured yet", key="quant")
    if job.get("lora"):
        import peft

        lora = job["lora"]
        targets = of_peft(lora["targets"])
        settings = peft.LoraConfig(
            r=lora["rank"], lora_alpha=2 * lora["rank"], target_modules=targets, lora_dropout=lora["dropout"]
        )
        model = peft.get_peft_model(model, settings)
    training = job["task"] == "train"
    model.train(training)
    model.config.use_cache = not training
    if job.get("recompute"):
        if job.get("lora"):
            model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": job["reentrant"]})
    return model


@contextmanager
def precision(job: Mapping[str, Any], device: str) -> Iterator[None]:
    """Autocast, and one attention kernel where it is named."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kind = device.partition(":")[0]
    cast = torch.autocast(kind, dtype=DTYPES[job["autocast"]]) if job["autocast"] else nullcontext()
    named = KERNELS.get(str(job.get("kernel")))
    kernel = sdpa_kernel(getattr(SDPBackend, named)) if named else nullcontext()
    with cast, kernel:
        yield


def ids(model: Any, job: Mapping[str, Any], tokens: int, device: str) -> torch.Tensor:
    """Random token ids of a batch."""
    text = model.config.get_text_config()
    return torch.randint(0, int(text.vocab_size), (job["batch"], tokens), device=device)


def train(model: Any, job: Mapping[str, Any], phase: Phase, device: str) -> None:
    """Optimizer steps: forward, backward, step; the last of them is the steady state.

    Raises:
        UnsupportedError: the optimizer is not measured.
    """
    make = OPTIMIZERS.get(job["optimizer"])
    if make is None:
        raise UnsupportedError(
            f"optimizer = {job['optimizer']} is not measured", key="optimizer", value=job["optimizer"],
            hint=f"one of {', '.join(OPTIMIZERS)}",
        )  # fmt: skip
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    inputs = {"input_ids": ids(model, job, job["seq"], device)}
    inputs["labels"] = inputs["input_ids"]
    loss: Any = None
    out: Any = None
    for step in range(1, job["steps"] + 1):
        for _ in range(min(job["accumulate"], 2)):
            with phase(f"step{step}.forward"), precision(job, device):
                out = model(**inputs)
                loss = getattr(out, "loss", None)
                if loss is None:
                    raise UnsupportedError(f"{type(model).__name__} gives no loss", key="head", hint="--head causal")
                if not job["keep_outputs"]:
                    out = None
            with phase(f"step{step}.backward"):
                loss.backward()
                if not job["keep_step"]:
                    out = None
                loss = loss.detach()
        with phase(f"step{step}.optimizer"):
            optimizer.step()
            if not job["keep_last"]:
                out = None
            if not job["keep_gradients"]:
                optimizer.zero_grad(set_to_none=True)


def serve(model: Any, job: Mapping[str, Any], phase: Phase, device: str) -> None:
    """A prompt read at once, then one token after the other up to the context."""
    takes = inspect.signature(model.forward).parameters
    name = "cache_params" if "cache_params" in takes else "past_key_values"
    extra: dict[str, Any] = {"logits_to_keep": 1} if job["logits"] == "last" and "logits_to_keep" in takes else {}
    with torch.no_grad():
        given = ids(model, job, job["prompt"], device)
        with phase("prefill"), precision(job, device):
            out = model(input_ids=given, use_cache=True, **extra)
            cache = getattr(out, name, None)
            token = out.logits[:, -1:].to(torch.float32).argmax(-1)
            out = None
        if job["context"] <= job["prompt"]:
            return
        if cache is None:
            raise UnsupportedError(f"{type(model).__name__} keeps no cache", key="prompt", hint="prompt = context")
        with phase("decode"), precision(job, device):
            for _ in range(job["context"] - job["prompt"]):
                out = model(input_ids=token, use_cache=True, **{name: cache}, **extra)
                token = out.logits[:, -1:].to(torch.float32).argmax(-1)
                out = None
