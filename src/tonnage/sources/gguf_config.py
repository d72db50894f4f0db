"""From GGUF metadata to the config that transformers would have: one row an architecture.

Follows gguf-py/gguf/constants.py (class Keys), src/llama-arch.cpp and, for what a converter makes of a config's keys,
convert_hf_to_gguf.py, all of ggml-org/llama.cpp. What metadata does not say is read from the table of tensors: rows of
the vocabulary, biases, a head of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.checkpoint import Header
from tonnage.errors import ConfigError, UnsupportedError, nearest
from tonnage.formats import FORMATS
from tonnage.record import Record
from tonnage.sources import RawModel

Config = dict[str, Any]


class Facts:
    """What a header says, by the words of its architecture.

    Args:
        header: of a GGUF file.
        arch: its ``general.architecture``.
    """

    def __init__(self, header: Header, arch: str) -> None:
        self.header = header
        self.arch = arch
        self.shapes = {t.name: t.shape for t in header.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the architecture; a list of one value for every layer is that value."""
        value = self.header.metadata.get(f"{self.arch}.{key}", default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            return value[0]
        return value

    def need(self, key: str) -> int:
        """A size that must be there."""
        value = self.get(key)
        if isinstance(value, list):
            raise UnsupportedError(
                f"{self.arch}.{key} differs from layer to layer, which this architecture's model does not",
                key=f"{self.arch}.{key}", value=str(value)[:80],
            )  # fmt: skip
        if type(value) is not int or not 0 < value < 2**40:
            what = "is missing" if value is None else f"= {value!r} is not a sensible size"
            raise ConfigError(f"{self.arch}.{key} {what}", key=f"{self.arch}.{key}", value=value)
        return value

    def has(self, tensor: str) -> bool:
        """Whether a tensor of this name is in the file, in any layer where it begins with ``blk.#``."""
        if tensor.startswith("blk.#"):
            end = tensor.removeprefix("blk.#")
            return any(name.startswith("blk.") and name.endswith(end) for name in self.shapes)
        return tensor in self.shapes

    def layers_with(self, end: str) -> list[int]:
        """Layers that have a tensor with this ending."""
        found = (name.split(".", 2) for name in self.shapes if name.startswith("blk."))
        return sorted(int(at) for _, at, rest in found if rest == end and at.isdigit())

    def rows(self, tensor: str) -> int | None:
        """Rows of a matrix; None where the file lacks it."""
        shape = self.shapes.get(tensor)
        return shape[0] if shape else None

    def width(self) -> int:
        """Of a head."""
        given = self.get("attention.key_length")
        return given if isinstance(given, int) else self.need("embedding_length") // self.need("attention.head_count")

    def turned(self) -> float:
        """Share of a head that is turned."""
        turned = self.get("rope.dimension_count")
        return turned / self.width() if isinstance(turned, int) else 1.0

    @property
    def tied(self) -> bool:
        """Whether the head is the table of tokens."""
        return not self.has("output.weight")

    @property
    def biased(self) -> bool:
        """Whether queries have a bias."""
        return self.has("blk.#.attn_q.bias") or self.has("blk.#.attn_qkv.bias")


class Arch(Record):
    """How one architecture's metadata is read.

    Args:
        model_type: transformers' name.
        reads: keys beside width, depth, heads and vocabulary: names of ``KEYS``, separated by spaces.
        also: what else follows from the header.
        positions: transformers' name of the trained length.
        head: the class that the file holds; None for the family's own.
    """

    model_type: str
    reads: str = "ff kv"
    also: Callable[[Facts], Config] | None = None
    positions: str = "max_position_embeddings"
    head: str | None = None


KEYS: Final[Mapping[str, tuple[str, str]]] = {
    "ff": ("feed_forward_length", "intermediate_size"),
    "kv": ("attention.head_count_kv", "num_key_value_heads"),
    "width": ("attention.key_length", "head_dim"),
    "window": ("attention.sliding_window", "sliding_window"),
    "used": ("expert_used_count", "num_experts_per_tok"),
    "experts": ("expert_count", "num_experts"),
    "local": ("expert_count", "num_local_experts"),
    "routed": ("expert_count", "n_routed_experts"),
    "expert-ff": ("expert_feed_forward_length", "moe_intermediate_size"),
    "shared-ff": ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    "state": ("ssm.state_size", "state_size"),
    "kernel": ("ssm.conv_kernel", "conv_kernel"),
}
"""Metadata key, without the architecture, and config key."""


def _biases(f: Facts) -> Config:
    return {"attention_bias": f.biased}


def _llama(f: Facts) -> Config:
    if f.get("expert_count"):
        return {"model_type": "mixtral", "num_local_experts": f.need("expert_count"),
                "num_experts_per_tok": f.need("expert_used_count")}  # fmt: skip
    if f.biased and not f.has("blk.#.attn_output.bias"):
        # Queries, keys and values alone have biases: Qwen 2's structure.
        return {"model_type": "qwen2"}
    return {"attention_bias": f.biased, "mlp_bias": f.has("blk.#.ffn_gate.bias")}


def _partial(f: Facts) -> Config:
    return {"partial_rotary_factor": f.turned()}


def _stablelm(f: Facts) -> Config:
    return {
        "partial_rotary_factor": f.turned(),
        "use_qkv_bias": f.biased,
        "qk_layernorm": f.has("blk.#.attn_q_norm.weight"),
        "use_parallel_residual": not f.has("blk.#.ffn_norm.weight"),
    }


def _neox(f: Facts) -> Config:
    return {
        "rotary_pct": f.turned(),
        "use_parallel_residual": bool(f.get("use_parallel_residual", True)),
        "attention_bias": f.biased,
    }


def _falcon(f: Facts) -> Config:
    groups = f.need("attention.head_count_kv")
    return {
        "new_decoder_architecture": f.has("blk.#.attn_norm_2.weight"),
        "multi_query": groups == 1,
        "num_kv_heads": groups,
        "parallel_attn": True,
        "bias": f.has("blk.#.attn_qkv.bias"),
        "alibi": False,
        "ffn_hidden_size": f.need("feed_forward_length"),
    }


def _mpt(f: Facts) -> Config:
    if f.has("blk.#.attn_q_norm.weight") or f.has("blk.#.attn_qkv.bias") or f.has("position_embd.weight"):
        raise UnsupportedError("an MPT with norms of queries, biases or a table of positions is not modelled")
    if f.need("feed_forward_length") != 4 * f.need("embedding_length"):
        raise UnsupportedError("an MPT whose feed-forward is not four times its width is not modelled")
    alibi = f.get("attention.max_alibi_bias")
    return {
        "attn_config": {
            "alibi": bool(alibi),
            "alibi_bias_max": int(alibi or 8),
            "clip_qkv": f.get("attention.clamp_kqv"),
        }
    }


def _gemma3(f: Facts) -> Config:
    pattern = f.get("attention.sliding_window_pattern")
    return {"sliding_window_pattern": pattern} if type(pattern) is int else {}


def _olmo(f: Facts) -> Config:
    return {"clip_qkv": f.get("attention.clamp_kqv"), "attention_bias": False}


def _deepseek(f: Facts) -> Config:
    turned, rank = f.need("rope.dimension_count"), f.get("attention.q_lora_rank")
    out: Config = {
        # Stored with one key for all heads; each has its own.
        "num_key_value_heads": f.need("attention.head_count"),
        "q_lora_rank": rank or None,
        "kv_lora_rank": f.need("attention.kv_lora_rank"),
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": (f.get("attention.key_length_mla") or f.need("attention.key_length")) - turned,
        "v_head_dim": f.get("attention.value_length_mla") or f.need("attention.value_length"),
        "first_k_dense_replace": f.get("leading_dense_block_count", 0),
        "n_shared_experts": f.get("expert_shared_count"),
    }
    # Sigmoid gates, with a correction of the scores, are V3's; the older ones take a softmax.
    if f.has("blk.#.exp_probs_b.bias") or f.get("expert_gating_func") == 2:
        return {**out, "model_type": "deepseek_v3", "num_nextn_predict_layers": 0, **_grouped(f)}
    return {**out, "topk_method": "greedy"}


def _grouped(f: Facts) -> Config:
    groups, used = f.get("expert_group_count"), f.get("expert_group_used_count")
    return {"n_group": groups, "topk_group": used} if groups and used else {}


def _mamba(f: Facts) -> Config:
    return {"intermediate_size": f.need("ssm.inner_size"), "time_step_rank": f.need("ssm.time_step_rank")}


def _mamba2(f: Facts) -> Config:
    inner, heads = f.need("ssm.inner_size"), f.need("ssm.time_step_rank")
    return {
        "num_heads": heads,
        "head_dim": inner // heads,
        "n_groups": f.get("ssm.group_count", 1),
        "expand": inner / f.need("embedding_length"),
    }


def _jamba(f: Facts) -> Config:
    routed = f.layers_with("ffn_gate_inp.weight")
    attends = f.layers_with("attn_q.weight")
    return {
        **_periodic("attn_layer", attends, f.need("block_count")),
        **_periodic("expert_layer", routed, f.need("block_count")),
        "num_key_value_heads": max(_list(f.get("attention.head_count_kv"))),
        "mamba_d_state": f.need("ssm.state_size"),
        "mamba_d_conv": f.need("ssm.conv_kernel"),
        "mamba_dt_rank": f.need("ssm.time_step_rank"),
        "mamba_expand": f.need("ssm.inner_size") // f.need("embedding_length"),
        "num_experts": f.get("expert_count") or 1,
        "num_experts_per_tok": f.get("expert_used_count") or 1,
    }


def _periodic(what: str, layers: list[int], depth: int) -> Config:
    """A period and an offset that give these layers and no others."""
    if not layers:
        return {f"{what}_period": depth + 1, f"{what}_offset": depth}
    period = layers[1] - layers[0] if len(layers) > 1 else max(layers[0] + 1, depth - layers[0])
    if layers != list(range(layers[0], depth, period)) or layers[0] >= period:
        raise UnsupportedError(f"the layers {layers[:6]} ... follow no period", key=what, value=str(layers)[:80])
    return {f"{what}_period": period, f"{what}_offset": layers[0]}


def _list(value: Any) -> list[int]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(type(n) is int for n in found):
        raise ConfigError(
            "attention.head_count_kv must hold counts", key="attention.head_count_kv", value=str(value)[:80]
        )
    return found


def _gpt_oss(f: Facts) -> Config:
    return {"intermediate_size": f.need("expert_feed_forward_length"), "attention_bias": f.biased}


def _cohere(f: Facts) -> Config:
    return {"use_qk_norm": f.has("blk.#.attn_q_norm.weight")}


def _bert(f: Facts) -> Config:
    return {"type_vocab_size": f.rows("token_types.weight") or 2}


def _t5(f: Facts) -> Config:
    gated = f.has("enc.blk.0.ffn_gate.weight")
    return {
        "d_kv": f.need("attention.key_length"),
        "d_ff": f.need("feed_forward_length"),
        "num_decoder_layers": f.get("decoder_block_count") or f.need("block_count"),
        "relative_attention_num_buckets": f.need("attention.relative_buckets_count"),
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def _starcoder(f: Facts) -> Config:
    return {"multi_query": f.get("attention.head_count_kv", 1) == 1}


def _starcoder2(f: Facts) -> Config:
    return {"use_bias": f.biased}


def _granite(f: Facts) -> Config:
    if f.has("blk.#.ffn_gate_shexp.weight"):
        raise UnsupportedError("shared experts beside a GGUF's granite are not modelled yet")
    return _biases(f)


ARCHITECTURES: Final[Mapping[str, Arch]] = {
    "llama": Arch("llama", "ff kv width", _llama),
    "mistral3": Arch("ministral3", "ff kv width"),
    "arcee": Arch("arcee", "ff kv width", _biases),
    "smollm3": Arch("smollm3", "ff kv", _biases),
    "seed_oss": Arch("seed_oss", "ff kv width"),
    "qwen2": Arch("qwen2"),
    "qwen2vl": Arch("qwen2"),
    "dream": Arch("qwen2"),
    "qwen2moe": Arch("qwen2_moe", "ff kv experts used expert-ff shared-ff"),
    "qwen3": Arch("qwen3", "ff kv width", _biases),
    "qwen3moe": Arch("qwen3_moe", "ff kv width experts used expert-ff", _biases),
    "phi2": Arch("phi", "ff kv", _partial),
    "phi3": Arch("phi3", "ff kv", _partial),
    "phimoe": Arch("phimoe", "ff kv local used"),
    "gemma": Arch("gemma", "ff kv width"),
    "gemma2": Arch("gemma2", "ff kv width window"),
    "gemma3": Arch("gemma3_text", "ff kv width window", _gemma3),
    "gpt2": Arch("gpt2", "", lambda f: {"n_inner": f.need("feed_forward_length")}, "n_positions"),
    "starcoder": Arch("gpt_bigcode", "", _starcoder, "n_positions"),
    "starcoder2": Arch("starcoder2", "ff kv", _starcoder2),
    "gptneox": Arch("gpt_neox", "ff", _neox),
    "falcon": Arch("falcon", "", _falcon),
    "bloom": Arch("bloom", "", None, ""),
    "mpt": Arch("mpt", "", _mpt, "max_seq_len"),
    "stablelm": Arch("stablelm", "ff kv", _stablelm),
    "command-r": Arch("cohere", "ff kv", _cohere),
    "cohere2": Arch("cohere2", "ff kv window"),
    "olmo": Arch("olmo", "ff kv", _olmo),
    "olmo2": Arch("olmo2", "ff kv", _biases),
    "olmoe": Arch("olmoe", "ff kv experts used", _olmo),
    "granite": Arch("granite", "ff kv", _biases),
    "granitemoe": Arch("granitemoe", "ff kv local used", _granite),
    "deepseek2": Arch("deepseek_v2", "ff routed used expert-ff", _deepseek),
    "glm4": Arch("glm4", "ff kv", lambda f: {**_partial(f), **_biases(f)}),
    "gpt-oss": Arch("gpt_oss", "kv width window local used", _gpt_oss),
    "mamba": Arch("mamba", "state kernel", _mamba, ""),
    "mamba2": Arch("mamba2", "state kernel", _mamba2, ""),
    "jamba": Arch("jamba", "ff", _jamba),
    "bert": Arch("bert", "ff", _bert, head="none"),
    "t5": Arch("t5", "", _t5, "n_positions"),
    "ernie4_5": Arch("ernie4_5", "ff kv width", lambda f: {"use_bias": f.biased}),
    "exaone4": Arch("exaone4", "ff kv width window"),
    "apertus": Arch("apertus", "ff kv", _biases),
}
"""llama.cpp's name of an architecture to how it is read."""

WITHOUT_HEADS: Final = frozenset(["mamba", "mamba2"])
DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def described(header: Header) -> RawModel:
    """The config that a GGUF file's metadata describes.

    Raises:
        ConfigError: metadata is missing or no sensible size.
        UnsupportedError: an architecture that has no row, or a variant of one that is not modelled.
    """
    arch = header.metadata.get("general.architecture")
    if not isinstance(arch, str) or not arch:
        raise ConfigError("the file states no general.architecture", key="general.architecture", file=header.name)
    if arch == "clip":
        raise ConfigError(
            "a projector of pictures or sound, no model", key="general.architecture", value=arch, file=header.name,
            hint="--mmproj takes it, beside the text model's file",
        )  # fmt: skip
    row = ARCHITECTURES.get(arch)
    if row is None:
        raise UnsupportedError(
            f"the GGUF architecture {arch!r} builds no model yet", key="general.architecture", value=arch,
            file=header.name, nearest=nearest(arch, ARCHITECTURES),
            hint="tonnage params answers from the header alone",
        )  # fmt: skip
    return RawModel(config=config(Facts(header, arch), row), name=header.name, origin=header.origin, file=header.name)


def config(f: Facts, row: Arch) -> Config:
    """The keys that a row names, with their values."""
    out: Config = {
        "model_type": row.model_type,
        "hidden_size": f.need("embedding_length"),
        "num_hidden_layers": f.need("block_count"),
        "vocab_size": f.rows("token_embd.weight") or f.need("vocab_size"),
    }
    if f.arch not in WITHOUT_HEADS:
        out["num_attention_heads"] = f.need("attention.head_count")
    if row.positions and f.get("context_length") is not None:
        out[row.positions] = f.need("context_length")
    for name in row.reads.split():
        key, ours = KEYS[name]
        if f.get(key) is not None:
            out[ours] = f.need(key)
    if f.has("token_embd.weight") and row.head is None:
        out["tie_word_embeddings"] = f.tied
    if row.also is not None:
        out.update(row.also(f))
    if row.head == "none":
        out["architectures"] = ["Model"]
    return {**out, **_stored(f.header)}


def _stored(header: Header) -> Config:
    """The format of most of the weights: a plain one, or the blocks of a quantized file."""
    size: dict[str, int] = {}
    for t in header.tensors:
        size[t.format] = size.get(t.format, 0) + t.nbytes
    if not size:
        return {}
    most = max(size, key=lambda name: size[name])
    if FORMATS[most].elements > 1:
        return {"quantization_config": {"quant_method": "gguf", "tensors": list(header.tensors)}}
    return {"dtype": DTYPES[most]} if most in DTYPES else {}
