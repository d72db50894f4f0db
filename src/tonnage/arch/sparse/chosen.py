"""Attention over what an indexer chose, tokens or blocks of them: the rest is hidden by a mask of the layer's own.

Neither eager attention nor ``scaled_dot_product_attention`` takes less for it: scores, or the mask as numbers, are
there for every pair of tokens, as they are without an indexer.

Leaves out: kernels that read what is chosen alone. Of FlashMLA's the sparse ones have no backward pass
(https://github.com/deepseek-ai/FlashMLA, README); those of cuDNN's frontend (https://docs.nvidia.com/cudnn/fe-oss-apis/dsa)
and of FlashInfer (https://docs.flashinfer.ai/api/cake_dsa_sparse_attention_det_train.html) have one.

Reference: https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/deepseek_v32/
modeling_deepseek_v32.py (DeepseekV32Attention), .../glm_moe_dsa/modeling_glm_moe_dsa.py (GlmMoeDsaAttention),
.../minimax_m3_vl/modeling_minimax_m3_vl.py
(MiniMaxM3VLAttention)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tonnage.arch import ops
from tonnage.arch.attention import GroupedQuery, Latent
from tonnage.arch.forward import Forward
from tonnage.arch.indexed import BlockIndexer, Indexer
from tonnage.arch.kernels import attend
from tonnage.arch.rotate import rotate
from tonnage.arch.tape import Value
from tonnage.arch.untraced import untold
from tonnage.tensors import Axes, Tensor


class Chosen(Latent):
    """Latent attention over what its indexer chose, or one below it.

    Args:
        indexer: None where the layer sees what was chosen for the one before it.
        hands: the layer hands on what was chosen (GLM).
    """

    indexer: Indexer | None = None
    hands: bool = False
    remark: ClassVar[str] = (
        "attention over chosen tokens is as transformers trains it: over all pairs of tokens, with a mask in every "
        "layer. Kernels that read the chosen tokens alone would keep far less: FlashMLA's have no backward pass, those "
        "of cuDNN's frontend and of FlashInfer are not modelled"
    )

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """None of its parts is computed again by itself."""
        return ()

    def weights(self) -> Iterator[Tensor]:
        """The attention's, and the indexer's."""
        yield from super().weights()
        if self.indexer is not None:
            yield from self.indexer.weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """Latents, and the indexer's keys."""
        yield from super().state(B, S)
        if self.indexer is not None:
            yield from self.indexer.state(B, S)

    def expanded_state(self, B: int, S: int) -> Iterator[Tensor]:
        """Keys and values of the heads, and the indexer's keys."""
        yield from super().expanded_state(B, S)
        if self.indexer is not None:
            yield from self.indexer.state(B, S)

    def forward(self, f: Forward, x: Value) -> Value:
        """Attention over what is chosen; every name of the modelled code stands to its end."""
        if f.mixer is None:
            raise untold("attention over what an indexer chose, outside of a training step on the next token,")
        (B, T), N = x.axes[:2], ("N", self.N)
        first, norm, second = self.makers()
        compressed_query = norm.forward(f, first.forward(f, x))
        q = second.forward(f, compressed_query)
        q_pass, q_rot = ops.split(q, ((B, T, N, ("H", self.nope)), (B, T, N, ("H", self.rope))))
        compressed, latent, k_rot = self._latents(f, x)
        q_rot, k_rot = rotate(q_rot, k_rot, *f.rotary[self.rotary], self.rope, style=self.rotary_style)
        queries = ops.cat((ops.cast(q_pass, q_rot.dtype), q_rot), (B, N, T, ("H", self.nope + self.rope)), "queries")
        keys, values = self.of_heads(f, latent, k_rot)
        if self.indexer is not None:
            f.chosen = self.indexer.forward(f, x, compressed_query, self.rotary, self.rope)
        assert f.chosen is not None
        hidden = self._hidden(f.chosen, (B, T, ("S", T[1])))
        f.seen = self._seen(f, hidden)
        out = self.output().forward(f, attend(f, self, queries, keys, values))
        f.seen = None
        if not self.hands:
            f.chosen = None
        del compressed, hidden, latent, k_rot, q_pass, q_rot
        return out

    def _hidden(self, chosen: Value, axes: Axes) -> Value:
        """Which tokens are not chosen: ones, and zeros put in at the chosen places."""
        tape = chosen.tape
        ones = tape.new("ones", axes, "bool")
        places = ops.cast(chosen, "int64", "places of the chosen")
        hidden = tape.new("tokens not chosen", axes, "bool")
        del ones, places
        return hidden

    def _seen(self, f: Forward, hidden: Value) -> Value:
        """The mask with what is not chosen hidden as well."""
        tape, mask = f.tape, f.masks[None]
        B, T, S = hidden.axes
        axes: Axes = (B, ("X", 1), T, S)
        if mask.dtype != "bool":
            return tape.new("mask of the chosen", axes, mask.dtype)
        chosen = tape.new("tokens chosen", axes, "bool")
        seen = tape.new("mask of the chosen", axes, "bool")
        del chosen
        return seen


class ChosenBlocks(GroupedQuery):
    """Grouped attention over blocks of tokens that its indexer chose, for each group of heads its own (MiniMax M3).

    Args:
        indexer: what chooses.
    """

    indexer: BlockIndexer | None = None
    remark: ClassVar[str] = (
        "attention over chosen blocks is as transformers trains it: over all pairs of tokens, with a mask of every "
        "head. A kernel that reads the chosen blocks alone (MiniMaxAI/msa) is not modelled, and would keep far less"
    )

    def weights(self) -> Iterator[Tensor]:
        """The attention's, and the indexer's."""
        yield from super().weights()
        if self.indexer is not None:
            yield from self.indexer.weights()

    def state(self, B: int, S: int) -> Iterator[Tensor]:
        """Keys and values, and the indexer's keys."""
        yield from super().state(B, S)
        if self.indexer is not None:
            yield from self.indexer.state(B, S)

    def _heads(self, f: Forward, x: Value, q: Value, k: Value, v: Value) -> Value:
        """By a mask for each head; the code names it, and what was chosen, to its end."""
        if f.mixer is None:
            raise untold("attention over what an indexer chose, outside of a training step on the next token,")
        assert self.indexer is not None
        chosen = self.indexer.forward(f, x, f.rotary[self.rotary or "default"])
        f.seen = self.indexer.mask(f, chosen, self.N, q.dtype)
        f.local += [chosen, f.seen]
        out = attend(f, self, q, k, v)
        f.seen = None
        return out
