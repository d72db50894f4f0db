"""Trained tokens: before the sequence, or as keys and values in every layer's cache.

Reference: https://github.com/huggingface/peft/blob/v0.21.2/src/peft/ peft_model.py (get_prompt, _setup_prompt_encoder)
and utils/other.py (_prepare_prompt_learning_config)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from tonnage.arch.tuning.virtual import Read, Virtual
from tonnage.errors import InputError, UnsupportedError
from tonnage.estimate.adapter import ADAPTERS, Adapter, Option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tonnage.arch.attention import GroupedQuery
    from tonnage.arch.model import Layer, Model
    from tonnage.arch.tuning.prefix import Prefix
    from tonnage.arch.tuning.prompted import Prompted
    from tonnage.workload.training import Train

COUNTED: Final = ("gemma2", "gemma3_text")
"""Models for which peft makes a cache of their own kinds of layers, and counts the tokens that it puts there."""
NAMELESS: Final = ("mpt", "xglm")
"""Models whose configs name their heads as peft does not look for."""
PROMPTED: Final = ("llama", "mistral")
"""Models whose attention peft wraps with adaption prompts (TRANSFORMERS_MODEL_CONFIG)."""
APART: Final = ("marian",)
"""Models whose encoder is where ``get_input_embeddings`` looks, beside the shared table that peft finds first."""
OTHERS: Final = ("biogpt", "gpt_neox_japanese", "lfm2")
"""Models that make positions, or masks, of what is cached."""


def _number(w: Train, name: str) -> int:
    if w.virtual_tokens is None:
        raise InputError(f"adapter = {name} needs a number of tokens", key="virtual_tokens", hint="--virtual-tokens 20")
    return w.virtual_tokens


def _tokens(w: Train, model: Model) -> Virtual:
    return _table(w, model, _number(w, "prompt"))


def _table(w: Train, model: Model, tokens: int, inner: int = 0) -> Virtual:
    """Trained tokens before what is read.

    Raises:
        UnsupportedError: an encoder that reads sound, or counts positions by token ids.
    """
    stem = model.stacks[0].stem
    width = stem.width or stem.D
    if len(model.stacks) == 1:
        return Virtual(tokens, width, ADAPTERS, inner, bool(w.padded))
    if not stem.name or any(table.fixed for table in stem.tables):
        raise UnsupportedError(
            f"trained tokens before what the encoder of {model.model_type} reads are not modelled", key="adapter",
            value="prompt", hint="--adapter lora",
        )  # fmt: skip
    return Read(2 * tokens, width, ADAPTERS, inner, apart=model.model_type in APART)


def _encoded(w: Train, model: Model) -> Virtual:
    tokens = _number(w, "p-tuning")
    if w.encoder_hidden is None:
        raise InputError("adapter = p-tuning needs encoder_hidden", key="encoder_hidden", hint="--encoder-hidden 128")
    return _table(w, model, tokens, w.encoder_hidden)


def _cached(w: Train, model: Model) -> Prefix:
    from tonnage.arch.tuning.prefix import Prefix

    tokens = _number(w, "prefix")
    if w.recompute not in (None, "none"):
        raise InputError(
            "adapter = prefix with recompute: peft refuses it, PREFIX_TUNING does not work with gradient checkpointing "
            "(which lets go of the cache)", key="recompute", value=str(w.recompute), hint="--recompute none",
        )  # fmt: skip
    if "outputs" in w.retain:
        raise UnsupportedError(
            "adapter = prefix with retain = outputs, which hold the cache: not modelled", key="retain", value="outputs",
            hint="without --retain outputs",
        )  # fmt: skip
    a = _attention(model, tokens)
    keys = next(iter(a.expanded_state(1, 1))).axes[2][1]
    if model.model_type == "falcon" and keys != a.N:
        raise InputError(
            f"adapter = prefix: peft makes keys and values for {a.N} heads of a Falcon that caches {keys}, which "
            "torch.cat refuses", key="adapter", value="prefix", hint="--adapter prompt",
        )  # fmt: skip
    windows = tuple(_own(layer)[0].window is not None for layer in model.decoder.layers)
    return Prefix(
        tokens, len(model.decoder.layers), keys, a.H, ADAPTERS, w.encoder_hidden or 0,
        windows if model.model_type in COUNTED else (), bool(w.padded),
    )  # fmt: skip


def _own(layer: Layer) -> list[GroupedQuery]:
    """The layer's blocks of attention."""
    from tonnage.arch.attention import GroupedQuery

    return [s.block for s in layer.sublayers if isinstance(s.block, GroupedQuery)]


def _attention(model: Model, tokens: int) -> GroupedQuery:
    """The attention of every layer.

    Raises:
        UnsupportedError: layers differ, or have a state of another kind.
        InputError: the library refuses the model.
    """
    if model.model_type in NAMELESS:
        raise InputError(
            f"adapter = prefix: peft finds no number of heads in the config of {model.model_type}", key="adapter",
            value="prefix", hint="--adapter prompt",
        )  # fmt: skip
    stem = model.decoder.stem
    if stem.alibi is not None or stem.project is not None or model.model_type in OTHERS:
        _refused(f"{model.model_type}, whose positions or embedding are made otherwise beside a cache,")
    found: dict[tuple[int, int], GroupedQuery] = {}
    for layer, _ in model.decoder.distinct():
        blocks = _own(layer)
        stateful = [s.block for s in layer.sublayers if hasattr(s.block, "state")]
        if len(blocks) != 1 or stateful != blocks or not blocks[0].cached or not blocks[0].causal or blocks[0].cross:
            _refused(f"layers of {model.model_type} that have no keys and values, or others")
        a = blocks[0]
        if a.value_width != a.H:
            _refused(f"{model.model_type}, whose values are not as wide as its keys,")
        if a.window is not None and tokens >= a.window:
            _refused(f"more virtual tokens than the window of {a.window}")
        found[a.K, a.H] = a
    if len(found) > 1:
        _refused(f"{model.model_type}, whose layers differ in heads,")
    return next(iter(found.values()))


def _refused(what: str) -> NoReturn:
    raise UnsupportedError(
        f"adapter = prefix with {what} is not modelled", key="adapter", value="prefix", hint="--adapter prompt"
    )


def _prompted(options: Mapping[str, Option], model: Model) -> Prompted:
    from tonnage.arch.tuning.prompted import Prompted

    if model.model_type not in PROMPTED:
        if model.model_type == "gpt2":
            raise UnsupportedError(
                "adapter = adaption-prompt with gpt2 is not modelled", key="adapter", value="adaption-prompt",
                hint="--adapter prefix",
            )  # fmt: skip
        raise InputError(
            f"adapter = adaption-prompt: peft has it for gpt2, llama and mistral, not for {model.model_type}",
            key="adapter", value="adaption-prompt", hint="--adapter prefix or prompt",
        )  # fmt: skip
    layers = len(model.decoder.layers)
    for name, most in (("adapter_len", None), ("adapter_layers", layers)):
        n = int(options[name])
        if n <= 0 or (most is not None and n > most):
            of = f", of {most}" if most is not None else ""
            raise InputError(
                f"adapter = adaption-prompt with {name} = {n}: a number above 0{of} is needed", key="adapter_options",
                value=f"{name}={n}", hint=f"--adapter-options adapter_len=10,adapter_layers={layers}",
            )  # fmt: skip
    return Prompted(int(options["adapter_len"]), layers - int(options["adapter_layers"]), layers, model.width)


VIRTUAL: Final[dict[str, Adapter]] = {
    "prompt": Adapter("prompt", rank=0, drops=False, virtual=_tokens, packs=True),
    "p-tuning": Adapter("p-tuning", rank=0, drops=False, virtual=_encoded, packs=True),
    "adaption-prompt": Adapter(
        "adaption-prompt", rank=0, drops=False, options={"adapter_len": 0, "adapter_layers": 0}, prompted=_prompted
    ),
    "prefix": Adapter("prefix", rank=0, drops=False, virtual=_cached, packs=True),
}
