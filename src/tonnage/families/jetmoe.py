"""JetMoE: experts in attention, which share keys and values, and in the feed-forward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.layers import Linear, Norm, Rotary
from tonnage.arch.model import Model
from tonnage.arch.parts import KeyValues, Parts
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen
from tonnage.families._experts import stacked
from tonnage.keys import Keys
from tonnage.record import Record
from tonnage.tensors import Axes, Role, Tensor


def read(k: Keys) -> Model:
    """Build the model that ``JetMoeForCausalLM`` builds."""
    D, L, F = k.need("hidden_size"), k.need("num_hidden_layers"), k.need("intermediate_size")
    K, H, E = k.size("num_key_value_heads", 16), k.size("kv_channels", 128), k.size("num_local_experts", 8)
    norm, used = (("D", D),), chosen(k, E, 2)
    k.skip("num_attention_heads", "activation_function", "attention_dropout", "aux_loss_coef")
    heads: Axes = (("K", K), ("H", H))
    both = Linear("self_attention.kv_proj", (("D", D),), (("X", 2), *heads), "attention")
    attention = Parts(
        what="experts that make queries",
        parts=(
            Routed("self_attention.experts", D, E, used, heads, heads, "attention"),
            both,
            KeyValues(K=K, H=H),
        ),
    )
    feed_forward = Parts(
        what="experts that are run one after the other",
        parts=(Routed("mlp", D, E, used, (("X", 2), ("F", F)), (("F", F),), "expert"),),
    )
    return causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=stacked(
            lambda _: attention, (None,) * L, feed_forward, None, (True,) * L, lambda name: Norm(name, norm)
        ),
        norm=Norm("model.norm", norm),
        rotary=(Rotary("model.rotary_emb", H),),
        tied=k.want("tie_word_embeddings", True),
        positions=k.want("max_position_embeddings", 4096),
    )


class Routed(Record):
    """A router and two matrices of every expert, with one shift for all.

    Args:
        name: path of the module below its layer.
        D: residual width.
        E: experts.
        used: experts that a token uses.
        inner: axes that the first matrix makes.
        outer: axes that the second one takes.
        role: of the experts' matrices.
    """

    name: str
    D: int
    E: int
    used: int | None
    inner: Axes
    outer: Axes
    role: Role

    def _experts(self) -> tuple[Tensor, Tensor]:
        E, D = ("E", self.E), ("D", self.D)
        return (
            Tensor(f"{self.name}.input_linear.weight", (E, *self.inner, D), self.role, (1, len(self.inner), 1)),
            Tensor(f"{self.name}.output_linear.weight", (E, D, *self.outer), self.role, (1, 1, len(self.outer))),
        )

    def weights(self) -> Iterator[Tensor]:
        """Shift, both matrices of all experts, router."""
        yield Tensor(f"{self.name}.bias", (("D", self.D),), self.role)
        yield from self._experts()
        yield from Linear(f"{self.name}.router.layer", (("D", self.D),), (("Er", self.E),), "router").weights()

    def unused(self) -> int:
        """Parameters of experts that a token does not use."""
        used = self.used
        return 0 if used is None else sum(t.numel // self.E * (self.E - used) for t in self._experts())


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/jetmoe/modeling_jetmoe.py",
    attributes={"kv_channels": "head_dim"},
)
