"""Nemotron-H: every layer is one block alone, a Mamba 2 mixer, attention, a feed-forward block or experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tonnage.arch.attention import GroupedQuery
from tonnage.arch.experts import Experts
from tonnage.arch.feedforward import Plain
from tonnage.arch.layers import Linear, Norm
from tonnage.arch.mixers.recurrent import Mamba2
from tonnage.arch.model import Block, Layer, Model, Sublayer
from tonnage.arch.parts import Loose, Routed
from tonnage.arch.ungated import PlainAlone, UngatedExperts
from tonnage.errors import ConfigError
from tonnage.families import Family
from tonnage.families._decoder import causal, chosen, heads
from tonnage.families._hybrid import FULL, LINEAR, layer_kinds
from tonnage.keys import Keys
from tonnage.tensors import Axes, Tensor

LETTERS: Final = {"M": LINEAR, "E": "moe", "*": FULL, "-": "mlp"}
"""Letters of ``hybrid_override_pattern``."""


def read(k: Keys) -> Model:
    """Build the model that ``NemotronHForCausalLM`` builds."""
    D = k.need("hidden_size")
    kinds = _kinds(k)
    k.refuse("sliding_window")
    k.skip("num_logits_to_keep", "use_mamba_kernels", "rescale_prenorm_residual", "hidden_dropout", "num_hidden_layers")
    k.skip("time_step_limit", "time_step_min", "time_step_max", "time_step_floor", "mamba_ssm_cache_dtype", "expand")
    k.skip("moe_shared_expert_overlap")
    k.skip("routed_scaling_factor", "n_group", "topk_group", "residual_in_fp32", "mamba_proj_bias")
    k.skip("mamba_dt_min", "mamba_dt_max", "mamba_dt_limit", "mamba_dt_init_floor", "mamba_expand", "time_step_rank")
    plain = _plain(k, D, "mixer", k.need("intermediate_size"))
    blocks: dict[str, Block] = {
        LINEAR: _mixer(k, D),
        FULL: _attention(k, D),
        "mlp": PlainAlone(what="a feed-forward layer of Nemotron-H", parts=(plain,), inner=plain),
        "moe": _experts(k, D),
    }
    # The weight is multiplied in fp32.
    norm = Norm("norm", (("D", D),), "rms-cast-weight")
    layers = {kind: Layer(sublayers=(Sublayer(block=block, before=norm),), kind=kind) for kind, block in blocks.items()}
    model = causal(
        k,
        V=k.need("vocab_size"),
        D=D,
        layers=tuple(layers[kind] for kind in kinds),
        norm=Norm("model.norm_f", (("D", D),), "rms-cast-weight"),
        rotary=(),
        tied=False,
        positions=k.size("max_position_embeddings", 4096),
        apart=tuple(_ahead(k, D, layers)),
    )
    # Transformers' class ties nothing, whatever its config says.
    k.skip("tie_word_embeddings")
    stack = model.decoder
    stem = stack.stem.but(name="model.embeddings", position_ids="row")
    # Logits are cast to fp32 before the loss, and handed out so.
    head = None if model.head is None else model.head.but(wide=True)
    return model.but(stacks=(stack.but(stem=stem),), head=head)


def _kinds(
    k: Keys,
    default: tuple[str, ...] = (LINEAR, "moe", FULL, "mlp"),
    *,
    pattern: str = "hybrid_override_pattern",
    key: str = "layers_block_type",
) -> tuple[str, ...]:
    """The kinds of layers: a list of them, or a letter for each."""
    letters, listed = k.optional(pattern, str), k.optional(key, list)
    if listed is None and letters is None:
        return default
    if listed is None and letters is not None:
        if not letters or set(letters) - set(LETTERS):
            raise ConfigError(f"{pattern} is made of {''.join(LETTERS)}", key=pattern, value=letters)
        return tuple(LETTERS[letter] for letter in letters)
    return layer_kinds(k, len(listed or ()), lambda i: "", tuple(LETTERS.values()), key=key)


def _ahead(k: Keys, D: int, layers: dict[str, Layer]) -> Iterator[Tensor]:
    """What predicts further tokens: a few layers for each, the first behind a projection of both inputs.

    Checkpoints store it, transformers does not build it; embedding and head are the model's own.
    Reference: https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/models/nemotron_h_mtp.py.
    """
    width: Axes = (("D", D),)
    kinds = _kinds(k, (FULL, "moe"), pattern="mtp_hybrid_override_pattern", key="mtp_layers_block_type")
    for index, kind in enumerate(kinds * k.want("num_nextn_predict_layers", 0)):
        path, place = f"mtp.layers.{index}.", index % len(kinds)
        own = [t for t in layers[kind].weights() if t.role != "buffer"]
        if not place:
            own += [*Norm("enorm", width).weights(), *Norm("hnorm", width).weights()]
            own += Linear("eh_proj", (("X", 2), ("D", D)), width, "feed_forward").weights()
        if place == len(kinds) - 1:
            own += Norm("final_layernorm", width).weights()
        for t in own:
            yield t.placed(path)


def _mixer(k: Keys, D: int) -> Mamba2:
    mixer = Mamba2(
        name="mixer",
        D=D,
        N=k.size("mamba_num_heads", 128),
        H=k.size("mamba_head_dim", 64),
        G=k.size("mamba_n_groups", k.size("n_groups", 8)),
        Z=k.size("ssm_state_size", 128),
        C=k.size("mamba_d_conv", k.size("conv_kernel", 4)),
        chunk=k.size("mamba_chunk_size", k.size("chunk_size", 128)),
        act=k.want("mamba_hidden_act", "silu"),
        bias=k.want("use_bias", False),
        conv_bias=k.want("mamba_conv_bias", k.want("use_conv_bias", True)),
    )
    k.divides("mamba_num_heads", "n_groups", mixer.N, mixer.G)
    return mixer


def _attention(k: Keys, D: int) -> GroupedQuery:
    N, K = heads(k, 8)
    # Its projections have no bias, whatever the config says, and nothing is turned by position.
    k.skip("attention_bias", "partial_rotary_factor")
    dropout = k.want("attention_dropout", 0.0)
    return GroupedQuery(name="mixer", D=D, N=N, K=K, H=k.size("head_dim", 128), rotary=None, dropout=dropout)


def _plain(k: Keys, D: int, name: str, F: int) -> Plain:
    act, bias = k.want("mlp_hidden_act", "relu2"), k.want("mlp_bias", False)
    return Plain(name=name, D=D, F=F, act=act, up="up_proj", down="down_proj", bias=bias)


def _experts(k: Keys, D: int) -> UngatedExperts:
    """Experts without gates, in a latent of their own where there is one, and shared ones of the full width."""
    E, F = k.size("n_routed_experts", 8), k.size("moe_intermediate_size", 7688)
    R = k.optional("moe_latent_size")
    k.skip("n_shared_experts")
    shared = _plain(k, D, "mixer.shared_experts", k.size("moe_shared_expert_intermediate_size", 7688))
    width: Axes = (("D", D),)
    narrow: Axes = width if R is None else (("R", R),)
    latent = () if R is None else (
        Linear("mixer.fc1_latent_proj", width, narrow, "shared_expert", shared.bias),
        Linear("mixer.fc2_latent_proj", narrow, width, "shared_expert", shared.bias),
    )  # fmt: skip
    used = chosen(k, E, 2)
    routed = Routed(
        E=E,
        used=used,
        tensors=(
            Tensor("mixer.experts.up_proj", (("E", E), ("F", F), *narrow), "expert"),
            Tensor("mixer.experts.down_proj", (("E", E), *narrow, ("F", F)), "expert"),
        ),
    )
    correction = Tensor("mixer.gate.e_score_correction_bias", (("Er", E),), "buffer", dtype="fp32")
    shared = shared.but(role="shared_expert")
    inner = Experts(
        name="mixer", D=R or D, E=E, used=used, F=F, act=shared.act, routing="sigmoid", gated=False,
        normalised=k.want("norm_topk_prob", True),
    )  # fmt: skip
    return UngatedExperts(
        what="experts of Nemotron-H",
        parts=(
            Linear("mixer.gate", width, (("Er", E),), "router"),
            Loose(tensors=(correction,)),
            routed,
            shared,
            *latent,
        ),
        inner=inner,
        scored=inner.but(D=D),
        latent=latent,
        shared=shared,
    )


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/nemotron_h/modeling_nemotron_h.py",
    attributes={
        "layers_block_type": "layer_types",
        "n_routed_experts": "num_local_experts",
        "head_dim": "attention_head_dim",
    },
)
