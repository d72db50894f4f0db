"""Attention: grouped (multi-head, grouped-query, multi-query, windowed, cross) and latent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from tonnage.arch import ops
from tonnage.arch.eager import EagerStyle, batched, by_heads_first
from tonnage.arch.forward import Forward
from tonnage.arch.inplace import clamped, filled
from tonnage.arch.kernels import attend
from tonnage.arch.layers import HeadNorms, Linear, Norm
from tonnage.arch.packed import Packing, unpacked
from tonnage.arch.pairs import rotate_pairs
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Value
from tonnage.errors import UnsupportedError
from tonnage.record import Record
from tonnage.tensors import Axes, Tensor, size


class GroupedQuery(Record):
    """Attention whose ``N`` query heads share ``K`` heads of keys and values (arXiv:2305.13245).

    ``K = N`` is multi-head attention, ``K = 1`` multi-query attention.

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: query heads.
        K: key/value heads.
        H: width of a query and key head.
        VH: width of a value head; ``H`` when None.
        q, k, v, o: names of the four matrices.
        fused: name of one matrix for queries, keys and values; None when they are three.
        fused_order: how its rows are laid out and taken apart, as ``arch/packed.py`` names it; any holds the same
            elements.
        bias: whether q, k and v have one.
        o_bias: whether o has one.
        key_bias: whether k has one, where q and v do (not in Whisper).
        transposed: matrices stored input first.
        q_norm, k_norm: norms of queries and keys, over a head or over all heads.
        norm_after_rotary: the norms come after the rotation.
        norm_inline: each norm follows its matrix at once, before the next matrix (Qwen3, OLMo 2).
        window: tokens that a query sees, itself included; None for all.
        chunked: the window is a fixed chunk.
        rotary: which of the model's rotary tables turns queries and keys; None for none.
        rotary_width: elements of a head that are turned; all when None.
        interleaved: pairs are neighbours (GPT-J, Cohere) instead of halves.
        rotary_style: how the modelled code turns them, as ``arch/rotate.py`` names it.
        sinks: a learned logit per head that takes part in the softmax (gpt-oss).
        softcap: scores go through a tanh (Gemma 2).
        dropout: of the attention weights.
        causal: whether later tokens are hidden.
        cross: keys and values come from the encoder.
        position_bias: is added to the scores: "alibi"; learned, "relative" by all layers, "own" by each; None for none.
        buckets: rows of the table of relative positions that this layer holds for all (T5's first).
        clip: queries, keys and values are clamped (OLMo, MPT).
        eager: how eager attention makes weights of scores.
        scaled_queries: queries are multiplied by a number before attention (OPT).
        scaled_keys: keys are multiplied by a number (Falcon-H1).
        heads_first: queries, keys and values are laid out by heads before any kernel sees them (Whisper).
        o_dropout: of the output.
        bias_apart: biases are added by an operation of their own (Falcon).
        caches_queries: keys and values are repeated for every query head before they are cached (Falcon-40B).
        late_bias: the output has a bias of its own name, added by an operation of its own (GPT-NeoX Japanese).
        o_norm: of what the output matrix is given (BitNet).
        o_apart: the output matrix stands in a module behind the attention's (BERT).
        adds: the block adds the residual itself, before it lets go of its local variables (BLOOM).
        cached: whether keys and values are kept for later tokens (GPT keeps none).
        position_scaled: queries are multiplied by a number that grows with their position (Ministral 3), or in fp32.
        angles: rows of a table of angles that every layer has for itself (GPT-J).
        wide_angles: queries and keys are turned in the table's fp32, and stay so (CodeGen).
        buffers: tensors beside the weights that every layer has for itself (GPT-Neo's mask).
        seen: width of what keys and values are made of, where that is not ``D`` (cross attention to another encoder).
    """

    name: str
    D: int
    N: int
    K: int
    H: int
    VH: int | None = None
    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    o: str = "o_proj"
    fused: str | None = None
    fused_order: Packing = "split"
    bias: bool = False
    o_bias: bool = False
    key_bias: bool = True
    transposed: bool = False
    q_norm: Norm | HeadNorms | None = None
    k_norm: Norm | HeadNorms | None = None
    norm_after_rotary: bool = False
    norm_inline: bool = False
    window: int | None = None
    chunked: bool = False
    rotary: str | None = "default"
    rotary_width: int | None = None
    interleaved: bool = False
    rotary_style: str = "plain"
    sinks: bool = False
    softcap: bool = False
    dropout: float = 0.0
    causal: bool = True
    cross: bool = False
    position_bias: str | None = None
    buckets: int | None = None
    clip: bool = False
    eager: EagerStyle = "fp32-softmax"
    scaled_queries: bool = False
    scaled_keys: bool = False
    o_dropout: float = 0.0
    heads_first: bool = False
    bias_apart: bool = False
    caches_queries: bool = False
    late_bias: bool = False
    o_norm: Norm | None = None
    o_apart: bool = False
    adds: bool = False
    cached: bool = True
    position_scaled: bool | Literal["wide"] = False
    angles: int | None = None
    wide_angles: bool = False
    buffers: tuple[Tensor, ...] = ()
    seen: int | None = None
    module: ClassVar[str] = "attention"
    parts: ClassVar[tuple[str, ...]] = ("core_attn",)
    repeats: ClassVar[bool] = False
    """Keys and values are repeated for every query head before any kernel sees them."""

    @property
    def value_width(self) -> int:
        """Width of a value head."""
        return self.H if self.VH is None else self.VH

    def _path(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def matrices(self) -> tuple[Linear, ...]:
        """The projections, in the order in which the forward pass applies them."""
        ins: Axes = (("D", self.D),)
        sees: Axes = (("D", self.seen or self.D),)
        q_rows: Axes = (("N", self.N), ("H", self.H))
        k_rows: Axes = (("K", self.K), ("H", self.H))
        v_rows: Axes = (("K", self.K), ("H", self.value_width))
        out = Linear(
            self._path(self.o),
            (("N", self.N), ("H", self.value_width)),
            ins,
            "attention",
            self.o_bias,
            self.transposed,
            self.bias_apart,
        )
        if self.fused is not None:
            # A group is one key/value head, its value head and the queries that share them.
            rows: Axes = (("K", self.K), ("J", self.N // self.K + 2), ("H", self.H))
            return Linear(
                self._path(self.fused), ins, rows, "attention", self.bias, self.transposed, self.bias_apart
            ), out
        return (
            Linear(self._path(self.q), ins, q_rows, "attention", self.bias, self.transposed),
            Linear(self._path(self.k), sees, k_rows, "attention", self.bias and self.key_bias, self.transposed),
            Linear(self._path(self.v), sees, v_rows, "attention", self.bias, self.transposed),
            out,
        )

    def weights(self) -> Iterator[Tensor]:
        """Projections, norms of queries and keys, sinks."""
        for matrix in self.matrices():
            yield from matrix.weights()
        for norm in (self.q_norm, self.k_norm, self.o_norm):
            if norm is not None:
                yield from norm.weights()
        if self.late_bias:
            yield Tensor(self._path("dense_bias"), (("D", self.D),), "attention")
        if self.sinks:
            yield Tensor(self._path("sinks"), (("N", self.N),), "attention")
        if self.buckets is not None:
            yield Tensor(self._path("relative_attention_bias.weight"), (("X", self.buckets), ("N", self.N)), "position")
        yield from self.buffers

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """Keys and values of ``S`` tokens, of the encoder's in cross attention. An encoder keeps none of its own."""
        if not self.cached or (not self.causal and not self.cross):
            return
        of = "encoder " if self.cross else ""
        yield Tensor(f"{of}keys", (("B", B), ("S", S), ("K", self.K), ("H", self.H)), "cache")
        yield Tensor(f"{of}values", (("B", B), ("S", S), ("K", self.K), ("H", self.value_width)), "cache")

    def expanded_state(self, B: int, S: int) -> Iterator[Tensor]:
        """What transformers caches: as ``state``, or with a copy for every query head."""
        if not self.caches_queries:
            yield from self.state(B, S)
            return
        yield Tensor("keys", (("B", B), ("S", S), ("N", self.N), ("H", self.H)), "cache")
        yield Tensor("values", (("B", B), ("S", S), ("N", self.N), ("H", self.value_width)), "cache")

    def _projected(self, f: Forward, x: Value) -> tuple[Value | None, Value, Value, Value]:
        """What is packed, which keeps its name to the end, and queries, keys and values."""
        matrices = self.matrices()
        if self.fused is None:
            q = matrices[0].forward(f, x)
            if self.scaled_queries:
                q = ops.scaled(q, "scaled queries")
            if self.norm_inline and self.q_norm is not None and self.k_norm is not None:
                q = self.q_norm.forward(f, q)
                return None, q, self.k_norm.forward(f, matrices[1].forward(f, x)), matrices[2].forward(f, x)
            source = f.encoder if self.cross and f.encoder is not None else x
            if self.heads_first:
                q = by_heads_first(q)
                keys, values = (by_heads_first(m.forward(f, source)) for m in matrices[1:3])
                return None, q, keys, values
            keys = matrices[1].forward(f, source)
            if self.scaled_keys:
                keys = ops.scaled(keys, "multiplied keys")
            return None, q, keys, matrices[2].forward(f, source)
        packed = matrices[0].forward(f, x)
        if self.clip:
            packed = ops.unary(packed, "clamp")
        return packed, *unpacked(packed, self.fused_order, self.N, self.K, self.H)

    def forward(self, f: Forward, x: Value) -> Value:
        """Self-attention over ``x`` and what is cached before it."""
        if (self.cross and f.encoder is None) or (
            self.position_bias in ("relative", "own") and f.store is not None and not f.tape.grad
        ):
            raise UnsupportedError(
                "forward passes of encoder-decoder models that write tokens are not modelled yet",
                key="model_type",
                hint="parameters, weights and cache can still be told: tonnage params",
            )
        out = self._attended(f, x)
        if self.cross:
            del f.weights[:-1]  # The layer's name for weights that it does not use is bound to these.
        if self.o_apart:
            # The caller's name is bound to the new output when the module behind has returned.
            f.local.append(out)
            out = self._out(f, out)
        return out if f.prompted is None else f.prompted.forward(f, self, x, out)

    def _attended(self, f: Forward, x: Value) -> Value:
        packed, q, k, v = self._projected(f, x)
        if not (self.norm_after_rotary or self.norm_inline):
            q = q if self.q_norm is None else self.q_norm.forward(f, q)
            k = k if self.k_norm is None else self.k_norm.forward(f, k)
        if self.clip and self.fused is None:
            q, k, v = clamped(q), clamped(k), clamped(v)
        if self.rotary is not None:
            cosine, sine = f.rotary[self.rotary]
            width = self.rotary_width or self.H
            style = self.rotary_style
            if f.fused is not None and f.fused.rope:
                q, k = f.fused.rotate(q, k, cosine, sine)
            else:
                q, k = rotate(q, k, cosine, sine, width, interleaved=self.interleaved, style=style, keep=f.local)
        if self.angles is not None:
            width = self.rotary_width or self.H
            q, k = rotate_pairs(f, q, k, None if self.wide_angles else self.angles, width)
        if self.norm_after_rotary and self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm.forward(f, q)
            k = self.k_norm.forward(f, k)
        if self.position_scaled:
            from tonnage.arch.tempered import tempered  # Few models do.

            q = tempered(f, q, wide=self.position_scaled == "wide")
        if f.store is not None:
            if self.wide_angles:
                k = ops.cast(k, x.dtype)
            k, v = f.store((k, v), self.window)
        if self.eager == "floored":
            # The modelled code binds the names anew (XGLM).
            q, k, v = batched(q), batched(k), batched(v)
        if self.position_bias in ("relative", "own"):
            # Imported late: most models turn queries and keys instead.
            from tonnage.arch.relative import shared_bias

            f.position = shared_bias(f, self, q, k)
        out = self._heads(f, x, q, k, v)
        f.position = None
        if not self.o_apart:
            out = self._out(f, out)
        if self.adds:
            f.local += [x for x in (packed, q, k, v, out) if x is not None]
        else:
            f.local.clear()
        return out

    def _heads(self, f: Forward, x: Value, q: Value, k: Value, v: Value) -> Value:
        """What the heads make of queries, keys and values; ``x`` is what the block was given."""
        return attend(f, self, q, k, v)

    def _out(self, f: Forward, out: Value) -> Value:
        if self.o_norm is not None:
            heads = out.axes
            out = self.o_norm.forward(f, out.view((*heads[:2], ("D", size(heads[2:]))))).view(heads)
        out = self.matrices()[-1].forward(f, out)
        if self.late_bias:
            out = ops.add(out, f.tape.parameter(self._path("dense_bias"), (("D", self.D),)), "with bias")
        return ops.dropout(out, self.o_dropout, f.training)


class Latent(Record):
    """Multi-head latent attention (arXiv:2405.04434, section 2.1).

    Args:
        name: path of the module below its layer.
        D: residual width.
        N: heads.
        q_rank: rank of the compressed query; None when queries are not compressed.
        kv_rank: rank of the latent that keys and values are made from.
        nope: head width without position.
        rope: head width with position: one key shared by all heads.
        VH: width of a value head.
        bias: whether the two compressing matrices and the output have one.
        rotary: which of the model's rotary tables turns queries and keys.
        rotary_style: how the modelled code turns them, as ``arch/rotate.py`` names it.
        window: tokens that a query sees, itself included; None for all.
        queries: the matrix that makes queries of the compressed one, where it is not ``q_b_proj`` (A.X K2).
    """

    name: str
    D: int
    N: int
    q_rank: int | None
    kv_rank: int
    nope: int
    rope: int
    VH: int
    bias: bool = False
    dropout: float = 0.0
    expanded: bool = False
    rotary: str = "default"
    rotary_style: str = "neighbours"
    softcap: bool = False
    sinks: bool = False
    window: int | None = None
    queries: Linear | None = None
    causal: ClassVar[bool] = True
    eager: ClassVar[EagerStyle] = "fp32-softmax"
    module: ClassVar[str] = "attention"
    parts: ClassVar[tuple[str, ...]] = ("core_attn", "mla_up_proj")

    def makers(self) -> tuple[Linear | Norm, ...]:
        """What makes queries: one matrix, or two with a norm between them."""
        D: Axes = (("D", self.D),)
        heads: Axes = (("N", self.N), ("H", self.nope + self.rope))
        if self.q_rank is None:
            return (Linear(f"{self.name}.q_proj", D, heads, "attention"),)
        R: Axes = (("R", self.q_rank),)
        return (
            Linear(f"{self.name}.q_a_proj", D, R, "attention", self.bias),
            Norm(f"{self.name}.q_a_layernorm", R),
            self.queries or Linear(f"{self.name}.q_b_proj", R, heads, "attention"),
        )

    def compress(self) -> Linear:
        """What makes latent and rotary key."""
        latent: Axes = (("R", self.kv_rank + self.rope),)
        return Linear(f"{self.name}.kv_a_proj_with_mqa", (("D", self.D),), latent, "attention", self.bias)

    def latent_norm(self) -> Norm:
        """Of the latent."""
        return Norm(f"{self.name}.kv_a_layernorm", (("R", self.kv_rank),))

    def _expand(self) -> Linear:
        heads: Axes = (("N", self.N), ("H", self.nope + self.VH))
        return Linear(f"{self.name}.kv_b_proj", (("R", self.kv_rank),), heads, "attention")

    def output(self) -> Linear:
        """The last matrix."""
        return Linear(f"{self.name}.o_proj", (("N", self.N), ("H", self.VH)), (("D", self.D),), "attention", self.bias)

    def weights(self) -> Iterator[Tensor]:
        """Compression, expansion, the norms between them and the output."""
        for part in (*self.makers(), self.compress(), self.latent_norm(), self._expand(), self.output()):
            yield from part.weights()

    def forward(self, f: Forward, x: Value) -> Value:
        """Self-attention over ``x`` and the latents cached before it."""
        if "mla_up_proj" in f.again:
            # Imported late: most passes compute no module again.
            from tonnage.arch.discarding import latent_attention

            return latent_attention(self, f, x)
        rows, N = x.axes[:2], ("N", self.N)
        q = self._projected(f, x)
        if self.rotary_style == "none":
            queries = q
            compressed, latent, k_rot = self._latents(f, x)
            latent, k_rot = self._stored(f, latent, k_rot)
        else:
            q_pass, q_rot = ops.split(q, ((*rows, N, ("H", self.nope)), (*rows, N, ("H", self.rope))))
            compressed, latent, k_rot = self._latents(f, x)
            cosine, sine = f.rotary[self.rotary]
            q_rot, k_rot = rotate(q_rot, k_rot, cosine, sine, self.rope, style=self.rotary_style)
            latent, k_rot = self._stored(f, latent, k_rot)
            queries = ops.cat(
                (ops.cast(q_pass, q_rot.dtype), q_rot), (rows[0], N, rows[1], ("H", self.nope + self.rope)), "queries"
            )
        keys, values = self.of_heads(f, latent, k_rot)
        out = self.output().forward(f, attend(f, self, queries, keys, values))
        del compressed
        return out

    def _latents(self, f: Forward, x: Value) -> tuple[Value, Value, Value]:
        """What is compressed, which the code names to its end; the latent, normalised; the key that all heads share."""
        rows = x.axes[:2]
        compressed = self.compress().forward(f, x)
        latent, k_rot = ops.split(compressed, ((*rows, ("R", self.kv_rank)), (*rows, ("K", 1), ("H", self.rope))))
        return compressed, self.latent_norm().forward(f, latent), k_rot

    def _stored(self, f: Forward, latent: Value, k_rot: Value) -> tuple[Value, ...]:
        return (latent, k_rot) if f.store is None else f.store((latent, k_rot), None)

    def _projected(self, f: Forward, x: Value) -> Value:
        for part in self.makers():
            x = part.forward(f, x)
        return x

    def of_heads(self, f: Forward, latent: Value, k_rot: Value) -> tuple[Value, Value]:
        """The heads' own keys and values: keys are filled part by part, the position's part the same for all heads."""
        up = self._expand().forward(f, latent)
        rows, N = up.axes[:2], ("N", self.N)
        k_pass, values = ops.split(up, ((*rows, N, ("H", self.nope)), (*rows, N, ("H", self.VH))))
        keys = f.tape.new("keys", (rows[0], N, rows[1], ("H", self.nope + self.rope)), up.dtype)
        keys = filled(keys, k_pass, (rows[0], N, rows[1], ("H", self.nope)))
        keys = filled(keys, k_rot, (rows[0], N, rows[1], ("H", self.rope)))
        return keys, values

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """One latent and one rotary key a token for all heads: no N or K axis, so tensor parallelism cannot cut it."""
        yield Tensor("latent", (("B", B), ("S", S), ("R", self.kv_rank)), "cache")
        if self.rope:
            yield Tensor("rotary key", (("B", B), ("S", S), ("R", self.rope)), "cache")

    def expanded_state(self, B: int, S: int) -> Iterator[Tensor]:
        """What transformers caches before it learned to keep the latent: the heads' own keys and values."""
        yield Tensor("keys", (("B", B), ("S", S), ("N", self.N), ("H", self.nope + self.rope)), "cache")
        yield Tensor("values", (("B", B), ("S", S), ("N", self.N), ("H", self.VH)), "cache")
