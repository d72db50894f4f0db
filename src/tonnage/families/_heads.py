"""Which class of a family is counted: with its language-model head, bare, or with a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from tonnage.arch.ends import Head
from tonnage.arch.model import Model
from tonnage.errors import ConfigError, InputError, UnsupportedError

SUFFIXES: Final = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "WithLMHead": "causal",
    "ForMaskedLM": "masked",
    "ForConditionalGeneration": "conditional",
    "ForTextToText": "conditional",
    "ForVisionText2Text": "conditional",
    "ForProteinText2Text": "conditional",
    "ForBlockDiffusion": "conditional",
    "ForSpeechToText": "conditional",
    "ForTextToSpeech": "conditional",
    "ForSpeechToSpeech": "conditional",
    "FSMTModel": "none",
    "MTModel": "conditional",
    "Omni_Reasoning_V3": "conditional",
    "GenerationDecoder": "causal",
    "ForSequenceClassification": "classify",
    "EncoderDecoderModel": "conditional",
    "EncoderModel": "",
    "Model": "none",
}
"""Endings of class names, longest first; an empty one is refused by name.

``conditional`` is the sequence-to-sequence class where a family has one, and else the family's own (a language model
with towers for images or sound).
"""

SCORED: Final = frozenset((
    "arcee", "axk1", "axk2", "deepseek_v2", "deepseek_v3", "diffllama", "doge", "exaone4", "gemma", "gemma2",
    "gemma3_text", "glm", "glm4", "gpt_oss", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "jetmoe", "llama", "minicpm3", "minimax",
    "ministral", "ministral3", "mistral", "mistral4", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "persimmon",
    "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5", "qwen3_moe", "qwen3_next", "seed_oss",
    "smollm3", "stablelm", "starcoder2",
))  # fmt: skip
"""Types whose classifier scores every token and takes the last that is no padding
(https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/modeling_layers.py,
GenericForSequenceClassification)."""

CLASSIFIED: Final = frozenset((
    "albert", "arcee", "axk1", "axk2", "bart", "bert", "big_bird", "bigbird_pegasus", "biogpt", "bloom", "camembert",
    "canine", "cohere_compass_text", "convbert", "ctrl", "data2vec-text", "deberta", "deberta-v2", "deepseek_v2",
    "deepseek_v3", "diffllama", "distilbert", "doge", "electra", "ernie", "esm", "esmc", "eurobert", "exaone4",
    "falcon", "flaubert", "fnet", "funnel", "gemma", "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "gpt-sw3",
    "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "gte", "helium", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "ibert", "jamba", "jetmoe", "jina_embeddings_v3", "layoutlm", "layoutlmv2", "layoutlmv3", "lilt",
    "llama", "longformer", "luke", "markuplm", "mbart", "megatron-bert", "minicpm3", "minimax", "ministral",
    "ministral3", "mistral", "mistral4", "mixtral", "mobilebert", "modernbert", "modernbert-decoder", "modernvbert",
    "mpnet", "mpt", "mra", "mvp", "nemotron", "nomic_bert", "nystromformer", "olmo", "olmo2", "olmo3", "openai-gpt",
    "opt", "perceiver", "persimmon", "phi", "phi3", "phimoe", "plbart", "qwen2", "qwen2_moe", "qwen3", "qwen3_5",
    "qwen3_5_text", "qwen3_moe", "qwen3_next", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert",
    "roformer", "seed_oss", "smollm3", "squeezebert", "stablelm", "starcoder2", "t5gemma", "t5gemma2", "tapas",
    "ultrabert", "ultravbert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso", "zamba", "zamba2",
))  # fmt: skip
"""Types with a classifier of sequences, but for T5's, whose head is not modelled
(https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/models/auto/modeling_auto.py,
MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)."""

UNBARE: Final = frozenset((
    "blip", "blip-2", "encoder-decoder", "gemma4_assistant", "gemma4_unified_assistant", "instructblip",
    "instructblipvideo", "kosmos-2", "kosmos-2.5", "kyutai_speech_to_text", "musicgen", "musicgen_melody",
    "nemo_speechlm", "nemotron_h_omni", "pi0", "pix2struct", "pop2piano", "pp_chart2table", "pp_formulanet",
    "qwen2_5_omni", "qwen3_omni_moe", "shieldgemma2", "speech-encoder-decoder", "trocr", "udop",
    "vision-encoder-decoder",
))  # fmt: skip
"""Types without a bare class, or with one that is more than the class without its head and is not modelled."""

KINDS: Final = ("causal", "masked", "seq2seq", "none", "classify")


def wanted(config: Mapping[str, Any], asked: str | None, *, file: str | None) -> tuple[str | None, int]:
    """The head that is asked for or that the config's class has, and a classifier's labels.

    None where neither says anything: then it is the family's own.
    """
    labels = _labels(config)
    if asked is not None:
        kind, _, number = asked.partition(":")
        if kind not in KINDS or (number and kind != "classify") or (number and not _counts(number)):
            raise InputError(
                f"head is one of {', '.join(KINDS[:-1])}, classify:N, not {asked!r}", key="head", value=asked
            )
        return kind, int(number) if number else labels
    classes = config.get("architectures")
    if not classes:
        return None, labels
    if not isinstance(classes, list) or not isinstance(classes[0], str) or not classes[0]:
        raise ConfigError("architectures must be a list of class names", key="architectures", value=classes, file=file)
    for ending, kind in SUFFIXES.items():
        if classes[0].endswith(ending):
            if kind:
                return kind, labels
            break
    raise UnsupportedError(
        f"the class {classes[0]} is not modelled",
        key="architectures",
        value=classes[0],
        file=file,
        hint=f"--head {'|'.join(KINDS[:-1])}|classify:N counts another class of this model",
    )


def _counts(number: str) -> bool:
    """Whether it is a number of labels."""
    return number.isdecimal() and len(number) < 10 and int(number) > 0


def _labels(config: Mapping[str, Any]) -> int:
    names, number = config.get("id2label"), config.get("num_labels")
    if isinstance(names, Mapping) and names:
        return len(names)
    return number if isinstance(number, int) and number > 0 else 2


def own(model: Model) -> str:
    """The head that a family's model is built with."""
    if model.head is None:
        return "none"
    return "causal" if model.causal else "seq2seq" if len(model.stacks) > 1 else "masked"


def with_head(model: Model, model_type: str, kind: str | None, labels: int) -> Model:
    """The same model under another of its family's classes."""
    if kind is None and model.head is None:
        # The bare class is the family's own (LayoutLMv3).
        kind = "none"
    if model.head is not None and kind in (None, "conditional", own(model)):
        return model
    if kind == "none" and model_type not in UNBARE:
        return model.but(head=None, extra=model.extra + model.pooler)
    if kind == "classify" and model_type not in CLASSIFIED:
        raise UnsupportedError(
            f"{model_type} has no classifier of sequences that is modelled", key="head", value=kind,
            hint=f"its own is {own(model)!r}",
        )  # fmt: skip
    if kind == "classify" and model.classifier is not None:
        return model.but(head=model.classifier.but(V=labels), classes=labels)
    if kind == "classify" and len(model.stacks) == 1:
        name = "score" if model.causal else "classifier"
        pooled: Literal["", "last"] = "last" if model.causal and model.model_type in SCORED else ""
        head = Head(name=name, D=model.width, V=labels, bias=not model.causal, pooled=pooled)
        return model.but(head=head, extra=model.extra + model.pooler, classes=labels)
    if kind == "causal" and model.head is not None and len(model.stacks) == 1:
        # An encoder's causal class (BertLMHeadModel) holds the same tensors.
        return model.but(causal=True)
    raise UnsupportedError(
        f"{model.model_type} has no class with the head {kind!r} that is modelled", key="head", value=kind,
        hint=f"its own is {own(model)!r}",
    )  # fmt: skip
