"""Ling: Kimi delta attention, gated latent attention in every sixth layer, many experts."""

from __future__ import annotations

from typing import Final

from tonnage.arch.layers import Linear, Rotary
from tonnage.arch.mixers.delta import KimiDelta
from tonnage.arch.model import Model
from tonnage.arch.untraced import Untraced
from tonnage.families import Family
from tonnage.families._blocks import decoder
from tonnage.families._decoder import every, latent
from tonnage.families._experts import ahead
from tonnage.families._hybrid import FULL, KIMI, LINEAR, kimi_layers, layer_kinds, untied
from tonnage.keys import Keys


def read(k: Keys) -> Model:
    """Build the model that ``BailingHybridForCausalLM`` builds.

    The layer that predicts a further token is stored with the released checkpoints and not built: one of gated latent
    attention with experts, without tables of its own.
    Reference: https://github.com/vllm-project/vllm/blob/main/vllm/model_executor/models/bailing_moe_v3_mtp.py.
    """
    D, L = k.need("hidden_size"), k.need("num_hidden_layers")
    attention = latent(k, D, style="plain").but(q_rank=None)
    # Transformers writes the turned part of a head as ``head_dim``, and the delta rule's under a key of its own.
    delta = KimiDelta(
        name="self_attn",
        D=D,
        N=k.size("linear_num_heads", attention.N),
        H=k.size("linear_head_dim", k.size("head_dim", 128)),
        C=k.size("linear_conv_kernel_dim", k.size("short_conv_kernel_size", 4)),
        latent=False,
    )
    gate = Linear("self_attn.g_proj", (("D", D),), (("N", attention.N),), "attention")
    full = Untraced(block=attention, what="Ling's gated latent attention", beside=tuple(gate.weights()))
    group = every(k, "layer_group_size", 6)
    kinds = layer_kinds(k, L, lambda i: LINEAR if (i + 1) % group else FULL)
    k.skip("kda_safe_gate", "kda_lower_bound", "mtp_loss_scaling_factor")
    further, V = k.want("num_nextn_predict_layers", 1), k.need("vocab_size")
    layers, predicts = kimi_layers(k, D, kinds, delta, full, dense=2, F=768, E=512)
    model = decoder(
        k,
        D,
        layers,
        width=attention.rope,
        positions=262144,
        rotary=(Rotary("model.rotary_emb", attention.rope),),
        apart=tuple(
            t
            for index in range(L, L + further)
            for t in ahead(predicts, index, D, V, tables=False, last="final_layernorm")
        ),
    )
    return untied(model).but(fp32=("e_score_correction_bias", "conv1d", "dt_bias", "A_log"))


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/bailing_hybrid/modeling_bailing_hybrid.py",
    attributes={**KIMI, "num_mtp_layers": "num_nextn_predict_layers"},
)
