"""llama.cpp's names for our tensors, and what its converter makes of them.

References: gguf-py/gguf/tensor_mapping.py and conversion of ggml-org/llama.cpp: matrices keep the file format, tensors
of one dimension, norms, routers, convolutions and position tables are fp32, experts are stacked with gate and up apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.mixers.delta import GatedDelta
from tonnage.arch.model import Layer, Model
from tonnage.errors import UnsupportedError
from tonnage.quant._ggml_names import (
    ARCHITECTURES,
    ATTENTION_OUT,
    BUFFERS,
    COUNTED_HEADS,
    EXPERT_BIASES,
    FULL,
    LEAVES,
    OWNED,
    SEVENTY,
    WHOLE_EXPERTS,
)
from tonnage.quant._stored import Entry, Matrix, entries
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor


class Named(Record):
    """A tensor of a GGUF file.

    Args:
        name: llama.cpp's.
        axes: as stored, the row last.
        columns: length of a row.
        stacked: how many matrices.
        kept: in fp32, whatever the file's format.
        tensor: ours, which it is made of.
        full: in fp32 unless the file is quantized.
    """

    name: str
    axes: Axes
    columns: int
    stacked: int
    kept: bool
    tensor: Tensor
    full: bool = False


def architecture(model: Model) -> str:
    """llama.cpp's name of the architecture."""
    found = ARCHITECTURES.get(model.model_type)
    if found is None:
        raise UnsupportedError(
            f"llama.cpp's tensors of {model.model_type} are not known here",
            key="quant", value=model.model_type, hint="a GGUF file itself tells its sizes",
        )  # fmt: skip
    return found


def named(model: Model, mla: str) -> Iterator[Named]:
    """Every tensor of the GGUF file of a model, in no order.

    Args:
        model: what is converted.
        mla: how the second matrix of a latent is stored: "split" by keys and values, "joined" as before April 2025, or
            "both".
    """
    latent = next((b for b in _blocks(model.decoder.layers) if isinstance(b, Latent)), None)
    arch = architecture(model)
    for table in model.decoder.stem.rotary:
        if table.factored or (arch == "gemma4" and table.key == "full_attention"):
            axes = (("X", table.width // 2),)
            yield _plain("rope_freqs.weight", Tensor(table.name, axes, "buffer", layer=0), kept=True)
    for entry in entries(model, by_layer=True):
        _, t, m = entry
        if t.name.endswith("linear_attn.in_proj_qkvz.weight"):
            yield from _queries_and_gate(model, t)
        elif m is not None and m.batch and arch in WHOLE_EXPERTS:
            yield from _experts(t, m, f"blk.{t.layer}.", whole=True)
        else:
            yield from _of(entry, latent, mla)


def _blocks(layers: Iterable[Layer]) -> Iterator[object]:
    """What layers are made of, and the parts of that."""
    for layer in layers:
        for sub in layer.sublayers:
            yield sub.block
            yield from getattr(sub.block, "parts", ())


def _of(entry: Entry, latent: Latent | None, mla: str) -> Iterator[Named]:
    _, t, m = entry
    block = f"blk.{t.layer}." if t.layer is not None else ""
    if t.role == "buffer":
        told = BUFFERS.get(t.name.rpartition(".")[2])
        if told is not None:
            yield _plain(block + told, t, kept=True)
        return
    if t.alias_of is not None:
        return
    if t.role == "embedding" and t.layer is None:
        # Two dimensions: the table of tokens. What else stands here is a norm or a table that stays fp32.
        yield _plain("token_embd.weight", t, kept=len(t.shape) != 2)
    elif t.role == "head" and m is not None:
        yield _plain("output.weight", t, kept=False)
    elif m is None and t.name.endswith(EXPERT_BIASES):
        yield from _expert_biases(t, block)
    elif m is None or t.role == "router":
        if t.role == "router" and m is not None:
            name = "ffn_gate_inp.weight"
        else:
            owner, _, leaf = t.name.rpartition(".")
            name = f"{OWNED.get('.'.join(owner.split('.')[-2:]), owner.rpartition('.')[2])}.{leaf}"
        yield _plain(block + name, t, kept=True)
    elif m.batch:
        yield from _experts(t, m, block)
    else:
        name = _leaf(m)
        if name == "attn_kv_b" and latent is not None and mla != "joined":
            yield from _latent(t, latent, block)
            if mla == "split":
                return
        if m.role == "shared_expert" and not name.endswith("shexp") and "latent" not in name:
            name += "_shexp"
        yield Named(
            name=f"{block}{name}.weight", axes=(m.outs, m.ins), columns=m.columns, stacked=1, kept=m.rows == 1,
            tensor=t, full=name in FULL,
        )  # fmt: skip


def _leaf(m: Matrix) -> str:
    """llama.cpp's name of a layer's matrix."""
    leaf = m.module.rpartition(".")[2]
    owned = OWNED.get(".".join(m.module.split(".")[-2:]))
    if owned is not None:
        return owned
    if m.role == "attention" and leaf in ATTENTION_OUT:
        return "attn_output"
    if leaf == "c_proj":
        return "ffn_down"
    found = LEAVES.get(leaf)
    if found is None:
        raise UnsupportedError(f"llama.cpp's name of {m.module} is not known here", key="quant", value=m.module)
    return found


def _plain(name: str, t: Tensor, *, kept: bool) -> Named:
    return Named(name=name, axes=t.axes, columns=t.axes[-1][1] if t.axes else 1, stacked=1, kept=kept, tensor=t)


def _experts(t: Tensor, m: Matrix, block: str, *, whole: bool = False) -> Iterator[Named]:
    """Stacked experts: gate and up are two tensors in the file but where they are kept ``whole``."""
    halves = any(letter == "X" for letter, _ in m.batch)
    axes = (m.batch[0], m.outs, m.ins)
    names: tuple[str, ...] = ("ffn_up_exps",) if m.module.endswith("up_proj") else ("ffn_down_exps",)
    if halves:
        names = ("ffn_gate_up_exps",) if whole else ("ffn_gate_exps", "ffn_up_exps")
        axes = (m.batch[0], (m.outs[0], 2 * m.rows), m.ins) if whole else axes
    for name in names:
        yield Named(
            name=f"{block}{name}.weight", axes=axes, columns=m.columns, stacked=m.batch[0][1], kept=False, tensor=t
        )


def _expert_biases(t: Tensor, block: str) -> Iterator[Named]:
    """Biases of stacked experts: those of gate and up are two tensors in the file."""
    halves = t.name.endswith("gate_up_proj_bias")
    axes = t.axes[:2]
    for name in ("ffn_gate_exps", "ffn_up_exps") if halves else ("ffn_down_exps",):
        yield Named(
            name=f"{block}{name}.bias", axes=axes, columns=axes[-1][1], stacked=1, kept=True, tensor=t
        )  # fmt: skip


def _queries_and_gate(model: Model, t: Tensor) -> Iterator[Named]:
    """Qwen3-Next's projection of queries, keys, values and gates: the gates are a tensor of their own in the file."""
    assert t.layer is not None
    layer = model.decoder.layers[t.layer]
    b = next(s.block for s in layer.sublayers if isinstance(s.block, GatedDelta))
    for name, rows in (("attn_qkv", b.channels), ("attn_gate", b.N * b.VH)):
        axes = (("I", rows), t.axes[-1])
        yield Named(
            name=f"blk.{t.layer}.{name}.weight", axes=axes, columns=axes[-1][1], stacked=1, kept=False, tensor=t
        )


def _latent(t: Tensor, latent: Latent, block: str) -> Iterator[Named]:
    """The matrix behind a latent, by keys (transposed) and values."""
    heads, rank = ("N", latent.N), ("R", latent.kv_rank)
    for name, axes in (("attn_k_b", (heads, rank, ("H", latent.nope))), ("attn_v_b", (heads, ("H", latent.VH), rank))):
        yield Named(
            name=f"{block}{name}.weight", axes=axes, columns=axes[-1][1], stacked=latent.N, kept=False, tensor=t
        )


class Shape(Record):
    """What the choice of formats asks of a model.

    Args:
        architecture: llama.cpp's name.
        layers: how many.
        experts: routed experts; 0 without.
        grouped: query heads of a key/value head.
        seventy: whether llama.cpp calls it a 70B model.
    """

    architecture: str
    layers: int
    experts: int
    grouped: int
    seventy: bool


def shape(model: Model, mla: str, found: Sequence[Named]) -> Shape:
    """The sizes by which llama.cpp chooses, of a model and the tensors of its file."""
    layers = len(model.decoder.layers)
    arch = architecture(model)
    experts = max((t.stacked for t in found if "_exps." in t.name), default=0)
    return Shape(
        architecture=arch, layers=layers, experts=experts, grouped=(grouped := _grouped(model, arch, mla, found)),
        seventy=layers == 80 and arch in SEVENTY and not (arch == "llama" and grouped == 1),
    )  # fmt: skip


def _grouped(model: Model, arch: str, mla: str, found: Sequence[Named]) -> int:
    """Query heads of a key/value head, as the file's header tells them of the first layer (``n_gqa``)."""
    counted = arch in COUNTED_HEADS
    for b in _blocks(model.decoder.layers[:1] if counted else model.decoder.layers):
        if isinstance(b, GroupedQuery):
            return b.N // max(b.K, 1)
        if isinstance(b, Latent):
            return 1 if mla == "joined" else b.N
    # Queries may be wider than the heads: what leaves attention is not.
    outs = {t.tensor.layer: t.columns for t in found if t.name.endswith("attn_output.weight")}
    for name in ("attn_v.weight", "attn_k.weight"):
        for t in found:
            if t.name.endswith(name) and t.tensor.layer in outs and not (counted and t.tensor.layer):
                return outs[t.tensor.layer] // t.axes[0][1]
    return 0 if counted else 1
