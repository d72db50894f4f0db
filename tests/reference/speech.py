"""Small configs of models that write down or speak, for the table of perturbations."""

from __future__ import annotations

from typing import Any

from composites import DECODERS, TEXT
from tables import BART, CODER, FLAGS, READER, T5, Table, without

UNSHARED = {k: v for k, v in READER.items() if k != "num_key_value_heads"}
SIZES = without(BART, "d_model", "max_position_embeddings")
WAVES: Table = {
    "feat_extract_norm": ("group", "layer"),
    ("conv_dim", "conv_kernel", "conv_stride"): (([32, 16], [10, 3], [5, 2]), ([24] * 3, [8, 3, 2], [5, 2, 2])),
    "conv_bias": FLAGS,
    ("num_conv_pos_embeddings", "num_conv_pos_embedding_groups"): ((9, 4), (8, 6)),
    ("mask_time_prob", "mask_feature_prob"): ((0.0, 0.0), (0.05, 0.0), (0.0, 0.1)),
}
WAV2VEC2: dict[str, Any] = {
    **UNSHARED,
    "model_type": "wav2vec2",
    "hidden_size": 48,
    "num_attention_heads": 4,
    "conv_dim": [32, 16],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 2],
    "num_conv_pos_embeddings": 9,
}
PARAKEET: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 20,
    "subsampling_conv_channels": 16,
}
DIA: dict[str, Any] = {**TEXT, "head_dim": 24}
LISTENER: dict[str, Any] = {k: v for k, v in READER.items() if k != "vocab_size"}

ENCODEC: dict[str, Any] = {
    "model_type": "encodec",
    "hidden_size": 24,
    "num_filters": 4,
    "upsampling_ratios": [4, 2],
    "codebook_size": 16,
    "target_bandwidths": [20.0, 40.0],
    "sampling_rate": 8000,
}
SINGER: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "ffn_dim": 64,
    "max_position_embeddings": 33,
    "pad_token_id": 20,
    "bos_token_id": 20,
}
SUNG: dict[str, Any] = {"d_model": 48, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 3, "vocab_size": 97}
MUSICGEN: Table = {
    "text_encoder": tuple(
        {"model_type": "t5", **SUNG, **more}
        for more in ({}, {"d_model": 96, "feed_forward_proj": "gated-gelu"}, {"tie_word_embeddings": False})
    ),
    "audio_encoder": (
        ENCODEC,
        {**ENCODEC, "audio_channels": 2, "num_residual_layers": 2, "codebook_dim": 12, "num_lstm_layers": 1},
        {**ENCODEC, "norm_type": "time_group_norm", "use_conv_shortcut": False, "kernel_size": 5},
    ),
    "decoder": (
        SINGER,
        {**SINGER, "num_codebooks": 3, "hidden_size": 192},
        {**SINGER, "cross_attention_hidden_size": 48, "num_codebooks": 8, "audio_channels": 2},
    ),
}

SPEECH: dict[str, Table] = {
    "canary": {
        "vocab_size": (97,),
        "encoder_config": (PARAKEET, {**PARAKEET, "attention_bias": False, "convolution_bias": False}),
        "decoder_config": (
            READER,
            {**READER, "attention_bias": False, "head_dim": 24, "max_position_embeddings": 77},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "cohere_asr": {
        "encoder_config": (PARAKEET, {**PARAKEET, "hidden_size": 48, "subsampling_factor": 4}),
        "hidden_size": (96,),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (1, 2),
        "num_attention_heads": (6, 12),
        "num_key_value_heads": (2, 6),
        "vocab_size": (97, 101),
        "head_dim": (16, 24),
        "attention_bias": FLAGS,
        "max_position_embeddings": (32, 77),
        "tie_word_embeddings": FLAGS,
    },
    "dia": {
        "encoder_config": (DIA, {**DIA, "hidden_size": 48, "max_position_embeddings": 32}),
        "decoder_config": (
            {**DIA, "cross_hidden_size": 96, "num_channels": 3, "pad_token_id": 1},
            {
                **DIA,
                "pad_token_id": 1,
                "cross_num_attention_heads": 6,
                "cross_num_key_value_heads": 3,
                "cross_head_dim": 8,
                "cross_hidden_size": 48,
            },
        ),
    },
    "moonshine": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "vocab_size": (97, 101),
        "encoder_num_hidden_layers": (1, 2),
        "decoder_num_hidden_layers": (1, 3),
        "encoder_num_attention_heads": (4, 6),
        "decoder_num_attention_heads": (4, 12),
        "encoder_num_key_value_heads": (None, 2),
        "decoder_num_key_value_heads": (None, 2),
        "attention_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "moonshine_streaming": {
        "encoder_config": (
            {**LISTENER, "sample_rate": 8000, "sliding_windows": [[8, 2], [8, 0]]},
            {**LISTENER, "hidden_size": 48, "frame_ms": 10.0, "attention_bias": True, "head_dim": 24},
        ),
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "vocab_size": (97, 101),
        "num_hidden_layers": (1, 3),
        "num_attention_heads": (4, 6),
        "num_key_value_heads": (1, 2),
        "max_position_embeddings": (32, 77),
        "attention_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "musicgen": MUSICGEN,
    "musicgen_melody": {**MUSICGEN, "num_chroma": (12, 96)},
    "pop2piano": {
        **without(T5, "num_decoder_layers", "relative_attention_num_buckets"),
        "composer_vocab_size": (21, 5),
        "feed_forward_proj": ("relu", "gated-gelu"),
        "tie_word_embeddings": FLAGS,
    },
    "speech-encoder-decoder": {
        "encoder": (
            WAV2VEC2,
            {**WAV2VEC2, "add_adapter": True, "output_hidden_size": 96, "num_adapter_layers": 2},
            {**WAV2VEC2, "add_adapter": True, "adapter_kernel_size": 5, "mask_time_prob": 0.0},
            {**WAV2VEC2, "do_stable_layer_norm": True, "adapter_attn_dim": 16, "feat_extract_norm": "layer"},
            {**WAV2VEC2, "output_hidden_size": 32, "adapter_attn_dim": 16},
        ),
        "decoder": tuple(
            {k: v for k, v in decoder.items() if k != "cross_attention_hidden_size"} for decoder in DECODERS
        ),
    },
    "speech_to_text": {
        **SIZES,
        "d_model": (96, 192),
        "max_source_positions": (40, 60),
        "max_target_positions": (32, 77),
        ("num_conv_layers", "conv_kernel_sizes"): ((1, [5]), (2, [5, 3]), (3, [3, 3, 5])),
        "conv_channels": (48, 64),
        "input_feat_per_channel": (20, 24),
        "input_channels": (1, 2),
    },
    "speecht5": {
        **SIZES,
        **WAVES,
        "hidden_size": (96, 192),
        "encoder_max_relative_position": (10, 20),
        "max_speech_positions": (40, 60),
        "max_text_positions": (32, 77),
    },
    "vibevoice": {
        "text_config": (
            {**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
            {**TEXT, "model_type": "qwen2"},
            {**TEXT, "model_type": "llama", "head_dim": 24},
        ),
        "audio_config": (CODER, {**CODER, "hidden_size": 24, "ffn_expansion": 3, "channels": 2, "depths": [3, 1, 2]}),
        "semantic_model_config": (None, CODER, {**CODER, "kernel_size": 5, "downsampling_ratios": [3, 5]}),
        "diffusion_head_config": (
            {"num_hidden_layers": 2, "intermediate_size": 40},
            {"hidden_size": 192, "latent_size": 24, "mlp_bias": True, "frequency_embedding_size": 48},
        ),
    },
}
"""Keys whose values depend on each other are drawn together."""

STATED: dict[str, dict[str, Any]] = {"moonshine_streaming": {"num_key_value_heads": 8}}
"""What a default config has to say, for its class builds nothing without."""

SPEAKS: dict[str, Any] = {
    **{k: v for k, v in TEXT.items() if k in ("vocab_size", "pad_token_id")},
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 6,
    "hidden_size": 96,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 56,
    "num_mel_bins": 20,
    "speech_decoder_prenet_layers": 3,
    "speech_decoder_prenet_units": 24,
    "speech_decoder_postnet_layers": 2,
    "speech_decoder_postnet_units": 28,
    "speech_decoder_postnet_kernel": 3,
    "speaker_embedding_dim": 12,
    "reduction_factor": 3,
    "max_speech_positions": 40,
    "max_text_positions": 32,
}
SPEAKERS: dict[str, tuple[dict[str, Any], ...]] = dict.fromkeys(
    ("SpeechT5ForTextToSpeech", "SpeechT5ForSpeechToSpeech", "SpeechT5Model"),
    (SPEAKS, {**SPEAKS, "hidden_size": 192, "speech_decoder_postnet_layers": 4, "encoder_attention_heads": 6}),
)
"""Classes beside those of the table, with small configs of theirs."""
