"""wav2vec 2.0: convolutions over the wave, layers over its frames, and an adapter behind them (arXiv:2006.11477)."""

from __future__ import annotations

from typing import Any, Final

from tonnage.arch.parts import Part
from tonnage.families._pieces import layer_norm, matrix
from tonnage.families._speech import frames, masked, projected, relative
from tonnage.families._towers import attention, convolution, feed_forward, repeated, tower
from tonnage.families.towers import Tower
from tonnage.keys import Keys
from tonnage.tensors import Tensor


def read(k: Keys, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """``Wav2Vec2Model``; its width is that behind the adapter."""
    D, F = k.need("hidden_size"), k.need("intermediate_size")
    k.divides("hidden_size", "num_attention_heads", D, k.need("num_attention_heads"))
    _unread(k)
    ins, convolutions = frames(k, "feature_extractor")
    first = tower(
        "audio",
        path,
        *convolutions,
        *projected(ins, D),
        *masked(k, D),
        *relative(k, "encoder.pos_conv_embed.conv", D),
        layer_norm("encoder.layer_norm", D),
    )
    layer = (
        *attention("attention", D),
        layer_norm("layer_norm", D),
        *feed_forward("feed_forward", D, F, "intermediate_dense", "output_dense"),
        layer_norm("final_layer_norm", D),
        *_between_languages(k, D),
    )
    layers = repeated("audio", f"{path}.encoder.layers", k.need("num_hidden_layers"), *layer)
    outs, last = _adapter(k, D, f"{path}.adapter")
    return outs, (*first, *layers, *last)


def _unread(k: Keys) -> None:
    """Keys of training, of other classes, and of what holds no tensor."""
    k.skip("vocab_size", "hidden_act", "hidden_dropout", "activation_dropout", "attention_dropout", "feat_proj_dropout")
    k.skip("feat_quantizer_dropout", "final_dropout", "layerdrop", "num_codevectors_per_group", "num_codevector_groups")
    k.skip("contrastive_logits_temperature", "num_negatives", "codevector_dim", "proj_codevector_dim")
    k.skip("diversity_loss_weight", "ctc_loss_reduction", "ctc_zero_infinity", "use_weighted_layer_sum")
    k.skip("classifier_proj_size", "tdnn_dim", "tdnn_kernel", "tdnn_dilation", "xvector_output_dim", "adapter_stride")


def _between_languages(k: Keys, D: int) -> tuple[Part, ...]:
    """A narrow block in every layer, of which each language has its own (MMS, arXiv:2305.13516)."""
    inner = k.optional("adapter_attn_dim")
    if inner is None or not k.want("do_stable_layer_norm", False):
        k.skip("do_stable_layer_norm")
        return ()
    path = "adapter_layer"
    return (layer_norm(f"{path}.norm", D), *feed_forward(path, D, inner, "linear_1", "linear_2"))


def _adapter(k: Keys, D: int, path: str) -> tuple[int, tuple[Tensor, ...]]:
    """Convolutions that shorten the sequence, whose gated units halve the channels; the width behind them."""
    out = k.optional("output_hidden_size") or D
    count, C = k.size("num_adapter_layers", 3), k.size("adapter_kernel_size", 3)
    if not k.want("add_adapter", False):
        return out, ()
    narrowed = (matrix("proj", ("X", D), ("D", out), "audio"), layer_norm("proj_layer_norm", out))
    first = tower("audio", path, *narrowed) if out != D else ()
    return out, first + repeated("audio", f"{path}.layers", count, *convolution("conv", out, 2 * out, C))


_SIZES: Final[dict[str, Any]] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

TOWER: Final = Tower(
    read=read,
    defaults={"wav2vec2": _SIZES},
    source="https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/wav2vec2/modeling_wav2vec2.py",
)
