"""DiffLlama: the difference of two attentions, weighed by numbers that are learned (arXiv:2410.05258)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build the model that ``DiffLlamaForCausalLM`` builds."""
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    k.refuse("attention_dropout", 0, 0.0)
    k.skip("lambda_std_dev")
    token = attention(k, D)
    if token.K % 2:
        raise ConfigError(
            f"num_key_value_heads = {token.K}: the two attentions take half of the heads each",
            key="num_key_value_heads",
            value=token.K,
        )
    names = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
    learned = tuple(Tensor(f"self_attn.{name}", (("H", token.H),), "attention") for name in names)
    layer = normed_before(Untraced(block=token, what="differential attention", beside=learned), gated(k, D), D)
    return decoder(k, D, (layer,) * L, width=token.H, positions=2048)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/diffllama/"
    "modeling_diffllama.py",
)
