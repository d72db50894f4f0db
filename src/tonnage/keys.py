"""Read a foreign config and account for every key.

Every key ends up needed, wanted, refused or inert. What is left over is an error: unknown keys are where new
architectures hide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar, overload

from tonnage.errors import ConfigError, UnsupportedError

T = TypeVar("T")

_MISSING: Final = object()
_LARGEST: Final = 10**12
_LAYERS: Final = 10_000

INERT_ENDINGS: Final = ("_token_id", "_version", "_token_index", "_token_ids")
INERT: Final = frozenset(
    [
        "architectures",
        "auto_map",
        "model_type",
        "torch_dtype",
        "dtype",
        "name_or_path",
        "tokenizer_class",
        "prefix",
        "processor_class",
        "transformers_version",
        "task_specific_params",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "return_dict",
        "return_dict_in_generate",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_router_logits",
        "torchscript",
        "tf_legacy_loss",
        "use_bfloat16",
        "use_cache",
        "pruned_heads",
        "is_decoder",
        "is_encoder_decoder",
        "cross_attention_hidden_size",
        "chunk_size_feed_forward",
        "bad_words_ids",
        "begin_suppress_tokens",
        "suppress_tokens",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "do_sample",
        "early_stopping",
        "diversity_penalty",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "remove_invalid_values",
        "repetition_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "initializer_range",
        "initializer_factor",
        "init_std",
        "attn_implementation",
        "attention_implementation",
        "experts_implementation",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_interleaved",
        "default_theta",
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_eps",
        "norm_epsilon",
        "layernorm_epsilon",
        "router_aux_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "router_jitter_noise",
        "router_z_loss_coef",
        "classifier_dropout",
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "pretraining_tp",
        "use_flash_attn",
        "unsloth_fixed",
        "unsloth_version",
        "gradient_checkpointing",
        "max_window_layers_note",
        "base_model_tp_plan",
        "base_model_pp_plan",
        "ep_size",
        "tensor_parallel",
        "use_return_dict",
        "sep_token_id",
        "logits_scaling",
        "embedding_multiplier",
        "ignore_index",
        "residual_multiplier",
        "attention_multiplier",
    ]
)
"""Keys that cannot change memory in any family. ``auto_map`` names code; the ``model_type`` decides what is read."""
UNSET: Final = frozenset(["add_cross_attention", "tie_encoder_decoder"])
"""Keys that transformers wrote into every config up to 4.57, in nested ones too; false is what most families have."""


class Keys:
    """A config while a family reads it.

    Args:
        config: as written.
        file: where it was read, for messages.
        aliases: other names a key goes by, from the family's own ``attribute_map``.
        ignored: keys that the user asked to pass over.
        lenient: whether keys that are left unread are reported instead of refused.
        path: of a nested config in its parent.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        file: str | None = None,
        aliases: Mapping[str, str] | None = None,
        ignored: frozenset[str] = frozenset(),
        lenient: bool = False,
        path: str = "",
    ) -> None:
        self.config = config
        self.file = file
        self.path = path
        self.aliases = aliases or {}
        self.allowed = ignored
        self.lenient = lenient
        self.seen: set[str] = set()
        self.defaulted: list[str] = []
        self.ignored: list[str] = []

    def _find(self, key: str) -> tuple[str, Any]:
        other = self.aliases.get(key)
        for name in (key, other):
            if name is not None and name in self.config:
                self.seen.add(name)
                if other is not None:
                    self.seen.update((key, other))
                return self.path + name, self.config[name]
        return self.path + key, _MISSING

    def _typed(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            names = {"int": "a whole number", "str": "a text", "bool": "true or false", "float": "a number"}
            wanted = names.get(kind.__name__, f"a {kind.__name__}")
            raise ConfigError(f"{key} must be {wanted}, not {_short(value)}", key=key, value=value, file=self.file)
        if kind is float and not -1e30 < value < 1e30:  # type: ignore[operator]
            raise ConfigError(f"{key} is not a finite number", key=key, value=repr(value), file=self.file)
        return value

    def _sized(self, name: str, value: T, kind: type[Any], least: int) -> T:
        """``value``, which as a number must be one that a model can have."""
        if kind is int:
            most = _LAYERS if name.endswith(("layers", "n_layer")) else _LARGEST
            if not least <= value <= most:  # type: ignore[operator]
                raise ConfigError(
                    f"{name} = {_short(value)} is not a sensible size", key=name, value=value, file=self.file
                )
        elif kind is float and "dropout" in name and not 0.0 <= value <= 1.0:  # type: ignore[operator]
            raise ConfigError(f"{name} = {_short(value)} is not a share", key=name, value=value, file=self.file)
        return value

    @overload
    def need(self, key: str) -> int: ...
    @overload
    def need(self, key: str, kind: type[T]) -> T: ...
    def need(self, key: str, kind: type[Any] = int) -> Any:
        """A key that every released config of the family states; a positive number where it is one."""
        name, value = self._find(key)
        if value is _MISSING or value is None:
            raise ConfigError(f"{name} is missing", key=name, file=self.file, hint=self._misspelt(key))
        return self._sized(name, self._typed(name, value, kind), kind, 1)

    def want(self, key: str, default: T, kind: type[T] | None = None, *, least: int = 0) -> T:
        """A key with transformers' default, which is listed where it was taken; a number is at least ``least``."""
        name, value = self._find(key)
        if value is _MISSING:
            self.defaulted.append(name)
            return default
        wanted = kind or type(default)
        if value is None and (kind is None or default is None):
            return default
        value = self._typed(name, value, wanted)
        return self._sized(name, value, wanted, least)

    def size(self, key: str, default: int) -> int:
        """A positive number with transformers' default."""
        return self.want(key, default) if self._find(key)[1] is _MISSING else self.need(key)

    @overload
    def optional(self, key: str) -> int | None: ...
    @overload
    def optional(self, key: str, kind: type[T], default: T | None = None) -> T | None: ...
    def optional(self, key: str, kind: type[Any] = int, default: Any = None) -> Any:
        """A key that may be null."""
        name, value = self._find(key)
        if value is _MISSING:
            self.defaulted.append(name)
            return default
        if value is None:
            return None
        return self._sized(name, self._typed(name, value, kind), kind, 0)

    def texts(self, key: str, length: int) -> list[str] | None:
        """A list of ``length`` words, such as ``layer_types``; None where it is absent or null."""
        name, value = self._find(key)
        if value is _MISSING or value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise ConfigError(f"{name} must be a list of texts", key=name, value=value, file=self.file)
        if len(value) != length:
            raise ConfigError(
                f"{name} has {len(value)} entries for {length} layers", key=name, value=len(value), file=self.file
            )
        return value

    def inner(self, key: str) -> Keys | None:
        """A nested config."""
        name, value = self._find(key)
        if value is _MISSING or value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} must be an object, not {_short(value)}", key=name, value=value, file=self.file)
        return Keys(value, file=self.file, ignored=self.allowed, lenient=self.lenient, path=f"{name}.")

    def refuse(self, key: str, *unless: object) -> None:
        """A key of which only the values ``unless`` are modelled: null, false and absent always are."""
        name, value = self._find(key)
        if value is _MISSING or value is None or value is False or value in unless:
            return
        if name in self.allowed:
            self.ignored.append(name)
            return
        raise UnsupportedError(
            f"{name} = {_short(value)} is not modelled yet",
            key=name,
            value=value,
            file=self.file,
            hint=f"--ignore-key {name} answers without it",
        )

    def skip(self, *keys: str) -> None:
        """Keys that cannot change memory in this family."""
        for key in keys:
            self._find(key)
            self.seen.add(key)

    def divides(self, whole: str, part: str, a: int, b: int) -> int:
        """``a / b``, which must be a whole number."""
        if b < 1 or a % b:
            raise ConfigError(
                f"{self.path}{part} = {b} does not divide {whole} = {a}", key=self.path + part, value=b, file=self.file
            )
        return a // b

    def done(self) -> None:
        """Refuse, or list, what no one has read."""
        left = sorted(k for k, value in self.config.items() if k not in self.seen and not _inert(k, value))
        self.ignored += [self.path + k for k in left if self.path + k in self.allowed]
        left = [k for k in left if self.path + k not in self.allowed]
        if left and self.lenient:
            self.ignored += [self.path + k for k in left]
        elif left:
            told = ", ".join(f"{self.path}{k} = {_short(self.config[k])}" for k in left[:12])
            more = f" and {len(left) - 12} more" if len(left) > 12 else ""
            flags = " ".join(f"--ignore-key {self.path}{k}" for k in left[:12])
            raise ConfigError(
                f"keys that are not understood: {told}{more}",
                key=self.path + left[0],
                value=self.config[left[0]],
                file=self.file,
                hint=f"to answer without them: {flags}" + (" (or --ignore-unknown)" if more else ""),
            )

    def _misspelt(self, key: str) -> str | None:
        from tonnage.errors import nearest

        close = nearest(key, [k for k in self.config if k not in self.seen], most=1)
        return f"is {close[0]!r} a misspelling of it?" if close else None


def _inert(key: str, value: object) -> bool:
    """Whether a key that no family has read says nothing: null is what is not used, under any name."""
    if value is None or key.startswith("_") or key in INERT or key.endswith(INERT_ENDINGS):
        return True
    return key in UNSET and value is False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
