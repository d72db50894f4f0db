"""A transformers model without data, from a config alone: nothing is downloaded and nothing allocated."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch

from tonnage.errors import InputError, UnsupportedError
from tonnage.tracing.patches import Patches

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
AUTO: Final = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "none": "AutoModel",
}
OURS: Final = (
    "quantization_config",
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "transformers_version",
    "attn_implementation",
)
"""Keys that the trace settles itself."""


def config_of(found: Mapping[str, Any]) -> Any:
    """The config object of a config as written.

    Raises:
        UnsupportedError: transformers does not know the type.
        InputError: it does not take the config.
    """
    # Not from ``transformers`` itself, which would have to look for the name in every model (``deferred``).
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

    values = {key: value for key, value in found.items() if key not in OURS}
    kind = str(values.pop("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise UnsupportedError(
            f"transformers has no model_type {kind!r} to trace", key="model_type", value=kind,
            hint="tonnage trace train.py:step runs code of your own",
        )  # fmt: skip
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as e:
        raise InputError(f"transformers refuses the config: {type(e).__name__}: {e}"[:300], key="model") from e


def build(config: Any, *, head: str | None, dtype: str, attention: str) -> Any:
    """The model on the meta device, in one format.

    Raises:
        UnsupportedError: no class of transformers has this head, or it does not build.
    """
    from transformers.models.auto import modeling_auto

    wanted = _architecture(config) if head is None else None
    if wanted is None:
        wanted = getattr(modeling_auto, _auto(_head(head, config), config))
    try:
        with torch.device("meta"), unfilled():
            make = getattr(wanted, "_from_config", None) if inspect.isclass(wanted) else None
            make = make or wanted.from_config
            return kept_wide(make(config, dtype=DTYPES[dtype], attn_implementation=attention), dtype)
    except ValueError as e:
        if attention != "eager" and "scaled_dot_product" in str(e):
            return build(config, head=head, dtype=dtype, attention="eager")
        raise UnsupportedError(f"transformers does not build it: {e}"[:300], key="model") from e
    except Exception as e:
        raise UnsupportedError(f"transformers does not build it: {type(e).__name__}: {e}"[:300], key="model") from e


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Weights are made and not filled: torch's initial values are computed on tensors without data as well."""
    p = Patches()
    try:
        for name in ("uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "eye_", "dirac_",
                     "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_",
                     "sparse_"):  # fmt: skip
            p.put(torch.nn.init, name, lambda tensor, *args, **how: tensor)
        yield
    finally:
        p.restore()


def _auto(head: str, config: Any) -> str:
    """The auto class with this head; that for images and text where a causal one is of such a model."""
    from transformers.models.auto import modeling_auto

    if head == "causal" and config.model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "AutoModelForImageTextToText"
    return AUTO[head]


def kept_wide(model: Any, dtype: str) -> Any:
    """Weights that ``from_pretrained`` keeps in fp32 whatever the format of the others: those whose names have a part
    of the list anywhere (core_model_loading.py, ``build_glob_alternation``).
    """
    names = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == "fp16":
        names += list(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, t in [*model.named_parameters(), *model.named_buffers()] if names and dtype != "fp32" else ():
        if t.is_floating_point() and any(part in name for part in names):
            t.data = t.data.to(torch.float32)
    return model


def _architecture(config: Any) -> Any:
    """The class that the config names; None where transformers has none of that name."""
    import transformers

    named = str((getattr(config, "architectures", None) or [""])[0])
    if not named or named in AUTO.values():
        return None
    own = sys.modules.get(type(config).__module__.rpartition(".")[0])
    return getattr(own, named, None) or getattr(transformers, named, None)


def _head(head: str | None, config: Any) -> str:
    """The head that is asked for, else the first that the type has."""
    if head is not None:
        if head not in AUTO:
            raise UnsupportedError(
                f"head = {head} is not traced", key="head", value=head, hint=f"one of {', '.join(AUTO)}"
            )
        return head
    from transformers.models.auto import modeling_auto

    tables = {
        "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    for name, table in tables.items():
        if config.model_type in table:
            return name
    raise UnsupportedError(f"transformers has no language model of type {config.model_type!r}", key="model")


def layers_of(model: Any) -> list[tuple[str, Any]]:
    """The layers by name: what can be checkpointed, outermost; else the longest list of modules."""
    try:
        from transformers.modeling_layers import GradientCheckpointingLayer
    except ImportError:
        return _longest(model)
    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer) and not any(name.startswith(f"{n}.") for n, _ in found):
            found.append((name, module))
    return found or _longest(model)


def _longest(model: Any) -> list[tuple[str, Any]]:
    best: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > len(best):
            best = [(f"{name}.{child}" if name else child, m) for child, m in module.named_children()]
    return best


def tensors_beside(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that modules hold as plain attributes, by name."""
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            if isinstance(value, torch.Tensor):
                yield f"{name}.{key}", value


def on_device(model: Any, device: str) -> None:
    """Every tensor of a meta model as one of another device, tied ones once; call it under the fake mode."""
    done: dict[int, Any] = {}

    def moved(t: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device)

    for module in model.modules():
        for tensors, trained in ((module._parameters, True), (module._buffers, False)):
            for name, t in list(tensors.items()):
                if t is None:
                    continue
                if id(t) not in done:
                    new = moved(t)
                    if trained:
                        new = torch.nn.Parameter(new, requires_grad=t.requires_grad)
                        # What a quantized weight carries.
                        new.__dict__.update(t.__dict__)
                    # Held until the end, so that no number is used twice.
                    done[id(t)] = (new, t)
                tensors[name] = done[id(t)][0]
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if isinstance(value, torch.Tensor) and value.device.type == "meta":
                if id(value) not in done:
                    done[id(value)] = (moved(value), value)
                module.__dict__[name] = done[id(value)][0]
