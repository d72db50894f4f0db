"""Small configs of further models that read images or sound, most of whose towers belong to them alone."""

from __future__ import annotations

from typing import Any

from tables import CODER, DOTS, FLAGS, READER, VISION, Table

WIDE = {**READER, "head_dim": 24, "num_hidden_layers": 3}
ROUTED = {**READER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
TIED = {**READER, "tie_word_embeddings": True}
HYBRID = {**READER, "model_type": "qwen3_5_text", "num_hidden_layers": 4, "head_dim": 16, "linear_num_value_heads": 16}
SCORED = {**READER, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
LATENT = {
    **{k: v for k, v in READER.items() if k != "num_key_value_heads"},
    "num_key_value_heads": 6,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 40,
}

SEEN = {"depth": 2, "hidden_size": 64, "num_heads": 4, "patch_size": 8, "out_hidden_size": 96}
"""A tower as Qwen's and GLM's configs describe it."""
SIGHTS = (SEEN, {**SEEN, "depth": 3, "spatial_merge_size": 3, "intermediate_size": 88, "in_channels": 1})
DEEP = (*SIGHTS, {**SEEN, "deepstack_visual_indexes": [0], "num_position_embeddings": 49, "temporal_patch_size": 4})
GLM = (
    *({**seen, "image_size": 40} for seen in SIGHTS),
    {**SEEN, "attention_bias": True, "image_size": 32, "temporal_patch_size": 1},
    {**SEEN, "attention_bias": False},
)
"""A tower as SigLIP's config describes it."""
FREE = {k: v for k, v in VISION.items() if k != "image_size"}

HEARD = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_mel_bins": 20,
}
"""An encoder of sound."""
WHISPER = {
    "d_model": 64,
    "encoder_ffn_dim": 80,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "num_mel_bins": 20,
}
"""The same under the names that Whisper gives."""


def heard(kind: str) -> tuple[dict[str, Any], ...]:
    told = {"model_type": kind}
    return ({**HEARD, **told}, {**HEARD, **told, "max_source_positions": 33, "num_hidden_layers": 3})


OMNI_AUDIO = ({**WHISPER, "output_dim": 96}, {**WHISPER, "output_dim": 96, "max_source_positions": 33})
LISTENED = (
    {**WHISPER, "output_dim": 96},
    {**WHISPER, "output_dim": 96, "downsample_hidden_size": 12, "num_mel_bins": 33},
)
TALKER = {**READER, "hidden_size": 64, "num_attention_heads": 4, "head_dim": 16}
VOICE = (
    {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "emb_dim": 20,
        "enc_channels": [16, 8, 24],
        "enc_kernel_sizes": [5, 3, 1],
        "enc_dilations": [1, 2, 3],
    },
    {"hidden_size": 64, "num_hidden_layers": 1, "enc_res2net_scale": 4, "ff_mult": 3, "mel_dim": 40},
)
SOUND = (
    {"upsample_rates": [5, 3], "upsample_kernel_sizes": [11, 7], "upsample_initial_channel": 48},
    {"resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "mel_dim": 40},
)
CODES = {**ROUTED, "shared_expert_intermediate_size": 48, "moe_intermediate_size": 40}

INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 32,
    "indexer_budget": 64,
    "indexer_compress_ratio": 8,
}
GROUPED = {
    **{k: v for k, v in ROUTED.items() if k != "intermediate_size"},
    **INDEXER,
    "num_hidden_layers": 5,
    "head_dim": 32,
    "linear_num_value_heads": 16,
    "eos_token_id": 5,
    "ngram_vocab_size_base": 1000,
}
POOLED = {
    **SCORED,
    "num_hidden_layers": 5,
    "num_key_value_heads": 6,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "v_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 5,
    "pad_token_id": 0,
}
TURNED = {"rope_type": "default", "rope_theta": 10000.0}
COMMAND = {**READER, "rope_parameters": {"full_attention": TURNED}}
ERNIE = {
    **READER,
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_intermediate_size": [40, 24],
    "rope_parameters": {**TURNED, "mrope_section": [2, 2, 4]},
}
STEP = {
    **READER,
    "num_hidden_layers": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "share_expert_dim": 48,
    "sliding_window": 8,
}
SLIDES = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
BLOCKED = {
    **READER,
    "head_dim": 16,
    "dense_intermediate_size": 72,
    "shared_intermediate_size": 40,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "index_head_dim": 12,
}
CONFORMER = {"hidden_dim": 64, "num_layers": 2, "num_heads": 4, "context_size": 20, "input_dim": 12}
QUERIES = {
    "model_type": "blip_2_qformer",
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "encoder_hidden_size": 64,
}
GRANITE: Table = {
    "text_config": (READER, {**READER, "attention_bias": True, "mlp_bias": True}),
    "encoder_config": (CONFORMER, {**CONFORMER, "dim_head": 12, "conv_kernel_size": 5, "output_dim": 30}),
    "projector_config": (QUERIES, {**QUERIES, "cross_attention_frequency": 1}),
    ("window_size", "downsample_rate"): ((15, 5), (9, 4)),
    "tie_word_embeddings": FLAGS,
}
CODEC = {
    "model_type": "mimi",
    "hidden_size": 64,
    "num_filters": 8,
    "upsampling_ratios": [3, 2],
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "upsample_groups": 64,
    "num_quantizers": 5,
    "codebook_size": 16,
    "codebook_dim": 24,
}
LISTENS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 80}
ATTENDS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "projection_hidden_size": 70}
RADIO = {
    "model_type": "radio",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_img_size": 128,
    "video_temporal_patch_size": 2,
}
NEMOTRON = {
    **READER,
    "model_type": "nemotron_h",
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "moe_intermediate_size": 40,
    "moe_shared_expert_intermediate_size": 48,
}

DOTS_VISION = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "patch_size": 4,
    "adapter_in_dim": 48,
    "adapter_out_dim": 96,
}
DOTS_AUDIO = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "feature_size": 24,
    "downsample_hidden_size": 12,
    "adapter_input_size": 48,
    "adapter_out_dim": 96,
}
AUDIOVISUAL: dict[str, Table] = {
    "dots3_note": {
        "text_config": tuple(
            {"model_type": "dots3_note_text", **{key: values[which] for key, values in DOTS.items()}, **more}
            for which, more in ((-1, {}), (0, {}), (0, {"tie_word_embeddings": True}))
        ),
        "vision_config": (
            {**DOTS_VISION, "pyramid_num_routed": [-1, 3, 5], "spatial_merge_size": 2, "attention_bias": True},
            {
                **DOTS_VISION,
                "mlp_layer_types": ["sparse", "dense", "sparse"],
                "per_layer_config": {"0": {"num_local_experts": 4}},
                "num_local_experts": 6,
                "num_channels": 1,
            },
            {**DOTS_VISION, "mlp_layer_types": ["dense"] * 3, "mlp_bias": True},
        ),
        "audio_config": (
            DOTS_AUDIO,
            {**DOTS_AUDIO, "attention_bias": False, "feature_size": 20, "whisper_config": {"encoder_layers": 1}},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "audioflamingo3": {
        "text_config": ({**READER, "model_type": "qwen2"}, {**TIED, "model_type": "llama"}),
        "audio_config": heard("audioflamingo3_encoder"),
        "projector_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "aya_vision": {
        "text_config": (READER, {**READER, "model_type": "llama"}),
        "vision_config": (VISION, {**VISION, "vision_use_head": False}),
        "downsample_factor": (2, 3),
        "alignment_intermediate_size": (80, 60),
        "tie_word_embeddings": FLAGS,
    },
    "cohere2_vision": {
        "text_config": (READER, {**READER, "sliding_window": 8}),
        "vision_config": (VISION, {**VISION, "vision_use_head": False}),
        "downsample_factor": (2, 3),
        "alignment_intermediate_size": (80, 60),
        "tie_word_embeddings": FLAGS,
    },
    "exaone4_5": {
        "text_config": ({**READER, "model_type": "exaone4"}, {**READER, "model_type": "exaone4_5_text"}),
        "vision_config": ({**SEEN, "num_key_value_heads": 2}, {**SEEN, "num_key_value_heads": 1, "depth": 1}),
        "tie_word_embeddings": FLAGS,
    },
    "glm46v": {
        "text_config": (READER, {**SCORED, "model_type": "glm4v_moe_text"}),
        "vision_config": GLM,
        "tie_word_embeddings": FLAGS,
    },
    "glm4v": {"text_config": (READER, TIED), "vision_config": GLM, "tie_word_embeddings": FLAGS},
    "glm4v_moe": {
        "text_config": (SCORED, {**SCORED, "first_k_dense_replace": 2, "attention_bias": False, "n_shared_experts": 2}),
        "vision_config": GLM,
        "tie_word_embeddings": FLAGS,
    },
    "glm_ocr": {"text_config": (READER, WIDE), "vision_config": GLM, "tie_word_embeddings": FLAGS},
    "glmasr": {
        "text_config": (READER, {**READER, "attention_bias": True}),
        "audio_config": (HEARD, {**HEARD, "num_key_value_heads": 2}),
        "tie_word_embeddings": FLAGS,
    },
    "glmga": {"text_config": (READER,), "vision_config": GLM, "tie_word_embeddings": FLAGS},
    "hunyuan_vl": {
        "text_config": (WIDE, {**WIDE, "attention_bias": True, "tie_word_embeddings": False}),
        "vision_config": (
            {**FREE, "max_image_size": 80},
            {**FREE, "max_image_size": 64, "spatial_merge_size": 3, "num_channels": 1},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "hyperclovax_vision_v2": {
        "text_config": (READER, {**READER, "use_post_norm": False}),
        "vision_config": SIGHTS,
        "tie_word_embeddings": FLAGS,
    },
    "kimi_k25": {
        "text_config": (LATENT, {**LATENT, "q_lora_rank": None, "num_hidden_layers": 1}),
        "vision_config": (
            {**FREE, "pos_emb_height": 5, "pos_emb_width": 7},
            {**FREE, "merge_kernel_size": [2, 3], "pos_emb_time": 6, "num_hidden_layers": 1},
        ),
        "projection_hidden_size": (48, 40),
        "tie_word_embeddings": FLAGS,
    },
    **{
        name: {
            "text_config": (HYBRID, {**READER, "model_type": "llama"}),
            "vision_config": (
                {**VISION, "window_kernel_size": [2, 3]},
                {**VISION, "num_channels": 1, "num_hidden_layers": 3},
            ),
            "merger_times": (1, 2),
            "tie_word_embeddings": FLAGS,
        }
        for name in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")
    },
    "musicflamingo": {
        "text_config": ({**READER, "model_type": "qwen2"}, {**TIED, "model_type": "qwen2"}),
        "audio_config": heard("audioflamingo3_encoder"),
        "projector_bias": FLAGS,
        "rope_parameters": (None, {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}),
    },
    "paddleocr_vl": {
        "text_config": (WIDE, {**READER, "use_bias": True}),
        "vision_config": (VISION, {**VISION, "spatial_merge_size": 3, "num_channels": 1}),
        "tie_word_embeddings": FLAGS,
    },
    "qwen2_5_omni": {
        "thinker_config": ({"text_config": READER}, {"text_config": TIED, "vision_config": SEEN}),
        "talker_config": ({**TALKER, "embedding_size": 40}, TALKER),
        "token2wav_config": tuple({"dit_config": d, "bigvgan_config": s} for d, s in zip(VOICE, SOUND, strict=True)),
        "enable_audio_output": (True, True, False),
    },
    "qwen2_5_omni_thinker": {
        "text_config": (READER, {**READER, "use_sliding_window": True, "max_window_layers": 1}),
        "vision_config": SIGHTS,
        "audio_config": OMNI_AUDIO,
        "tie_word_embeddings": FLAGS,
    },
    "qwen2_5_vl": {"text_config": (READER, TIED), "vision_config": SIGHTS, "tie_word_embeddings": FLAGS},
    "qwen2_audio": {
        "text_config": ({**READER, "model_type": "qwen2"}, {**TIED, "model_type": "llama"}),
        "audio_config": (
            {**WHISPER, "model_type": "qwen2_audio_encoder"},
            {**WHISPER, "max_source_positions": 33, "encoder_layers": 1},
        ),
    },
    "qwen2_vl": {
        "text_config": (
            READER,
            TIED,
            {**READER, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        ),
        "vision_config": (
            {"depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 96, "patch_size": 8},
            {"depth": 1, "embed_dim": 48, "num_heads": 2, "hidden_size": 96, "mlp_ratio": 3, "spatial_merge_size": 3},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "qwen3_asr": {
        "text_config": ({**WIDE, "model_type": "qwen3"},),
        "audio_config": LISTENED,
        "tie_word_embeddings": FLAGS,
    },
    "qwen3_omni_moe": {
        "thinker_config": ({"text_config": ROUTED}, {"text_config": ROUTED, "vision_config": SEEN}),
        "talker_config": (
            {"text_config": CODES, "spatial_merge_size": 2, "code_predictor_config": WIDE},
            {
                "text_config": {**CODES, "head_dim": 20},
                "spatial_merge_size": 2,
                "thinker_hidden_size": 72,
                "code_predictor_config": {**READER, "num_code_groups": 5, "attention_bias": True},
            },
        ),
        "code2wav_config": (
            {"upsample_rates": [4, 2], "upsampling_ratios": [3], "hidden_size": 64, "decoder_dim": 32},
            {"num_quantizers": 3, "codebook_size": 40, "hidden_size": 64, "decoder_dim": 48, "num_hidden_layers": 1},
        ),
        "enable_audio_output": (True, True, False),
    },
    "qwen3_omni_moe_thinker": {
        "text_config": (ROUTED, {**ROUTED, "mlp_only_layers": [1]}),
        "vision_config": DEEP,
        "audio_config": ({**WHISPER, "output_dim": 96}, {**LISTENED[1], "max_source_positions": 33}),
        "tie_word_embeddings": FLAGS,
    },
    "qwen3_vl": {"text_config": (READER, WIDE), "vision_config": DEEP, "tie_word_embeddings": FLAGS},
    "qwen3_vl_moe": {
        "text_config": (ROUTED, {**ROUTED, "decoder_sparse_step": 2}, {**ROUTED, "head_dim": 24}),
        "vision_config": DEEP,
        "tie_word_embeddings": FLAGS,
    },
    "video_llama_3": {
        "text_config": ({**TIED, "model_type": "qwen2"}, {**READER, "model_type": "llama"}),
        "vision_config": (FREE, {**FREE, "num_channels": 1, "num_hidden_layers": 1}),
        "tie_word_embeddings": FLAGS,
    },
    "voxtral": {
        "text_config": ({**WIDE, "model_type": "llama"}, {**TIED, "model_type": "llama"}),
        "audio_config": heard("voxtral_encoder"),
    },
    "cohere_compass": {
        "text_config": (
            COMMAND,
            {
                **COMMAND,
                "num_hidden_layers": 3,
                "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {"full_attention": None, "sliding_attention": TURNED},
                "attention_bias": True,
            },
        ),
        "vision_config": DEEP,
        "tie_word_embeddings": FLAGS,
    },
    "cohere_compass_text": {
        **{k: (v,) for k, v in COMMAND.items()},
        "num_hidden_layers": (1, 2, 3),
        "num_key_value_heads": (None, 2, 3),
        "tie_word_embeddings": FLAGS,
    },
    "ernie4_5_vl_moe": {
        "text_config": (
            ERNIE,
            {**ERNIE, "use_bias": True, "num_hidden_layers": 3, "mlp_layer_types": ["sparse", "dense", "sparse"]},
            {**ERNIE, "moe_num_shared_experts": 0},
        ),
        "vision_config": tuple({k: v for k, v in seen.items() if k != "out_hidden_size"} for seen in SIGHTS),
        "tie_word_embeddings": FLAGS,
    },
    "fun_asr_nano": {
        "text_config": ({**WIDE, "model_type": "qwen3"},),
        "audio_config": (
            {"hidden_size": 64, "num_hidden_layers": 5, "num_timestamp_prediction_layers": 2, "num_mel_bins": 10},
            {"hidden_size": 48, "num_hidden_layers": 3, "num_timestamp_prediction_layers": 1, "fsmn_kernel_size": 5},
        ),
        "adaptor_config": tuple(
            {"hidden_size": 96, "intermediate_size": 24, "num_hidden_layers": n, "projector_hidden_size": 50}
            for n in (1, 2)
        ),
        "tie_word_embeddings": FLAGS,
    },
    "glm5_next": {
        "text_config": (
            POOLED,
            {**POOLED, "hc_mult": 3, "index_kpool": 8, "index_topk_pattern": "FFFSF", "layer_types": None},
            {
                **POOLED,
                "indexer_types": ["full", "full", "full", "shared", "full"],
                "layer_types": ["indexed_attention", "linear_attention", *["full_attention"] * 2, "linear_attention"],
                "linear_attn_config": {"head_dim": 8, "num_heads": 3, "short_conv_kernel_size": 3},
            },
        ),
        "vision_config": (*GLM, {**GLM[0], "projection_intermediate_size": 72}),
        "tie_word_embeddings": FLAGS,
    },
    "granite_speech": GRANITE,
    "granite_speech_plus": GRANITE,
    "kyutai_speech_to_text": {
        "hidden_size": (96, 192),
        "num_hidden_layers": (1, 2),
        "num_attention_heads": (6,),
        "num_key_value_heads": (None, 2),
        "vocab_size": (97,),
        "ffn_dim": (64, 80),
        ("num_codebooks", "codebook_vocab_size", "audio_pad_token_id", "pad_token_id"): ((4, 17, 3, 3), (5, 9, 3, 3)),
        "codec_config": (
            CODEC,
            {**CODEC, "num_residual_layers": 2, "use_conv_shortcut": True, "num_semantic_quantizers": 2},
            {**CODEC, "vector_quantization_hidden_dimension": 64, "attention_bias": True, "num_key_value_heads": 2},
        ),
    },
    "minimax_m3_vl": {
        "text_config": (
            BLOCKED,
            {**BLOCKED, "layer_types": ["full_attention", "minimax_m3_sparse"], "mlp_layer_types": ["dense", "sparse"]},
            {**BLOCKED, "tie_word_embeddings": True},
            {
                **BLOCKED,
                "sparse_attention_config": {"sparse_num_index_heads": 2, "sparse_attention_freq": [0, 1]},
                "moe_layer_freq": [0, 1],
            },
        ),
        "vision_config": (FREE, {**FREE, "spatial_merge_size": 3, "temporal_patch_size": 1, "num_channels": 1}),
        "projector_hidden_size": (72, 88),
        "tie_word_embeddings": FLAGS,
    },
    "nemo_speechlm": {
        "text_config": (NEMOTRON, {**NEMOTRON, "hybrid_override_pattern": "M*E"}),
        "audio_config": (
            {
                "asr_config": LISTENS,
                "diarization_config": {"audio_config": LISTENS, "head_config": {"audio_hidden_size": 64}},
            },
            {
                "asr_config": {**LISTENS, "num_mel_bins": 20},
                "diarization_config": {
                    "audio_config": {**LISTENS, "num_hidden_layers": 1},
                    "head_config": {"audio_hidden_size": 64, "hidden_size": 24},
                },
            },
        ),
        "word_timestamp_config": (LISTENS, {**LISTENS, "upsampling_factor": 3, "vocab_size": 30, "blank_token_id": 29}),
    },
    "nemotron_h_omni": {
        "text_config": (NEMOTRON, {**NEMOTRON, "layers_block_type": ["linear_attention", "full_attention"]}),
        "vision_config": (RADIO, {**RADIO, "num_registers": 2, "qkv_bias": False, "mlp_ratio": 2.5}),
        "vision_hidden_size": (64, 48),
        "downsample_ratio": (0.5, 0.25),
        "projector_hidden_size": (80, 56),
        "audio_config": (
            None,
            {**ATTENDS, "projection_bias": True},
            {**ATTENDS, "projection_bias": False, "subsampling_factor": 4, "attention_bias": True, "num_mel_bins": 33},
        ),
    },
    "qwen4_exp": {
        "text_config": (
            GROUPED,
            {**GROUPED, "ple_layer_ids": [1, 3], "hc_count": 3, "hc_lowrank": 20},
            {
                **GROUPED,
                "ple_layer_ids": [2],
                "ple_embed_dim": 48,
                "ngram_size": 4,
                "heads_per_ngram": 2,
                "layer_types": ["full_attention", *["linear_attention"] * 3, "indexed_attention"],
            },
        ),
        "vision_config": SIGHTS,
        "tie_word_embeddings": FLAGS,
    },
    "qwen4_exp_text": {
        **{k: (v,) for k, v in GROUPED.items()},
        "hidden_size": (96, 192),
        "num_hidden_layers": (3, 4, 8),
        "num_key_value_heads": (2, 6),
        "ple_layer_ids": (None, [1], [1, 2]),
        "make_ngram_vocab_size_divisible_by": (8, 128),
        "shared_expert_intermediate_size": (24, 40),
        "attention_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "step3p7": {
        "text_config": (
            STEP,
            {**STEP, "layer_types": SLIDES, "num_sliding_attention_heads": 8, "attention_bias": True},
            {
                **STEP,
                "num_nextn_predict_layers": 1,
                "layer_types": [*SLIDES, "full_attention"],
                "moe_layers_enum": "1,3",
                "attention_other_setting": {"num_attention_heads": 4},
                "mlp_bias": True,
            },
        ),
        "vision_config": (
            {**VISION, "mlp_ratio": 3.3},
            {"width": 32, "layers": 3, "heads": 4, "image_size": 42, "ls_init_value": 0.2},
        ),
        "projector_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "vibevoice_asr": {
        "text_config": ({**TIED, "model_type": "qwen2"}, {**READER, "model_type": "llama"}),
        "acoustic_tokenizer_encoder_config": (CODER, {**CODER, "hidden_size": 24, "ffn_expansion": 3}),
        "semantic_tokenizer_encoder_config": (CODER, {**CODER, "kernel_size": 5, "depths": [2, 1, 1]}),
    },
    "voxtral_realtime": {
        "text_config": (WIDE, {**READER, "sliding_window": None}),
        "audio_config": (HEARD, {**HEARD, "head_dim": 12, "num_mel_bins": 33}),
        "downsample_factor": (2, 4),
        "tie_word_embeddings": FLAGS,
    },
}
"""For each model type the keys that are perturbed and the values they are drawn from."""

LACKING: dict[str, dict[str, Any]] = {
    "dots3_note": {
        "vision_config": {"num_hidden_layers": 3, "pyramid_num_routed": [-1, 4, 8]},
        "text_config": {
            "model_type": "dots3_note_text",
            **{key: values[0] for key, values in DOTS.items()},
            "hidden_size": 5120,
        },
    },
    "cohere_compass": {"text_config": {**COMMAND, "model_type": "cohere_compass_text"}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": TURNED}},
    "aya_vision": {"vision_config": {**VISION, "model_type": "siglip_vision_model"}},
    "hunyuan_vl": {"text_config": {**WIDE, "model_type": "hunyuan_vl_text"}},
    "qwen3_omni_moe": {
        "thinker_config": {"text_config": ROUTED},
        "talker_config": {"text_config": CODES, "spatial_merge_size": 2},
    },
    "qwen4_exp": {"text_config": {**GROUPED, "model_type": "qwen4_exp_text"}},
    "qwen4_exp_text": {**INDEXER, "indexer_head_dim": 256, "ple_layer_ids": []},
    "qwen3_omni_moe_thinker": {"text_config": {**ROUTED, "model_type": "qwen3_omni_moe_text"}},
}
"""What stands in a default config that its class cannot be built with, or is no model."""
