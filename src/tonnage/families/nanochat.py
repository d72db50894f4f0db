"""nanochat: norms without weights, of queries and keys behind the rotation and of the embedding; capped logits."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, normed_before, plain
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``NanoChatForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    token = attention(k, D, norm_after_rotary=True)
    head = (("H", token.H),)
    token = token.but(
        q_norm=Norm("self_attn.q_norm", head, "rms-bare", weight=False),
        k_norm=Norm("self_attn.k_norm", head, "rms-bare", weight=False),
    )
    layer = normed_before(token, plain(k, D, "relu2", up="fc1", down="fc2", bias=False), D, style="rms-bare")
    capped = k.optional("final_logit_softcapping", float, 15.0) is not None
    return decoder(
        k,
        D,
        (layer,) * L,
        width=token.H,
        positions=2048,
        style="rms-bare",
        capped=capped,
        normed=Norm("model.norm", (("D", D),), "rms-bare", weight=False),
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nanochat/"
    "modeling_nanochat.py",
)
