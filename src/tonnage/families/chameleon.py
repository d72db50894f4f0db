"""Chameleon: Llama with norms of the heads over the tokens of text and images, and its tokenizer (arXiv:2405.09818)."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._blocks import attention, decoder, gated, normed_before
from tonnage.families._composite import filled
from tonnage.families._vq import VQ, encoder
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys) -> Model:
    """Build ``ChameleonForConditionalGeneration``."""
    D = k.need("hidden_size")
    token = attention(k, D, K=32)
    queries, keys = (("N", token.N), ("H", token.H)), (("K", token.K), ("H", token.H))
    token = token.but(
        q_norm=Norm("self_attn.q_norm", queries, "layer-cohere", bias=True),
        k_norm=Norm("self_attn.k_norm", keys, "layer-cohere", bias=True),
    )
    mlp = gated(k, D, bias=k.want("mlp_bias", False))
    # With ``swin_norm`` the same norms stand behind the blocks.
    k.skip("swin_norm", "model_parallel_size", "vocabulary_map")
    layer = normed_before(Untraced(block=token, what="Chameleon's attention"), mlp, D)
    model = decoder(k, D, (layer,) * k.need("num_hidden_layers"), width=token.H, positions=4096)
    return model.but(extra=filled(k, "vq_config", VQ, _tokenizer))


def _tokenizer(k: Keys) -> tuple[Tensor, ...]:
    vanilla, at = k.want("attn_type", "vanilla") == "vanilla", k.optional("attn_resolutions", list) or []
    side = k.size("resolution", 512)
    k.skip("dropout")
    if vanilla and not all(isinstance(n, int) for n in at):
        raise ConfigError(f"{k.path}attn_resolutions must be whole numbers", key=f"{k.path}attn_resolutions")
    return encoder(k, "model.vqmodel", lambda level: vanilla and side // 2**level in at, middle=vanilla)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/chameleon/"
    "modeling_chameleon.py",
)
