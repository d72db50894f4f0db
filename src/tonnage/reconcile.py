"""A config held against a file: which tensors are missing, which are extra, which have another size.

Both sides are lists of tensors. What only looks different is brought together first: experts stored one by one and
stacked, GGUF's names, a base model's prefix, packed numbers with their scales, a head that shares the table of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tonnage.arch.model import Model
from tonnage.checkpoint import Header
from tonnage.checkpoint.names import about, role
from tonnage.checkpoint.packing import Packing
from tonnage.record import Record

_EXPERT: Final = re.compile(
    r"^(.*\.)experts\.(?:\d+\.)?(?:(gate_proj|up_proj|gate_up_proj|w1|w3|linear_fc1)|(down_proj|w2))"
    r"(?:\.|_)?(weight|bias)?(?:_blocks)?$"
)
_RENAMED: Final = (
    ("block_sparse_moe.", "mlp."),
    (".LayerNorm.gamma", ".LayerNorm.weight"),
    (".LayerNorm.beta", ".LayerNorm.bias"),
)
_PACKED: Final = ((".qweight", ".weight"), (".weight_packed", ".weight"))

GGUF: Final[Mapping[str, tuple[str, ...]]] = {
    "attn_q": ("self_attn.q_proj", "attention.q_proj", "attn.q_proj"),
    "attn_k": ("self_attn.k_proj", "attention.k_proj", "attn.k_proj"),
    "attn_v": ("self_attn.v_proj", "attention.v_proj", "attn.v_proj"),
    "attn_qkv": ("qkv_proj", "query_key_value", "attn.c_attn", "attn.Wqkv"),
    "attn_output": (
        "self_attn.o_proj", "attention.dense", "self_attention.dense", "self_attn.dense", "attn.c_proj",
        "attn.out_proj", "self_attn.out_proj",
    ),
    "attn_norm": ("input_layernorm", "ln_1", "norm_1", "ln_mlp", "=norm"),
    "attn_norm_2": ("ln_attn",),
    "ffn_norm": ("pre_feedforward_layernorm", "pre_ff_layernorm", "post_attention_layernorm", "ln_2", "norm_2"),
    "post_attention_norm": ("post_self_attn_layernorm", "post_attention_layernorm"),
    "post_ffw_norm": ("post_feedforward_layernorm", "post_mlp_layernorm"),
    "attn_q_norm": ("q_norm", "q_layernorm"),
    "attn_k_norm": ("k_norm", "k_layernorm"),
    "attn_q_a": ("q_a_proj",),
    "attn_q_b": ("q_b_proj",),
    "attn_q_a_norm": ("q_a_layernorm",),
    "attn_kv_a_mqa": ("kv_a_proj_with_mqa",),
    "attn_kv_a_norm": ("kv_a_layernorm",),
    "attn_kv_b": ("kv_b_proj",),
    "attn_k_b": ("kv_b_proj",),
    "attn_v_b": ("kv_b_proj",),
    "attn_sinks": ("sinks",),
    "ffn_gate": ("mlp.gate_proj", "feed_forward.gate_proj"),
    "ffn_up": (
        "mlp.up_proj", "feed_forward.up_proj", "mlp.gate_up_proj", "mlp.c_fc", "mlp.fc1", "mlp.dense_h_to_4h",
        "mlp.fc_in", "ffn.up_proj",
    ),
    "ffn_down": (
        "mlp.down_proj", "feed_forward.down_proj", "mlp.c_proj", "mlp.fc2", "mlp.dense_4h_to_h", "mlp.fc_out",
        "ffn.down_proj",
    ),
    "ffn_gate_inp": ("mlp.gate", "mlp.router", "feed_forward.router", "block_sparse_moe.router.layer"),
    "ffn_gate_exps": ("experts.gate_up_proj",),
    "ffn_up_exps": ("experts.gate_up_proj",),
    "ffn_down_exps": ("experts.down_proj",),
    "ffn_gate_shexp": ("shared_expert.gate_proj", "shared_experts.gate_proj"),
    "ffn_up_shexp": ("shared_expert.up_proj", "shared_experts.up_proj"),
    "ffn_down_shexp": ("shared_expert.down_proj", "shared_experts.down_proj"),
    "ffn_gate_inp_shexp": ("shared_expert_gate",),
    "ssm_in": ("mixer.in_proj", "mamba.in_proj"),
    "ssm_conv1d": ("mixer.conv1d", "mamba.conv1d"),
    "ssm_x": ("mixer.x_proj", "mamba.x_proj"),
    "ssm_dt": ("mixer.dt_proj", "mamba.dt_proj", "mixer.dt_bias"),
    "ssm_a": ("mixer.A_log", "mamba.A_log"),
    "ssm_d": ("mixer.D", "mamba.D"),
    "ssm_out": ("mixer.out_proj", "mamba.out_proj"),
    "ssm_norm": ("mixer.norm",),
    "ssm_dt_norm": ("mamba.dt_layernorm",),
    "ssm_b_norm": ("mamba.b_layernorm",),
    "ssm_c_norm": ("mamba.c_layernorm",),
}  # fmt: skip
"""GGUF's names of a layer's tensors, and the endings of transformers'; ``=`` is a whole name below the layer.
gguf-py/gguf/tensor_mapping.py of ggml-org/llama.cpp"""

GGUF_OUTSIDE: Final[Mapping[str, tuple[str, ...]]] = {
    "token_embd": ("embed_tokens", "wte", "word_embeddings", "embed_in", "backbone.embeddings"),
    "position_embd": ("wpe", "position_embeddings"),
    "token_types": ("token_type_embeddings",),
    "token_embd_norm": ("word_embeddings_layernorm", "embeddings.LayerNorm"),
    "output": ("lm_head", "embed_out"),
    "output_norm": ("model.norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f"),
}
_BLOCK: Final = re.compile(r"^blk\.(\d+)\.(\w+)(?:\.(weight|bias))?$")


class Resized(Record):
    """A tensor that is there with another size.

    Args:
        name: of it.
        left: elements on the left.
        right: elements on the right.
    """

    name: str
    left: int
    right: int


class Difference(Record):
    """What two lists of tensors do not have in common; false where they are the same.

    Args:
        missing: on the left and not on the right.
        extra: on the right and not on the left.
        resized: with another element count.
    """

    missing: tuple[str, ...]
    extra: tuple[str, ...]
    resized: tuple[Resized, ...]

    def turned(self) -> Difference:
        """The same, seen from the other side."""
        return Difference(
            missing=self.extra,
            extra=self.missing,
            resized=tuple(Resized(r.name, r.right, r.left) for r in self.resized),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.resized)


class Side(Record):
    """One of the two lists.

    Args:
        name: of the model or the file.
        numel: elements by name; parts that are stacked elsewhere have one name.
        optional: names that may be absent: shared storage, buffers, what a model is stored with and not built.
        told: names as written, where a part of several stands for the whole.
    """

    name: str
    numel: Mapping[str, int]
    optional: frozenset[str] = frozenset()
    told: Mapping[str, str] = {}


def predicted(model: Model) -> Side:
    """The tensors that a config makes."""
    numel: dict[str, int] = {}
    optional = set()
    for t in model.tensors():
        name = canonical(t.name)
        if t.alias_of is not None or t.role == "buffer":
            optional.add(name)
        size = 1
        for n in t.shape:
            size *= n
        numel[name] = numel.get(name, 0) + size
    for t in model.apart:
        name = canonical(t.name)
        numel[name] = numel.get(name, 0) + t.numel
        optional.add(name)
    return Side(name=model.name or model.model_type, numel=numel, optional=frozenset(optional))


def found(header: Header, like: Side | None = None) -> Side:
    """The tensors of a file, by the names of ``like`` where those are given."""
    packing = Packing(header.tensors)
    translate = _gguf(like) if header.kind == "gguf" and like is not None else None
    numel: dict[str, int] = {}
    told: dict[str, str] = {}
    optional = set()
    for t in header.tensors:
        if about(t.name).stem:
            continue
        name = canonical(t.name)
        if translate is not None:
            name = translate.get(name) or _translated(t.name, translate)
        count = packing.packed.get(t.name, t.numel)
        numel[name] = numel.get(name, 0) + count
        told.setdefault(name, t.name)
        if role(t.name) == "buffer":
            optional.add(name)
    side = Side(name=header.name, numel=numel, optional=frozenset(optional), told=told)
    return side if like is None or translate is not None else _prefixed(side, like)


def compare(left: Side, right: Side) -> Difference:
    """What the two have not in common."""
    a, b = left.numel, right.numel
    free = left.optional | right.optional
    return Difference(
        missing=tuple(sorted(n for n in a.keys() - b.keys() if n not in free)),
        extra=tuple(sorted(right.told.get(n, n) for n in b.keys() - a.keys() if n not in free)),
        resized=tuple(Resized(n, a[n], b[n]) for n in sorted(a.keys() & b.keys()) if a[n] != b[n]),
    )


def canonical(name: str) -> str:
    """One name for what is stored in several ways.

    >>> canonical("model.layers.0.block_sparse_moe.experts.3.w1.weight")
    'model.layers.0.mlp.experts.gate_up_proj.weight'
    """
    for old, new in _RENAMED:
        if old in name:
            name = name.replace(old, new)
    for old, new in _PACKED:
        if name.endswith(old):
            name = name.removesuffix(old) + new
    if "experts." not in name:
        return name
    expert = _EXPERT.match(name)
    if expert is None:
        return name
    which = "gate_up_proj" if expert[2] else "down_proj"
    return f"{expert[1]}experts.{which}.{expert[4] or 'weight'}"


def _prefixed(side: Side, like: Side) -> Side:
    """The same side with the prefix of the base model that most of the other's names have or lack."""

    def named(change: tuple[str, str]) -> dict[str, str]:
        old, new = change
        return {n: new + n.removeprefix(old) if n.startswith(old) and n not in like.numel else n for n in side.numel}

    heads = {n.partition(".")[0] + "." for n in (*like.numel, *side.numel) if "." in n}
    changes = [("", ""), *((h, "") for h in sorted(heads)), *(("", h) for h in sorted(heads))]
    best = max(changes, key=lambda change: sum(n in like.numel for n in named(change).values()))
    names = named(best)
    numel: dict[str, int] = {}
    for old, n in side.numel.items():
        numel[names[old]] = numel.get(names[old], 0) + n
    return side.but(
        numel=numel,
        optional=frozenset(names[n] for n in side.optional),
        told={names[n]: told for n, told in side.told.items()},
    )


def _gguf(like: Side) -> dict[str, str]:
    """GGUF's name of every tensor of a model that it stores."""
    out: dict[str, str] = {}
    by_layer: dict[int, list[str]] = {}
    outside: list[str] = []
    for name in like.numel:
        told = about(name)
        if told.layer:
            by_layer.setdefault(int(name[told.layer : told.end]), []).append(name)
        else:
            outside.append(name)
    for index, names in by_layer.items():
        _pair(out, GGUF, names, f"blk.{index}.")
    _pair(out, GGUF_OUTSIDE, outside, "")
    return out


def _pair(out: dict[str, str], table: Mapping[str, tuple[str, ...]], names: Iterable[str], prefix: str) -> None:
    """Add pairs of names; of several endings the first that is there counts."""
    ends = {}
    for name in names:
        stem, _, kind = name.rpartition(".")
        key = (stem, f".{kind}") if kind in ("weight", "bias") else (name, "")
        ends["." + key[0][about(name).end :].removeprefix("."), key[1]] = name
    for ours, theirs in table.items():
        for end in theirs:
            exact, plain = end.startswith("="), "." + end.removeprefix("=")
            hit = [key for key in ends if (key[0] == plain if exact else key[0].endswith(plain))]
            for stem, kind in hit:
                out[f"{prefix}{ours}{kind}"] = ends[stem, kind]
            if hit:
                break


def _translated(name: str, table: Mapping[str, str]) -> str:
    """A name with or without its ending: GGUF adds one to some tensors that have none, and takes it from others."""
    stem = name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name
    return table.get(stem) or table.get(f"{name}.weight") or name
