"""LFM2 with experts: its short convolutions and attention, experts behind the first layers."""

from __future__ import annotations

from typing import Final

from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Gated
from tonnage.arch.model import Model
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import chosen
from tonnage.families._hybrid import FULL, layer_kinds
from tonnage.families._lfm2 import CONV, lfm2
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``Lfm2MoeForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    mlp = Gated(name="feed_forward", D=D, F=k.need("intermediate_size"), gate="w1", up="w3", down="w2")
    E = k.need("num_experts")
    bias = Tensor("feed_forward.expert_bias", (("Er", E),), "buffer", dtype="fp32")
    experts = Experts(
        name="feed_forward",
        D=D,
        E=E,
        used=chosen(k, E, 4),
        F=k.size("moe_intermediate_size", 1792),
        routing="own",
        normalised=k.want("norm_topk_prob", True),
        corrected=bias if k.want("use_expert_bias", True) else None,
    )
    k.skip("routed_scaling_factor")
    dense = k.want("num_dense_layers", 2)
    if k.texts("layer_types", L) is None:
        raise ConfigError("layer_types is missing: the class has no pattern of its own", key="layer_types", file=k.file)
    kinds = layer_kinds(k, L, lambda _: FULL, (FULL, CONV))
    return lfm2(k, kinds, lambda i: mlp if i < dense else experts, angles="pos_emb")


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/lfm2_moe/"
    "modeling_lfm2_moe.py",
)
