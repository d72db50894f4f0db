"""Models that vLLM embeds, scores or classifies with: what is loaded, what the profile run makes, their step."""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn

ROBERTA = {
    "model_type": "xlm-roberta", "vocab_size": 250002, "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1,
    "torch_dtype": "float32",
}  # fmt: skip
QWEN = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 28,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
    "vocab_size": 151669, "max_position_embeddings": 32768, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512,
}  # fmt: skip


def serve(config: dict[str, Any], **said: Any) -> Any:
    said = {"engine": "vllm", "gpu": "l4", "suggest": False, **said}
    return tn.serve({"config": config, "name": "it"}, **said)


def size(found: Any, name: str) -> int:
    return sum(c.bytes for c in found.components if c.name == name)


def test_a_cross_encoder_keeps_its_classifier_and_takes_a_prompt_whole() -> None:
    # bge-reranker-v2-m3: 567,755,777 parameters as its checkpoint counts them, and the dense layer beside the pooler's.
    config = {**ROBERTA, "architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    found = serve(config)
    assert found.workload["runner"] == "pooling"
    assert found.workload["max_num_batched_tokens"] == 8192
    assert size(found, "weights") == 2 * 567_867_456
    # Bidirectional attention keeps nothing: no pool, and no lines about one.
    assert size(found, "kv_cache") == 0
    assert found.fit.verdict == "fits"
    # The block inside, before and after its activation, beside its input and the residual stream; what the run leaves.
    assert size(found, "activations") == 8192 * (2 * 4096 + 2 * 1024) * 2 + 12 * 2**20


@pytest.mark.parametrize("said", [{"runner": "pooling"}, {}])
def test_a_language_model_that_embeds_has_no_head_and_no_sampler(said: dict[str, Any]) -> None:
    found = serve(QWEN, context=8192, **said)
    # The engine pads its head to 64 rows.
    head = 151_680 * 1024 * 2
    whole = serve(QWEN, context=8192, runner="generate")
    assert size(whole, "weights") - size(found, "weights") == (head if said else 0)
    assert (found.fullest.peak.name == "forward pass of the profile run") == bool(said)
    assert size(found, "other:sampler state") == (0 if said else size(whole, "other:sampler state"))
    # Attention is causal, so that prompts may be cut and a pool is there.
    assert found.workload["max_num_batched_tokens"] == 2048
    assert size(found, "kv_cache") > 0


def test_a_masked_head_is_run_for_every_token_from_0_26_on() -> None:
    # bert.py of 0.26 and later: forward gives logits of all tokens, and the decoder has a copy of the embedding.
    before, after = (serve(BERT, engine_version=v) for v in ("0.25", "0.26"))
    assert size(after, "weights") - size(before, "weights") > 30_522 * 768 * 2
    assert after.fullest.peak.name == "pooler of the profile run"
    assert before.fullest.peak.name == "forward pass of the profile run"


def test_a_model_that_reads_does_not_write() -> None:
    with pytest.raises(tn.InputError, match="does not support `--runner generate`"):
        serve(BERT, runner="generate")


@pytest.mark.parametrize(
    ("flags", "runner"),
    [
        ("--runner pooling", "pooling"), ("--task embed", "pooling"), ("--task score", "pooling"),
        ("--convert classify", "pooling"), ("--task generate", "generate"), ("--task auto --runner auto", None),
    ],
)  # fmt: skip
def test_flags_of_three_generations_say_the_same(flags: str, runner: str | None) -> None:
    from tonnage.launch import read

    found = read(f"vllm serve org/name {flags}")
    assert found.said.get("runner") == runner
    assert not found.unmodelled


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--task sing", "--task sing: one of auto, generate"),
        ("--task embed --runner generate", "--runner generate and a task of the pooling runner"),
    ],
)
def test_tasks_that_are_unknown_or_contradict_are_refused(flags: str, words: str) -> None:
    from tonnage.launch import read

    with pytest.raises(tn.InputError, match=words):
        read(f"vllm serve org/name {flags}")


def test_sglang_had_no_cross_encoders_in_0_4_7() -> None:
    # sgl-project/sglang pull request 6058, a comment on 0.4.7.
    config = {**ROBERTA, "architectures": ["XLMRobertaForSequenceClassification"]}
    with pytest.raises(tn.UnsupportedError, match=r"sglang 0\.4\.7 does not serve XLMRobertaForSequenceClassification"):
        serve(config, engine="sglang", engine_version="0.4.7")
