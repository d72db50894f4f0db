"""Every family against the class that transformers builds: names, shapes and sharing of every parameter and buffer.

Each config is built on the meta device (nothing is allocated) and compared as a whole mapping: transformers' default
config, a released one from ``tests/families/data``, and perturbed small ones from the table below. Models are cut to a
few layers; widths stay.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from building import DEMANDS, NO_DEFAULT, PERTURBED, TIMM, TOWERS, UNBUILT, built, classes, cut, drawn, of_class

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.families import model_from
from tonnage.families._aliases import ALIASES
from tonnage.families._heads import CLASSIFIED, UNBARE
from tonnage.registry import names

DATA = Path(__file__).parent.parent / "families" / "data"
PERTURBATIONS = 3
UNBUILT_BARE = {"emu3", "funnel"}
"""Types whose bare class transformers does not build of a small config."""
FAMILIES = [name for name in names("tonnage.families") if name not in UNBUILT]
TYPES = sorted(PERTURBED)


def module(model_type: str) -> str:
    return ALIASES.get(model_type, model_type.replace("-", "_"))


def reference_parameters(model: Any) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    """Names to shapes, and which names share one tensor."""
    shapes, shared = {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = tuple(parameter.shape)
        shared.setdefault(id(parameter), set()).add(name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def own_parameters(model: Model) -> tuple[dict[str, tuple[int, ...]], set[frozenset[str]]]:
    shapes: dict[str, tuple[int, ...]] = {}
    shared: dict[str, set[str]] = {}
    for t in model.weights():
        assert t.name not in shapes, f"{t.name} stands twice"
        shapes[t.name] = t.shape
        shared.setdefault(t.alias_of or t.name, {t.alias_of or t.name}).add(t.name)
    return shapes, {frozenset(group) for group in shared.values() if len(group) > 1}


def check(config: dict[str, Any], reference: Any, head: str | None = None) -> None:
    model = model_from(config, head=head)
    shapes, shared = own_parameters(model)
    expected_shapes, expected_shared = reference_parameters(reference)
    assert shapes == expected_shapes
    assert shared == expected_shared
    assert model.parameters.total == sum(p.numel() for p in reference.parameters())
    expected_buffers = {name: tuple(b.shape) for name, b in reference.named_buffers()}
    assert {t.name: t.shape for t in model.buffers()} == expected_buffers


def test_every_family_is_perturbed():
    assert {module(name) for name in PERTURBED} == set(FAMILIES)
    assert set(ALIASES) - set(PERTURBED) <= {
        *TIMM,
        "gemma3",
        "kimi_k2",
        "emu3_text_model",
        "mllama_text_model",
    }


@pytest.mark.parametrize("family", sorted(set(TYPES) - NO_DEFAULT))
def test_default_config(family):
    config = cut(transformers.AutoConfig.for_model(family).to_dict())
    check(config, built(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_released_config(family):
    data = json.loads((DATA / f"{family}.json").read_text())
    config = cut(data["config"])
    reference = config
    if family == "t5":
        # The class ties whatever the config says; a checkpoint with a head of its own keeps it when it is loaded.
        config = {**config, "tie_word_embeddings": True}
    check(config, built(reference))


@pytest.mark.parametrize(
    ("family", "named"), [(family, named) for family in TYPES for named in list(classes(family))[1:]], ids=str
)
def test_other_class(family, named):
    for seed in range(PERTURBATIONS):
        config = {**drawn(family, seed), "architectures": [named]}
        check(config, built(config))


@pytest.mark.parametrize("seed", range(PERTURBATIONS))
@pytest.mark.parametrize("family", TYPES)
def test_perturbed_config(family, seed):
    config = drawn(family, seed)
    reference = built(config)
    check(config, reference)
    # As transformers writes it back, with every default spelt out.
    check({**reference.config.to_dict(), "architectures": None}, reference)


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_towers(name):
    kind = getattr(transformers, name)
    for config in TOWERS[name]:
        reference = kind.config_class(**config)
        with torch.device("meta"):
            model = kind(reference)
        check({**config, "model_type": kind.config_class.model_type, "architectures": [name]}, model)
        check({**reference.to_dict(), "architectures": [name]}, model)


def classified() -> list[str]:
    """Types that have a classifier of sequences, but for those whose classifier is refused."""
    return sorted(set(TYPES) & CLASSIFIED)


def test_a_classifier_is_counted_where_there_is_one():
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    assert set(CLASSIFIERS) - {"mt5", "t5", "umt5"} == CLASSIFIED
    for family in set(TYPES) - CLASSIFIED:
        with pytest.raises(UnsupportedError, match="no classifier of sequences"):
            model_from(drawn(family, 0), head="classify:3")


@pytest.mark.parametrize("family", classified())
def test_classifier(family):
    config = drawn(family, 0)
    model = of_class(config, "AutoModelForSequenceClassification", num_labels=3)
    check(config, model, "classify:3")
    check({**config, "num_labels": 3, "architectures": [type(model).__name__]}, model)


def bare() -> list[str]:
    """Types that have a bare class."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    assert set(TYPES) - set(MODEL_MAPPING_NAMES) <= UNBARE
    return sorted((set(TYPES) & set(MODEL_MAPPING_NAMES)) - UNBARE - UNBUILT_BARE)


@pytest.mark.parametrize("family", bare())
def test_bare_class(family):
    config = drawn(family, 0)
    model = of_class(config, "AutoModel")
    check(config, model, "none")
    if type(model).__name__.endswith("Model"):
        check({**config, "architectures": [type(model).__name__]}, model)


@pytest.mark.parametrize("family", sorted(set(TYPES) & UNBARE))
def test_other_bare_classes_are_refused(family):
    with pytest.raises(UnsupportedError, match="no class with the head 'none'"):
        model_from(drawn(family, 0), head="none")


FORMATS = {"float32": "fp32", "bfloat16": None, "int64": "int64", "int32": "int32", "bool": "bool"}
"""Formats of buffers; None for that of the model."""


@pytest.mark.parametrize("family", sorted(set(TYPES) - {"ctrl"}))
def test_buffers_have_the_format_that_they_are_loaded_in(family):
    """CTRL's table of positions is cast when it is first used."""
    for named, auto in classes(family).items():
        config = {**drawn(family, 0), **DEMANDS.get(named, {}), "architectures": [named]}
        kept = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
        reference = transformers.AutoConfig.for_model(family, **kept)
        with torch.device("meta"):
            model = getattr(transformers, auto).from_config(reference, dtype=torch.bfloat16)
        wide = tuple(model._keep_in_fp32_modules_strict or ())
        expected = {
            name: "fp32" if any(part in name for part in wide) else FORMATS[str(buffer.dtype).removeprefix("torch.")]
            for name, buffer in model.named_buffers()
        }
        own = model_from(config)
        found = {t.name: t.dtype for t in own.buffers()}
        found |= {name: "fp32" for name in found if any(part in name for part in own.fp32)}
        assert {name: None if form == "bf16" else form for name, form in found.items()} == expected
