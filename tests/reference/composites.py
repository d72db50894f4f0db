"""Small configs of models that hold a language model beside towers, for the table of perturbations."""

from __future__ import annotations

from typing import Any

from tables import FLAGS, READER, VISION, Table

TEXT = {**READER, "pad_token_id": 0}

GEMMA3 = {**TEXT, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8}
LFM2 = {**TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention"], "conv_L_cache": 5}
PHI = {k: v for k, v in TEXT.items() if k != "num_key_value_heads"}
TEXTS = (
    {**TEXT, "model_type": "llama", "tie_word_embeddings": True},
    {**TEXT, "model_type": "mistral", "head_dim": 24},
    {**TEXT, "model_type": "qwen2", "tie_word_embeddings": True},
    {**TEXT, "model_type": "qwen3", "head_dim": 24},
    {**TEXT, "model_type": "gemma", "head_dim": 16},
    {**TEXT, "model_type": "gemma2", "head_dim": 16, "sliding_window": 8},
    {**TEXT, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40},
    {**TEXT, "model_type": "granite", "attention_bias": True},
    {**PHI, "model_type": "phi", "tie_word_embeddings": False},
    GEMMA3,
    LFM2,
)
"""Language models of several types."""

SIGLIP2 = {k: v for k, v in VISION.items() if k != "image_size"}
TOWERS = (
    {**VISION, "model_type": "clip_vision_model", "num_channels": 1},
    {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
    {**VISION, "model_type": "siglip_vision_model"},
    {**SIGLIP2, "model_type": "siglip2_vision_model", "num_patches": 25},
    {**VISION, "model_type": "pixtral"},
    {**VISION, "model_type": "idefics3_vision", "num_channels": 4},
)
"""Towers of several types."""

ARIA = {**TEXT, "moe_num_experts": 3, "moe_topk": 2, "moe_num_shared_experts": 1}
INTERNVL = (
    {**VISION, "image_size": [32, 32], "patch_size": [8, 8], "use_qk_norm": True, "norm_type": "rms_norm"},
    {**VISION, "attention_bias": True, "use_mask_token": True, "use_mean_pooling": False},
    {**VISION, "attention_bias": False, "use_absolute_position_embeddings": False},
)
LLAVA: Table = {"text_config": TEXTS, "vision_config": TOWERS, "vision_feature_layer": (-2, [1, 2])}
BIASED: Table = {"multimodal_projector_bias": FLAGS}
OPT = {
    "model_type": "opt",
    "hidden_size": 96,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "vocab_size": 97,
    "word_embed_proj_dim": 96,
    "max_position_embeddings": 33,
    "pad_token_id": 0,
}
T5 = {"model_type": "t5", "d_model": 96, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 3, "vocab_size": 97}
BART = {
    "model_type": "bart",
    "d_model": 96,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 80,
    "vocab_size": 97,
    "max_position_embeddings": 33,
    "pad_token_id": 0,
}
QFORMER = {
    "hidden_size": 60,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "vocab_size": 41,
    "max_position_embeddings": 23,
}
BLIP: Table = {
    "text_config": (OPT, {**OPT, "tie_word_embeddings": False}, {**T5, "tie_word_embeddings": True}, TEXTS[1]),
    "vision_config": (VISION, {**VISION, "qkv_bias": False}),
    "qformer_config": (QFORMER, {**QFORMER, "cross_attention_frequency": 1}),
    "num_query_tokens": (4, 7),
}
SAM = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 8,
    "window_size": 2,
    "global_attn_indexes": [1],
    "output_channels": 24,
}
DEEPSEEK_VL: Table = {"text_config": TEXTS, "vision_config": TOWERS[1:3], "tie_word_embeddings": FLAGS}
TOKENS = {
    "embed_dim": 12,
    "num_embeddings": 31,
    "latent_channels": 20,
    "base_channels": 32,
    "channel_multiplier": [1, 2],
    "num_res_blocks": 1,
}
JANUS = {k: v for k, v in VISION.items() if k != "intermediate_size"}
BLIP_TEXT = {**PHI, "max_position_embeddings": 23}
FLORENCE = {
    "depths": [1, 2],
    "patch_size": [5, 3],
    "patch_stride": [4, 2],
    "patch_padding": [2, 1],
    "patch_prenorm": [False, True],
    "embed_dim": [24, 36],
    "num_heads": [2, 3],
    "num_groups": [3, 3],
    "projection_dim": 96,
}
KOSMOS = {
    "vocab_size": 97,
    "embed_dim": 96,
    "layers": 2,
    "ffn_dim": 64,
    "attention_heads": 6,
    "max_position_embeddings": 33,
    "pad_token_id": 0,
}
PATCHES = {
    "hidden_size": 48,
    "patch_embed_hidden_size": 30,
    "intermediate_size": 56,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_num_patches": 25,
}

LARGE4 = {
    **TEXT,
    "num_hidden_layers": 4,
    "num_key_value_heads": 6,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "kv_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 16,
    "index_head_dim": 16,
    "index_n_heads": 3,
}
OCR_TEXT = {
    **TEXT,
    "num_hidden_layers": 3,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
}
OCR_SAM = {**SAM, "downsample_channels": [20, 28]}
GRANITE = {**TEXT, "attention_bias": True, "mlp_bias": True}
DOCLING = {**VISION, "out_hidden_size": 96, "image_size": 64}
MOLMO = {**TEXT, "head_dim": 16, "additional_vocab_size": 5}
MOLMO_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10}
MOLMO_VISION = {**VISION, **MOLMO_HEADS, "image_size": [32, 24]}
MOLMO_ADAPTER = {**MOLMO_HEADS, "hidden_size": 48, "intermediate_size": 40, "text_hidden_size": 96}
FORMULA = {
    "vocab_size": 97,
    "d_model": 96,
    "decoder_layers": 2,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 6,
    "max_position_embeddings": 33,
}
POST = {**SAM, "post_conv_in_channels": 24, "post_conv_mid_channels": 28, "post_conv_out_channels": 30}
T5_LIKE = {"vocab_size": 97, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 3}
PIX_VISION = {
    "hidden_size": 48,
    "patch_embed_hidden_size": 30,
    "d_ff": 56,
    "d_kv": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "seq_len": 25,
}
ROBOT = {**TEXT, "model_type": "gemma", "head_dim": 16}
IDEFICS_VISION = {**{k: v for k, v in VISION.items() if k != "hidden_size"}, "embed_dim": 48}
DIFFUSION = {
    **TEXT,
    "num_hidden_layers": 6,
    "head_dim": 16,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 40,
    "sliding_window": 8,
}
INKLING2 = {
    **{k: v for k, v in TEXT.items() if k != "intermediate_size"},
    "num_hidden_layers": 6,
    "head_dim": 16,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 8,
    "d_rel": 4,
    "rel_extent": 12,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "unpadded_vocab_size": 90,
}
INKLING2_VISION = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 6,
    "posemb_grid_size": 5,
    "projection_hidden_dim": 40,
    "text_hidden_size": 96,
}
INKLING_VISION = {"patch_size": 6, "temporal_patch_size": 2, "num_hidden_layers": 5}
ESM = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 4,
}
T5GEMMA2 = {**TEXT, "num_hidden_layers": 7, "head_dim": 16, "sliding_window": 8}
T5GEMMA2_ENCODER = {"text_config": T5GEMMA2, "vision_config": VISION}
LFM3 = {**TEXT, "model_type": "lfm3", "num_hidden_layers": 5, "head_dim": 16, "sliding_window": 8}
LFM3_VISION = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "patch_size": 4,
}
MROPE = {"rope_type": "default", "rope_theta": 1e6}
EDGE = {**TEXT, "head_dim": 16, "rope_parameters": {**MROPE, "mrope_section": [4, 2, 2]}}
OMNI_VISION = {
    "depth": 3,
    "hidden_size": 48,
    "num_heads": 4,
    "intermediate_size": 56,
    "patch_size": 4,
    "out_hidden_size": 96,
    "num_position_embeddings": 25,
    "deepstack_visual_indexes": [0, 2],
}
MUSE = {**TEXT, "head_dim": 16, "num_hidden_layers": 4, "sliding_window": 8}
MUSE_VISION = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 4,
    "pos_emb_height": 3,
    "pos_emb_width": 4,
    "layer_types": ["window_attention", "full_attention"],
}
SPARK = {**MUSE, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_hidden_size": 40}
SPARK_AUDIO = {
    "patch_sizes": [4, 3],
    "hidden_sizes": [16, 24],
    "depths": [1, 2],
    "num_hidden_layers": 2,
    "out_hidden_size": 96,
}
PAIRED = {"is_decoder": True, "add_cross_attention": True}
DECODERS = (
    {**PAIRED, **PHI, "model_type": "bert", "max_position_embeddings": 23},
    {**PAIRED, "model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 23},
    {**PAIRED, **FORMULA, "model_type": "mbart", "pad_token_id": 1},
    {**PAIRED, **FORMULA, "model_type": "trocr", "pad_token_id": 1, "cross_attention_hidden_size": 48},
    {**PAIRED, **FORMULA, "model_type": "trocr", "pad_token_id": 1, "use_learned_position_embeddings": False},
)
SWIN = {"model_type": "donut-swin", "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 3], "window_size": 3}

COMPOSITES: dict[str, Table] = {
    "cosmos3_edge": {
        "text_config": (
            EDGE,
            {
                **EDGE,
                "attention_bias": True,
                "mlp_bias": True,
                "head_dim": 24,
                "rope_parameters": {**MROPE, "mrope_section": [4, 4, 4]},
            },
        ),
        "vision_config": (SIGLIP2, {**SIGLIP2, "num_patches": 25, "spatial_merge_size": 3}),
        "projector_hidden_size": (40, 60),
    },
    "cosmos3_omni": {
        "text_config": (EDGE, {**EDGE, "attention_bias": True}),
        "vision_config": (OMNI_VISION,),
        "tie_word_embeddings": FLAGS,
    },
    "deepseek_ocr2": {
        "text_config": (OCR_TEXT, {**OCR_TEXT, "attention_bias": True, "n_shared_experts": 1, "mlp_bias": True}),
        "vision_config": ({"sam_config": OCR_SAM, "encoder_config": READER},),
        "tie_word_embeddings": FLAGS,
    },
    "diffusion_gemma": {
        "text_config": (DIFFUSION, {**DIFFUSION, "attention_bias": True, "vocab_size": 101}),
        "vision_config": ({"num_hidden_layers": 2}, {"num_hidden_layers": 1, "use_clipped_linears": True}),
        "tie_word_embeddings": FLAGS,
    },
    "evolla": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (3, 8),
        "num_attention_heads": (6, 12),
        "num_key_value_heads": (2, 3),
        "vocab_size": (97,),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "aligner_num_add_layers": (2, 4),
        "aligner_enable_bias": FLAGS,
        "aligner_ffn_mult": (2, 4),
        "resampler_heads": (2, 3),
        "resampler_dim_head": (8, 12),
        "resampler_depth": (1, 2),
        "resampler_num_latents": (4, 5),
        "resampler_ff_mult": (2, 3),
        "protein_encoder_config": (ESM, {**ESM, "hidden_size": 64}),
        ("bos_token_id", "eos_token_id"): ((1, 2),),
    },
    "granite4_vision": {
        "text_config": (TEXT, GRANITE),
        "vision_config": ({**TOWERS[0], "hidden_size": 128}, {**TOWERS[2], "hidden_size": 64}),
        "qformer_config": (None, {**QFORMER, "use_qformer_text_input": True}, {"num_hidden_layers": 2}),
        "deepstack_layer_map": ([[1, 0]], [[0, 1], [1, 0]]),
        "downsample_rate": ("1/2", "2/4"),
        "tie_word_embeddings": FLAGS,
    },
    "granite_docling": {
        "text_config": (TEXT, GRANITE),
        "vision_config": (DOCLING, {**DOCLING, "scale_factor": 2, "deepstack_visual_indexes": [1]}),
        "density_router_hidden_size": (None, 20),
        "tie_word_embeddings": FLAGS,
    },
    "idefics": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (2, 4),
        "num_attention_heads": (6, 12),
        "vocab_size": (97,),
        "additional_vocab_size": (0, 3),
        "cross_layer_interval": (1, 2),
        "qk_layer_norms": FLAGS,
        "use_resampler": FLAGS,
        "alpha_type": ("float", "vector"),
        "vision_config": (IDEFICS_VISION,),
        "perceiver_config": (
            {"resampler_depth": 2, "resampler_n_heads": 3},
            {"resampler_n_latents": 5, "resampler_head_dim": 8, "qk_layer_norms_perceiver": True},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "inkling2": {
        "text_config": (INKLING2, {**INKLING2, "conv_kernel_size": 3}),
        "vision_config": (
            INKLING2_VISION,
            {**INKLING2_VISION, "projector_bias": True, "intermediate_size": 56, "spatial_merge_size": 3},
        ),
    },
    "inkling_mm_model": {
        "text_config": (
            {**INKLING2, "unpadded_vocab_size": 97},
            {**INKLING2, "conv_kernel_size": 3, "hidden_size": 192},
        ),
        "vision_config": (INKLING_VISION, {**INKLING_VISION, "patch_size": 8, "num_hidden_layers": 7}),
        "audio_config": ({"n_mel_bins": 10}, {"mel_vocab_size": 12}),
    },
    "lfm3_vl": {
        "text_config": (LFM3, {**LFM3, "use_attention_gate": False}),
        "vision_config": (
            LFM3_VISION,
            {**LFM3_VISION, "layer_types": ["full_attention", "conv"] * 2, "conv_kernel_size": 5, "in_channels": 1},
        ),
        "projector_hidden_size": (40, 60),
        "projector_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "mistral_large4": {
        "text_config": (
            LARGE4,
            {**LARGE4, "attention_bias": True, "first_k_dense_replace": 2, "kv_source_layers": [0, 1, 1, 0]},
            {**LARGE4, "indexer_types": ["full", "shared"] * 2, "no_rope_layers": [0, 1, 0, 0], "n_shared_experts": 2},
            {**LARGE4, "index_topk_freq": 2, "mlp_layer_types": ["sparse", "dense"] * 2},
        ),
        "vision_config": TOWERS,
        "vision_feature_layer": (-1, [0, 1]),
        "spatial_merge_size": (2, 3),
        **BIASED,
        "tie_word_embeddings": FLAGS,
    },
    "molmo2": {
        "text_config": (MOLMO, {**MOLMO, "qk_norm_type": "olmo", "norm_after": True, "attention_bias": True}),
        "vision_config": (MOLMO_VISION, {**MOLMO_VISION, "attention_bias": False, "num_position_embeddings": 7}),
        "adapter_config": (
            {**MOLMO_ADAPTER, "vision_feature_layer": [1, 0]},
            {**MOLMO_ADAPTER, "vision_feature_layer": [1], "attention_bias": False, "mlp_bias": True},
        ),
    },
    "muse_glimmer": {
        "text_config": (MUSE, {**MUSE, "attention_bias": True, "layer_types": ["full_attention"] * 4}),
        "vision_config": (MUSE_VISION,),
        "out_hidden_size": (20, 28),
        "projector_hidden_size": (30, 40),
    },
    "muse_spark": {
        "text_config": (SPARK, {**SPARK, "mlp_layer_types": ["dense", "sparse"] * 2}),
        "vision_config": (MUSE_VISION,),
        "audio_config": (SPARK_AUDIO, {**SPARK_AUDIO, "mlp_ratio": 2.0, "conv_kernel_size": 5}),
        "out_hidden_size": (20, 28),
        "projector_hidden_size": (30, 40),
    },
    "pi0": {
        "vlm_config": (
            {"model_type": "paligemma", "text_config": ROBOT, "vision_config": TOWERS[1], "projection_dim": 96},
        ),
        "dit_config": ({**ROBOT, "hidden_size": 48, "intermediate_size": 40},),
        "max_state_dim": (5, 6),
        "max_action_dim": (5, 7),
    },
    "pix2struct": {
        "text_config": ({**T5_LIKE, "hidden_size": 48}, {**T5_LIKE, "hidden_size": 96}),
        "vision_config": (PIX_VISION, {**PIX_VISION, "hidden_size": 64}),
        "tie_word_embeddings": FLAGS,
    },
    "pp_formulanet": {
        "text_config": (FORMULA, {**FORMULA, "tie_word_embeddings": True}),
        "vision_config": ({**POST, "mlp_dim": 50}, {**POST, "mlp_dim": 60, "use_abs_pos": False, "qkv_bias": False}),
    },
    "t5gemma2": {
        "encoder": (T5GEMMA2_ENCODER,),
        "decoder": (T5GEMMA2, {**T5GEMMA2, "attention_bias": True, "num_hidden_layers": 3}),
        "tie_word_embeddings": FLAGS,
    },
    "udop": {
        "d_model": (96, 192),
        "d_kv": (8, 24),
        "d_ff": (64, 160),
        "num_layers": (1, 2),
        "num_decoder_layers": (None, 1, 2),
        "num_heads": (3, 6),
        "vocab_size": (97,),
        "relative_attention_num_buckets": (16, 32),
        "relative_bias_args": (None, [{"type": "horizontal"}]),
        "feed_forward_proj": ("relu", "gated-gelu"),
        "max_2d_position_embeddings": (20, 30),
        "patch_size": (8, 16),
        "num_channels": (1, 3),
    },
    "unlimited_ocr": {
        "text_config": (OCR_TEXT, {**OCR_TEXT, "mlp_layer_types": ["sparse"] * 3}),
        "vision_config": ({"sam_config": {**OCR_SAM, "mlp_dim": 50}, "encoder_config": VISION},),
        "tie_word_embeddings": FLAGS,
    },
    "vision-encoder-decoder": {
        "encoder": (
            {**VISION, "model_type": "vit"},
            {**VISION, "model_type": "deit", "qkv_bias": False, "pooler_output_size": 20},
            {**SWIN, "image_size": [32, 16], "use_absolute_embeddings": True},
            {**SWIN, "qkv_bias": False, "mlp_ratio": 2.0},
        ),
        "decoder": DECODERS,
    },
    "aria": {
        "text_config": (ARIA, {**ARIA, "attention_bias": True}),
        "vision_config": TOWERS,
        "projector_patch_to_query_dict": (None, {"16": 5}, {9: 2, 16: 7}),
        "tie_word_embeddings": FLAGS,
    },
    "blip": {
        "text_config": (BLIP_TEXT, {**BLIP_TEXT, "is_decoder": False}, {**BLIP_TEXT, "tie_word_embeddings": False}),
        "vision_config": (VISION,),
        "tie_word_embeddings": FLAGS,
    },
    "blip-2": {
        **BLIP,
        "qformer_config": (
            QFORMER,
            {**QFORMER, "cross_attention_frequency": 1},
            {**QFORMER, "use_qformer_text_input": True},
        ),
    },
    "chameleon": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (1, 2),
        "num_attention_heads": (6, 12),
        "num_key_value_heads": (2, 3),
        "vocab_size": (97,),
        "attention_bias": FLAGS,
        "mlp_bias": FLAGS,
        "swin_norm": FLAGS,
        "tie_word_embeddings": FLAGS,
        "vocabulary_map": ({"<image>": 5},),
        "vq_config": (
            TOKENS,
            {**TOKENS, "double_latent": True, "attn_resolutions": [256]},
            {**TOKENS, "attn_type": "none", "attn_resolutions": [256], "num_res_blocks": 2},
        ),
    },
    "deepseek_vl": DEEPSEEK_VL,
    "deepseek_vl_hybrid": {
        **DEEPSEEK_VL,
        "high_res_vision_config": (SAM, {**SAM, "use_rel_pos": False, "mlp_dim": 50, "qkv_bias": False}),
    },
    "florence2": {
        "text_config": (BART, {**BART, "tie_word_embeddings": False, "d_model": 192}),
        "vision_config": (FLORENCE, {**FLORENCE, "qkv_bias": False, "mlp_ratio": 2.0, "in_channels": 1}),
        "tie_word_embeddings": FLAGS,
    },
    "idefics2": {
        "text_config": TEXTS[:4],
        "vision_config": (VISION,),
        "perceiver_config": (
            {"resampler_n_latents": 5, "resampler_depth": 2},
            {"resampler_n_heads": 4, "resampler_head_dim": 6, "num_key_value_heads": 2},
        ),
        "tie_word_embeddings": FLAGS,
    },
    "idefics3": {
        "text_config": TEXTS,
        "vision_config": (VISION,),
        "scale_factor": (2, 3),
        "tie_word_embeddings": FLAGS,
    },
    "instructblip": BLIP,
    "instructblipvideo": BLIP,
    "internvl": {
        "text_config": TEXTS,
        "vision_config": INTERNVL,
        "downsample_ratio": (0.5, 0.25),
        "tie_word_embeddings": FLAGS,
    },
    "janus": {
        "text_config": TEXTS,
        "vision_config": (
            JANUS,
            {**JANUS, "use_qk_norm": True, "attention_bias": False, "depth": 3, "projection_dim": 40, "mlp_ratio": 2},
        ),
        "vq_config": (TOKENS, {**TOKENS, "num_hidden_layers": 3, "projection_dim": 36, "image_token_embed_dim": 28}),
        "tie_word_embeddings": FLAGS,
    },
    "kosmos-2": {
        "text_config": (KOSMOS, {**KOSMOS, "tie_word_embeddings": False}),
        "vision_config": (VISION,),
        "latent_query_num": (4, 5),
        "tie_word_embeddings": FLAGS,
    },
    "kosmos-2.5": {
        "text_config": (KOSMOS, {**KOSMOS, "tie_word_embeddings": False}),
        "vision_config": (PATCHES,),
        "latent_query_num": (4, 5),
    },
    "lfm2_vl": {
        "text_config": TEXTS,
        "vision_config": TOWERS,
        "projector_hidden_size": (40, 60),
        "projector_bias": FLAGS,
        "projector_use_layernorm": FLAGS,
        "downsample_factor": (1, 2),
        "tie_word_embeddings": FLAGS,
    },
    "lighton_ocr": {
        "text_config": TEXTS,
        "vision_config": TOWERS,
        "spatial_merge_size": (2, 3),
        "tie_word_embeddings": FLAGS,
    },
    "llava": {**LLAVA, **BIASED, "tie_word_embeddings": FLAGS},
    "llava_next": {**LLAVA, **BIASED, "tie_word_embeddings": FLAGS},
    "llava_next_video": {**LLAVA, **BIASED, "tie_word_embeddings": FLAGS},
    "llava_onevision": {**LLAVA, **BIASED, "tie_word_embeddings": FLAGS},
    "mistral3": {
        **LLAVA,
        **BIASED,
        "vision_feature_layer": (-1, [0, 1]),
        "spatial_merge_size": (2, 3),
        "tie_word_embeddings": FLAGS,
    },
    "mistral4": {
        "hidden_size": (96, 192),
        "intermediate_size": (64, 160),
        "num_hidden_layers": (2, 3),
        ("num_attention_heads", "num_key_value_heads"): ((6, 6), (12, 12)),
        "vocab_size": (97,),
        "q_lora_rank": (None, 24),
        "kv_lora_rank": (16, 40),
        "qk_rope_head_dim": (8, 16),
        "qk_nope_head_dim": (12, 24),
        "v_head_dim": (12, 20),
        "n_routed_experts": (4, 8),
        "n_shared_experts": (1, 2),
        "num_experts_per_tok": (2, 3),
        "moe_intermediate_size": (32, 48),
        "first_k_dense_replace": (0, 1, 2),
        "attention_bias": FLAGS,
        "tie_word_embeddings": FLAGS,
    },
    "ovis2": {
        "text_config": TEXTS,
        "vision_config": (
            {**VISION, "vocab_size": 50},
            {**VISION, "vocab_size": 60, "hidden_stride": 2, "qkv_bias": True, "mlp_bias": True},
        ),
        ("hidden_size", "vocab_size"): ((96, 97),),
        "tie_word_embeddings": FLAGS,
    },
    "paligemma": {
        "text_config": (
            {**TEXT, "model_type": "gemma", "head_dim": 16},
            {**TEXT, "model_type": "gemma2", "head_dim": 16, "sliding_window": 8},
        ),
        "vision_config": TOWERS[1:3],
        "projection_dim": (96, 60),
        "tie_word_embeddings": FLAGS,
    },
    "pp_chart2table": {
        "text_config": (TEXT,),
        "vision_config": (SAM, {**SAM, "use_rel_pos": False, "mlp_dim": 50, "qkv_bias": False}),
        "tie_word_embeddings": FLAGS,
    },
    "qianfan_ocr": {"text_config": TEXTS, "vision_config": INTERNVL, "tie_word_embeddings": FLAGS},
    "shieldgemma2": {
        "text_config": (GEMMA3, {**GEMMA3, "num_hidden_layers": 7}),
        "vision_config": TOWERS[1:3],
        "tie_word_embeddings": FLAGS,
    },
    "smolvlm": {
        "text_config": TEXTS,
        "vision_config": (VISION,),
        "scale_factor": (2, 3),
        "tie_word_embeddings": FLAGS,
    },
    "video_llava": {**LLAVA, **BIASED, "vision_feature_layer": (-2,), "tie_word_embeddings": FLAGS},
    "vipllava": {
        "text_config": TEXTS,
        "vision_config": TOWERS,
        "vision_feature_layer": ([-2, 1], [0, 1, 2]),
        "tie_word_embeddings": FLAGS,
    },
}
"""For each model type the keys that are perturbed and the values they are drawn from."""

NEEDED: dict[str, dict[str, Any]] = {
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {"embed_dim": 192, "global_pool": ""},
        }
    },
    "chameleon": {"vocabulary_map": {"<image>": 8711}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", *["sparse"] * 3]},
    "diffusion_gemma_text": {
        "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48, "per_layer_config": {"3": {"head_dim": 512}},
    },
    "granite4_vision": {"deepstack_layer_map": [[1, 0]], "downsample_rate": "4/7"},
    "inkling_vision": {"n_layers": 24},
    "molmo2_adapter": {"vision_feature_layer": [3, 2]},
}  # fmt: skip
"""What a default config lacks that its class cannot be built without."""

GEMMA3N = {
    **TEXT,
    "num_hidden_layers": 5,
    "num_kv_shared_layers": 0,
    "head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 90,
}
PERCEPTION = {"depth": 2, "embed_dim": 192, "global_pool": ""}
TIMM: dict[str, Table] = {
    "fast_vlm": {
        "text_config": TEXTS,
        "vision_config": tuple(
            {
                "model_type": "timm_wrapper",
                "architecture": name,
                "hidden_size": 3072,
                "model_args": {"inference_mode": True},
            }
            for name in ("fastvit_mci3", "fastvit_mci4")
        ),
        **BIASED,
        "tie_word_embeddings": FLAGS,
    },
    "perception_lm": {
        "text_config": TEXTS,
        "vision_config": tuple(
            {"model_type": "timm_wrapper", "architecture": name, "model_args": {**PERCEPTION, **more}}
            for name, more in (
                ("vit_pe_core_tiny_patch16_384", {}),
                ("vit_pe_core_small_patch16_384", {"init_values": 0.1, "use_post_transformer_norm": False}),
                ("vit_pe_core_large_patch14_336", {"img_size": [448, 448], "ref_feat_shape": [32, 32]}),
                ("vit_pe_core_gigantic_patch14_448", {"init_values": 0.1, "class_token": True}),
            )
        ),
        "tie_word_embeddings": (None, *FLAGS),
    },
    "gemma3n": {
        "text_config": (GEMMA3N, {**GEMMA3N, "hidden_size": 192, "altup_num_inputs": 2}),
        "audio_config": (
            {"hidden_size": 48, "conf_num_attention_heads": 4, "conf_num_hidden_layers": 2, "input_feat_size": 30},
            {"hidden_size": 96, "conf_num_hidden_layers": 1, "conf_attention_context_right": 2, "vocab_size": 12},
        ),
        "tie_word_embeddings": FLAGS,
    },
}
"""The same for types that transformers builds with timm alone."""
