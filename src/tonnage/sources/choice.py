"""Which of many files are a model's weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tonnage.errors import InputError, nearest
from tonnage.sources.places import Place
from tonnage.sources.weights import is_file

INDEX: Final = ".index.json"
FIRST: Final = (
    "model.safetensors.index.json",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "consolidated.safetensors",
)
"""What transformers, diffusers and Mistral call a model's weights, the preferred first."""
PART: Final = re.compile(r"^(.*)-(\d{5})-of-(\d{5})(\.\w+)$")

_OTHERS: Final = frozenset(["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"])
ADAPTER: Final = "adapter_model"
"""What peft calls an adapter's weights."""
_BESIDE: Final = ("mmproj", "imatrix")
"""GGUF files that go along with a model: its vision tower, what its quantization was weighted with."""
_LABEL: Final = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:IQ\d|Q\d|TQ\d|BF16|F16|F32|FP16|FP32|MXFP4|NVFP4)[A-Z0-9_]*?)(?=[-./]|$)", re.IGNORECASE
)


def weights(place: Place, quant: str = "") -> str | None:
    """The file or the index of a model's weights; the first of the parts of a model that has no index.

    Args:
        place: whose files they are.
        quant: the quantization of a GGUF file that is asked for.

    Returns:
        None where there are none.

    Raises:
        InputError: there are several and none has a usual name, or none of that quantization.
    """
    names = place.names()
    if quant:
        return _quantized(place, _gguf(names), quant)
    for name in FIRST:
        if name in names:
            return name
    top = [name for name in names if "/" not in name]
    models = [name for name in _models(top) if not name.startswith(ADAPTER)]
    gguf = list(_gguf(names).values())
    safe = [name for name in models if name.lower().endswith((".safetensors", ".safetensors" + INDEX))]
    models = safe or gguf or models or _models(top)
    if len(models) > 1:
        raise _several(place, models)
    return models[0] if models else None


def _models(names: Iterable[str]) -> list[str]:
    """One file of each model. A set of parts is one; so is an index with the parts beside it."""
    files = [name for name in names if is_file(name) and name not in _OTHERS]
    indexes = [name for name in files if name.lower().endswith(INDEX)]
    alone = [name for name in files if not any(b in name.rpartition("/")[2].lower() for b in _BESIDE)] or files
    return indexes or list({stem(name): name for name in reversed(alone)}.values())[::-1]


def _gguf(names: Iterable[str]) -> Mapping[str, str]:
    """GGUF models, in folders as well: the first of each one's files by its quantization, or by its name."""
    found: dict[str, str] = {}
    for name in _models(n for n in names if n.lower().endswith(".gguf")):
        label = quantization(name)
        found[label if label and label not in found else name] = name
    return found


def stem(name: str) -> str:
    """A file's name without what tells parts of one model apart."""
    part = PART.match(name)
    return name if part is None else f"{part[1]}{part[4]}"


def quantization(name: str) -> str:
    """The quantization that a GGUF file's name states, as it is spelled there; empty where it states none.

    >>> quantization("Llama-3.1-8B-Instruct-Q4_K_M.gguf"), quantization("UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf")
    ('Q4_K_M', 'UD-Q4_K_XL')
    """
    found = _LABEL.findall(stem(name).removesuffix(".gguf"))
    return found[-1] if found else ""


def title(place: Place, name: str) -> str:
    """What the model of a chosen file is called: as its place is, with the quantization in a repository of several."""
    label = quantization(name) if place.remote and name.lower().endswith(".gguf") else ""
    return f"{place.title}:{label}" if label else place.title


def _quantized(place: Place, models: Mapping[str, str], quant: str) -> str:
    plain = quant.lower()
    exact = [name for label, name in models.items() if label.lower() == plain]
    close = exact or [name for name in models.values() if plain in name.lower()]
    if len(close) == 1:
        return close[0]
    if not models:
        raise InputError(f"{place.words} has no GGUF files", key="model", value=quant)
    if not close:
        spelled = {label.lower(): label for label in models}
        raise InputError(
            f"{place.words} has no GGUF file of {quant}", key="model", value=quant,
            nearest=[spelled[label] for label in nearest(quant, spelled)], hint=f"there are {_listed(models)}",
        )  # fmt: skip
    raise _several(place, close)


def _several(place: Place, names: list[str]) -> InputError:
    gguf = _gguf(names)
    if len(gguf) == len(names):
        first = next(iter(gguf))
        labelled = place.remote and first != gguf[first]
        return InputError(
            f"{place.words} holds {len(names)} GGUF models: {_listed(gguf)}", key="model", value=place.title,
            hint=f"name one of them: {f'{place.title}:{first}' if labelled else place.path(gguf[first])}",
        )  # fmt: skip
    return InputError(
        f"{place.words} holds several weights files: {_listed(sorted(names))}",
        key="model", value=place.title, hint=f"name one of them, such as {place.path(sorted(names)[0])}",
    )  # fmt: skip


def _listed(names: Iterable[str], most: int = 24) -> str:
    them = list(names)
    return ", ".join(them[:most]) + (f" and {len(them) - most} more" if len(them) > most else "")
