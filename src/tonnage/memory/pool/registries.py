"""Which architectures a release of an engine serves: its own registry, then transformers' code over its pool.

The lists are ``data/served/``, made of the engines' own; each names its source. How an engine falls back to
transformers: vllm-project/vllm v0.7.3 to v0.33.0 vllm/model_executor/model_loader/utils.py, from 0.10.2 on
model_executor/models/registry.py ``_normalize_arch``, ``_try_resolve_transformers`` and models/transformers/base.py
``_create_attention_instances``, ``_get_attn_cls``; sgl-project/sglang v0.4.9 to v0.5.23
python/sglang/srt/model_loader/utils.py ``resolve_transformers_arch``; huggingface/text-generation-inference v3.3.7
server/text_generation_server/models/__init__.py ``get_model``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tonnage.arch.model import Model
from tonnage.errors import UnsupportedError
from tonnage.memory.cache import states
from tonnage.record import Record
from tonnage.rows import listed

Release = tuple[int, ...]

NEWEST: Final = 1 << 16
"""Stands for the last part of a release of which only the first parts are said."""
ENGINES: Final = ("vllm", "sglang", "tensorrt-llm", "tgi")
ENDINGS: Final = (
    "ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel", "ForTextEncoding", "EmbeddingModel",
    "ForSequenceClassification", "ForTokenClassification", "ForAudioClassification", "ForImageClassification",
    "ForVideoClassification", "ClassificationModel", "ForRewardModeling", "RewardModel", "Model",
)  # fmt: skip
"""Endings of classes that vLLM turns into one another. vllm/config/model.py ``_SUFFIX_TO_DEFAULTS``"""
TURNED: Final = (0, 10)
POOLED: Final = ("ForSequenceClassification", "ForTokenClassification", "Model")
WRITES: Final = ("ForCausalLM", "LMHeadModel")


class Fallback(Record):
    """From which release on an engine runs transformers' own code over its pool.

    Args:
        text: models of text that write.
        encoders: models that read pictures or sound.
        pooled: classifiers and bare models.
        loose: classes that only let their attention be replaced.
    """

    text: Release
    encoders: Release
    pooled: Release
    loose: Release


FALLBACKS: Final[Mapping[str, Fallback]] = {
    "vllm": Fallback((0, 7), (0, 10), (0, 10), (0, 31)),
    "sglang": Fallback((0, 4, 5), (0, 5, 6), (0, 5, 6), (NEWEST,)),
    "tgi": Fallback((3, 0), (NEWEST,), (NEWEST,), (NEWEST,)),
}


class Support(Record):
    """How a release of an engine runs a class.

    Args:
        how: "own" code, "transformers" for transformers' code over the engine's pool, "no pool" for code that keeps
            none, "none" where it refuses, "unknown" where nothing tells.
        name: of the class or type, as the engine has it.
        spans: releases that have it, as ``data/served`` writes them; empty where none has.
    """

    how: str
    name: str
    spans: tuple[str, ...] = ()


def release_of(text: str | None, release: Release) -> Release:
    """The release as it is said, its last part open where it is not.

    >>> release_of("0.5.0rc2", (0, 5)), release_of(None, (0, 33))
    ((0, 5, 0), (0, 33, 65536))
    """
    told = list(release)
    third = (text or "").removeprefix("v").split(".")[2:3]
    digits = ""
    for character in third[0] if third else "":
        if not character.isdigit():
            break
        digits += character
    return (*told, int(digits) if digits else NEWEST)


def settle(engine: str, model: Model, said: Mapping[str, Any], release: Release) -> tuple[tuple[str, ...], bool]:
    """Refuse a model that a release of the engine does not serve.

    Args:
        engine: its name.
        model: what is to run.
        said: keys of the workload; ``engine_version`` may tell the release to its last part.
        release: the release that is answered.

    Returns:
        What has to be said of the answer, and whether it is known that the release serves the model.

    Raises:
        UnsupportedError: names the class, what serves it, and what to say instead.
    """
    told = release_of(said.get("engine_version"), release)
    found = support(engine, model, told)
    text = ".".join(str(n) for n in told if n != NEWEST)
    if found.how == "transformers":
        return (f"{engine} {text} runs {found.name} by its Transformers backend, with transformers' own layers",), True
    if found.how in ("own", "unknown"):
        return (), found.how == "own"
    others = [e for e in ENGINES if e != engine and support(e, model, (NEWEST,)).how in ("own", "transformers")]
    elsewhere = f"--engine {' or '.join((*others, 'transformers'))}"
    if found.how == "no pool":
        raise UnsupportedError(
            f"{engine} {text} runs {found.name} by code that keeps no pool, which is not modelled", key="engine",
            value=engine, hint=elsewhere,
        )  # fmt: skip
    near = _nearest(found.spans, told)
    when = f": releases {near[0]} do" if near else ""
    if found.name not in (model.class_name, model.whole_type):
        when += f" ({model.whole_type}'s class in transformers, as the config names none)"
    raise UnsupportedError(
        f"{engine} {text} does not serve {found.name}{when}", key="engine_version" if near else "engine",
        value=said.get("engine_version") if near else engine,
        hint=f"--engine-version {near[1]}, or {elsewhere}" if near else elsewhere,
    )  # fmt: skip


def support(engine: str, model: Model, release: Release) -> Support:
    """How a release of an engine runs a model."""
    names, kind = _classes(model), model.whole_type or model.model_type
    if not names and engine != "tgi":
        return Support("unknown", kind)
    name = kind if engine == "tgi" else names[0]
    spans = next(iter(_rows(engine, {name})), None)
    how = _state(spans[1:], release) if spans else ""
    if not how and engine == "vllm" and release >= TURNED:
        turned = {base + end for base in _bases(name) for end in ENDINGS} - {name}
        how = next((kind for row in _rows(engine, turned) if (kind := _state(row[1:], release))), "")
    if not how and engine in FALLBACKS:
        how = _fallen(FALLBACKS[engine], engine, model, names, release)
    return Support(how or "none", name, tuple(spans[1:]) if spans else ())


def _classes(model: Model) -> tuple[str, ...]:
    """The class that is served, with the mark that transformers' list gives it behind; none where nothing tells."""
    row = next(iter(_rows("transformers", {model.whole_type or model.model_type})), ())
    known = {entry.rstrip("+~"): entry[len(entry.rstrip("+~")) :] for entry in row[1:]}
    name = model.class_name if model.class_name not in ("", "Model") else ""
    if not name and known:
        ends = (
            "ForSequenceClassification" if model.classes is not None
            else "Model" if model.head is None
            else "ForMaskedLM" if not model.causal and len(model.stacks) == 1
            else ""
        )  # fmt: skip
        name = next((n for n in known if n.endswith(ends)), next(iter(known)))
    return (name, known.get(name, "")) if name else ()


def _fallen(rules: Fallback, engine: str, model: Model, names: tuple[str, ...], release: Release) -> str:
    """What becomes of a class that is on no list of the engine's."""
    name, mark = names or ("", "")
    if engine == "tgi" and name and not name.endswith(WRITES):
        return "no pool" if len(model.stacks) > 1 else ""
    since = rules.text
    if any(t.role in ("vision", "audio") for t in model.extra):
        since = max(since, rules.encoders)
    if name.endswith(POOLED):
        since = max(since, rules.pooled)
    if mark == "~":
        since = max(since, rules.loose)
    # It runs one stack of layers, all of which attend to the sequence itself.
    plain = len(model.stacks) == 1 and not any(
        t.role == "state" or t.name.startswith("encoder")
        for layer, _ in model.decoder.distinct()
        for t, _ in states(layer, 1, 1)
    )
    if mark and plain and release >= since:
        return "transformers"
    return "no pool" if engine == "tgi" and name else ""


def _rows(engine: str, names: set[str]) -> list[tuple[str, ...]]:
    """The rows of a list that begin with one of the names."""
    return listed(f"served/{engine.replace('-', '_')}", names)


def _bases(name: str) -> Iterator[str]:
    """A class's name without its ending: the first that fits, as vLLM tries them."""
    end = next((end for end in ENDINGS if name.endswith(end)), None)
    if end is not None:
        yield name.removesuffix(end)


def _state(spans: tuple[str, ...], release: Release) -> str:
    """What holds at a release.

    >>> _state(("0.6", "~0.32"), (0, 33)), _state(("0.6", "-0.11"), (0, 11))
    ('transformers', '')
    """
    state = ""
    for word in spans:
        if _parts(word.lstrip("-~!")) <= release:
            state = {"-": "", "~": "transformers", "!": "no pool"}.get(word[0], "own")
    return state


def _nearest(spans: tuple[str, ...], release: Release) -> tuple[str, str] | None:
    """The releases that have it, and one of them: those before if there are any, else those to come."""
    if not spans:
        return None
    first = next((w for w in spans if w[0] != "-" and _parts(w.lstrip("~!")) > release), None)
    gone = [w for w in spans if w[0] == "-" and _parts(w[1:]) <= release]
    if gone:
        start = spans[spans.index(gone[-1]) - 1].lstrip("~!")
        return f"from {start} to before {gone[-1][1:]}", start
    return None if first is None else (f"from {first.lstrip('~!')} on", first.lstrip("~!"))


def _parts(text: str) -> Release:
    return tuple(int(n) for n in text.split("."))
