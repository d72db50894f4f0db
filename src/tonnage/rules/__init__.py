"""The rules of thumb that people start from, each under its own name and computed exactly as its text states it.

Three introductory texts are covered: "Memory requirement of a 1 B parameter model" (rows A), "Parameters and memory
requirements, a deep dive" (B) and "Calculating the memory of large AI models" (C). Where a text contradicts its own
formula the formula counts, and the row tells the erratum. None of this enters an estimate: ``tonnage explain rules``
sets the rules beside what the project itself computes for the same case.
"""

from __future__ import annotations

from tonnage.rules.counting import (
    attention_parameters,
    closed_model_parameters,
    embedding_parameters,
    encoder_decoder_parameters,
    feed_forward_parameters,
    layer_parameters,
    norm_parameters,
    parameters_ratio,
    stack_parameters,
    total_parameters,
)
from tonnage.rules.dimensions import dimensions
from tonnage.rules.rows import CASES, RULES, Rule, rule
from tonnage.rules.sizing import (
    activation_growth,
    adam_bytes,
    device_bytes,
    memory_bytes,
    neuromorphic_bytes,
    parallel_bytes,
    saved_share,
    training_multiple_bytes,
)
from tonnage.rules.storing import quantized_bytes, storing_bytes, training_bytes, weights_bytes
from tonnage.rules.working import (
    activation_bytes,
    checkpointing_saved_bytes,
    compression_saved_bytes,
    distillation_saved_bytes,
    inference_working_bytes,
    mixed_precision_saved_bytes,
    model_bytes,
    parallel_saved_bytes,
    peak_bytes,
    steady_bytes,
    training_working_bytes,
)

__all__ = [
    "CASES",
    "RULES",
    "Rule",
    "activation_bytes",
    "activation_growth",
    "adam_bytes",
    "attention_parameters",
    "checkpointing_saved_bytes",
    "closed_model_parameters",
    "compression_saved_bytes",
    "device_bytes",
    "dimensions",
    "distillation_saved_bytes",
    "embedding_parameters",
    "encoder_decoder_parameters",
    "feed_forward_parameters",
    "inference_working_bytes",
    "layer_parameters",
    "memory_bytes",
    "mixed_precision_saved_bytes",
    "model_bytes",
    "neuromorphic_bytes",
    "norm_parameters",
    "parallel_bytes",
    "parallel_saved_bytes",
    "parameters_ratio",
    "peak_bytes",
    "quantized_bytes",
    "rule",
    "saved_share",
    "stack_parameters",
    "steady_bytes",
    "storing_bytes",
    "total_parameters",
    "training_bytes",
    "training_multiple_bytes",
    "training_working_bytes",
    "weights_bytes",
]
