"""VibeVoice, which speaks: Qwen2 between a tokenizer of sound and a head that makes sound by diffusion."""

from __future__ import annotations

from functools import partial
from typing import Final

from tonnage.arch.feedforward import Gated
from tonnage.arch.layers import Norm
from tonnage.arch.model import Model
from tonnage.arch.parts import Part
from tonnage.families import Family
from tonnage.families._composite import read_inner
from tonnage.families._language import headed, language
from tonnage.families._pieces import matrix
from tonnage.families._towers import repeated, tower
from tonnage.families._vibevoice import coder, encoder
from tonnage.keys import Keys
from tonnage.tensors import Tensor

HEAD: Final = "model.diffusion_head"


def read(k: Keys) -> Model:
    """Build the model that ``VibeVoiceForConditionalGeneration`` builds."""
    target = language(k, "model.language_model", "qwen2")
    D = target.model.width
    voice = read_inner(k, "audio_config", {}, coder, less=("model_type",))
    # What is filled in stands for a config that is left out, not for one that leaves it out.
    given = {"hidden_size": 128} if k.config.get("semantic_model_config") is None else {}
    path = "model.semantic_tokenizer_encoder"
    meaning, heard = read_inner(k, "semantic_model_config", given, partial(encoder, path=path), less=("model_type",))
    # Two keys follow the configs around it, whatever they say.
    made = read_inner(
        k,
        "diffusion_head_config",
        {},
        partial(_diffusion, D=D, latent=voice.width),
        less=("model_type", "hidden_size", "latent_size"),
    )
    k.skip("diffusion_loss_weight", "tie_word_embeddings", "vocab_size")
    extra = (
        *(Tensor(f"model.latent_{name}_factor", (), "audio") for name in ("scaling", "bias")),
        *voice.encoder("model.audio_tower.encoder"),
        *voice.decoder("model.audio_tower.decoder"),
        *_projector("model.multi_modal_projector", voice.width, D),
        *heard,
        *_projector("model.semantic_connector", meaning, D),
        *made,
    )
    tied = bool(target.config.get("tie_word_embeddings", False))
    return headed(target.model, tied, extra=extra).but(model_type="vibevoice")


def _projector(path: str, ins: int, D: int) -> tuple[Tensor, ...]:
    return tower(
        "audio",
        path,
        matrix("linear_1", ("X", ins), ("D", D), "audio"),
        Norm("act", (("D", D),)),
        matrix("linear_2", ("D", D), ("D", D), "audio"),
    )


def _diffusion(k: Keys, D: int, latent: int) -> tuple[Tensor, ...]:
    """What takes noise away from a latent, step by step, as the language model's states say."""
    F, bias, times = (
        k.size("intermediate_size", 4608),
        k.want("mlp_bias", False),
        k.size("frequency_embedding_size", 256),
    )
    k.skip("hidden_act", "diffusion_max_period")
    width = ("D", D)

    def plain(name: str, ins: int, outs: int) -> Part:
        return matrix(name, ("X", ins), ("D", outs), "audio", bias=False)

    layer: tuple[Part, ...] = (
        *Gated(name="ffn", D=D, F=F, bias=bias).matrices(),
        Norm("norm", (width,)),
        plain("linear", D, 3 * D),
    )
    first = tower(
        "audio",
        HEAD,
        plain("noisy_images_proj", latent, D),
        plain("cond_proj", D, D),
        Tensor("timestep_embedding.freq", (("X", times // 2),), "buffer", dtype="fp32"),
        plain("timestep_proj.fc1", times, D),
        plain("timestep_proj.fc2", D, D),
        plain("final_layer.linear_1", D, 2 * D),
        plain("final_layer.linear_2", D, latent),
    )
    return first + repeated("audio", f"{HEAD}.layers", k.size("num_hidden_layers", 4), *layer)


FAMILY: Final = Family(
    read=read,
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/vibevoice/"
    "modeling_vibevoice.py",
    whole=("vibevoice",),
)
