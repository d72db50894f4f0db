"""Ways of fine-tuning that peft has no rank for: its own modules, traced, against the closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from test_trace_against_the_closed_form import SHAPE, compared
from tracing_cases import CONFIGS

peft = pytest.importorskip("peft")

PROMPT = {"adapter": "prompt", "virtual_tokens": 20}
ENCODER = {"adapter": "p-tuning", "virtual_tokens": 20, "encoder_hidden": 128}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("said", [{}, {"batch": 1}, {"recompute": "full"}], ids=["plain", "one sequence", "recomputed"])
@pytest.mark.parametrize("adapter", [PROMPT, ENCODER], ids=["prompt", "p-tuning"])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_trained_tokens_are_what_peft_makes_of_them(
    family: str, adapter: dict[str, Any], said: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracing_cases

    from tonnage.tracing import tuning

    tokens = adapter["virtual_tokens"]
    config = (
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
        if adapter is PROMPT
        else peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_hidden_size=128)
    )
    plain = tracing_cases.traced

    def traced(model: dict[str, Any], **asked: Any) -> Any:
        # The tracer puts LoRA into a model; here, what peft makes of this config stands for it.
        rest = {key: value for key, value in asked.items() if key not in adapter}
        return plain(model, layers="all", lora_rank=1, lora_targets=["q_proj"], **rest)

    monkeypatch.setattr(tuning, "tuned", lambda model, job: peft.get_peft_model(model, config))
    monkeypatch.setattr(tracing_cases, "traced", traced)
    compared(CONFIGS[family], SHAPE | said | adapter, monkeypatch)


TARGETS = ["q_proj", "k_proj", "down_proj", "up_proj"]
HEAD = ["q_proj", "lm_head"]
OURS = ("adapter", "adapter_options", "lora_rank", "lora_targets", "virtual_tokens", "encoder_hidden")
"""What stands in a config of peft instead."""
PREFIX = {"adapter": "prefix", "virtual_tokens": 20}
PROJECTED = PREFIX | {"encoder_hidden": 48}
PREFIXED: dict[str, dict[str, Any]] = {
    "plain": {},
    "one sequence": {"batch": 1, "seq": 77},
    "eager": {"attention": "eager"},
    "mixed": {"precision": "bf16-mixed"},
    "autocast": {"precision": "bf16-autocast", "dtype": "bf16"},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", PREFIXED)
@pytest.mark.parametrize("adapter", [PREFIX, PROJECTED], ids=["prefix", "projected"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "opt", "falcon", "mistral", "codegen"])
def test_trained_keys_and_values_are_what_peft_makes_of_them(
    family: str, adapter: dict[str, Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of a step, and its three highest points."""
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=20, prefix_projection=adapter is PROJECTED,
        encoder_hidden_size=adapter.get("encoder_hidden"),
    )  # fmt: skip
    said = SHAPE | PREFIXED[setting] | adapter
    same_parts(CONFIGS[family], config, said, monkeypatch)


VIRTUAL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "prompt": ("PromptTuningConfig", {}, PROMPT),
    "p-tuning": ("PromptEncoderConfig", {"encoder_hidden_size": 128}, ENCODER),
    "prefix": ("PrefixTuningConfig", {}, PREFIX),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", VIRTUAL)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_trained_tokens_before_padded_texts(family: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask in the batch, whose own bytes an answer leaves to the data collator."""
    import torch
    import transformers
    from trl_losses import _hides

    name, settings, asked = VIRTUAL[way]
    config = getattr(peft, name)(task_type="CAUSAL_LM", num_virtual_tokens=20, **settings)
    plain = adapted

    def masked(model: Any, config: Any) -> Any:
        made = plain(model, config)
        forward = made.forward
        masks: list[torch.Tensor] = []

        def with_mask(input_ids: torch.Tensor, **rest: Any) -> Any:
            transformers.masking_utils.fast_all = _hides
            if not masks:
                masks.append(torch.ones_like(input_ids))
            return forward(input_ids=input_ids, attention_mask=masks[0], **rest)

        made.forward = with_mask
        return made

    monkeypatch.setitem(globals(), "adapted", masked)
    same_parts(CONFIGS[family], config, SHAPE | asked, monkeypatch, padded=8 * SHAPE["batch"] * SHAPE["seq"])


METHODS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 8}, {"lora_rank": 8}),
    **dict.fromkeys(
        ("rows", "rows, tied"),
        (
            "TrainableTokensConfig",
            {"token_indices": list(range(10)), "target_modules": None},
            {"adapter": "trainable-tokens", "adapter_options": "token_indices=10", "lora_targets": []},
        ),
    ),
    **dict.fromkeys(
        ("lora and rows", "lora and rows, tied"),
        (
            "LoraConfig",
            {"r": 8, "trainable_token_indices": list(range(10))},
            {"lora_rank": 8, "adapter_options": "trainable_token_indices=10"},
        ),
    ),
    **{
        name: (
            "AdaptionPromptConfig",
            {"adapter_len": 10, "adapter_layers": n, "target_modules": None},
            {
                "adapter": "adaption-prompt", "lora_targets": [],
                "adapter_options": f"adapter_len=10,adapter_layers={n}",
            },
        )
        for name, n in (("prompts", 2), ("prompts everywhere", 3), ("prompts of mistral", 2))
    },
    "vblora": (
        "VBLoRAConfig",
        {"r": 4, "num_vectors": 30, "vector_length": 32},
        {"adapter": "vblora", "adapter_options": "num_vectors=30,vector_length=32"},
    ),
    "unilora": ("UniLoraConfig", {"r": 4}, {"adapter": "unilora"}),
    "lily": ("LilyConfig", {"r": 4}, {"adapter": "lily", "lora_rank": 4}),
    "lily of three": (
        "LilyConfig",
        {"r": 5, "num_B": 3},
        {"adapter": "lily", "lora_rank": 5, "adapter_options": "num_B=3"},
    ),
    "tinylora": ("TinyLoraConfig", {"r": 2}, {"adapter": "tinylora"}),
    "oft": ("OFTConfig", {"oft_block_size": 32}, {"adapter": "oft"}),
    "oft, one block, solved": (
        "OFTConfig",
        {"oft_block_size": 20, "block_share": True, "use_cayley_neumann": False},
        {"adapter": "oft", "adapter_options": "oft_block_size=20,block_share=true,use_cayley_neumann=false"},
    ),
    "boft": ("BOFTConfig", {"boft_block_size": 8}, {"adapter": "boft", "adapter_options": "boft_block_size=8"}),
    "hra": ("HRAConfig", {"r": 3}, {"adapter": "hra", "lora_rank": 3}),
    "osf": ("OSFConfig", {}, {"adapter": "osf"}),
    "osf but for 100": (
        "OSFConfig",
        {"effective_rank": 100},
        {"adapter": "osf", "adapter_options": "effective_rank=100"},
    ),
    **dict.fromkeys(
        ("lora of the head", "lora of a tied head"),
        ("LoraConfig", {"r": 8, "target_modules": HEAD}, {"lora_rank": 8, "lora_targets": HEAD}),
    ),
    "loha": ("LoHaConfig", {"r": 8}, {"adapter": "loha"}),
    "lokr": ("LoKrConfig", {"r": 4}, {"adapter": "lokr", "lora_rank": 4}),
    "lokr of both": (
        "LoKrConfig",
        {"r": 4, "decompose_both": True},
        {"adapter": "lokr", "lora_rank": 4, "adapter_options": "decompose_both=true"},
    ),
    "lokr by 4": (
        "LoKrConfig",
        {"r": 400, "decompose_factor": 4},
        {"adapter": "lokr", "lora_rank": 400, "adapter_options": "decompose_factor=4"},
    ),
    "hira": ("HiraConfig", {"r": 8}, {"adapter": "hira", "lora_rank": 8}),
    "fourierft": (
        "FourierFTConfig",
        {"n_frequency": 300},
        {"adapter": "fourierft", "adapter_options": "n_frequency=300"},
    ),
    "waveft": (
        "WaveFTConfig",
        {"n_frequency": 300, "use_idwt": False},
        {"adapter": "waveft", "adapter_options": "n_frequency=300,use_idwt=false"},
    ),
    "randlora": ("RandLoraConfig", {"r": 8}, {"adapter": "randlora", "lora_rank": 8}),
    "miss": ("MissConfig", {"r": 64}, {"adapter": "miss"}),
    "miss, padded": ("MissConfig", {"r": 50}, {"adapter": "miss", "lora_rank": 50}),
    "beft": ("BeftConfig", {}, {"adapter": "beft"}),
    "road": ("RoadConfig", {"group_size": 32}, {"adapter": "road", "adapter_options": "group_size=32"}),
    "road 2": (
        "RoadConfig",
        {"group_size": 32, "variant": "road_2"},
        {"adapter": "road", "adapter_options": "group_size=32,variant=road_2"},
    ),
    "c3a": ("C3AConfig", {"block_size": 32}, {"adapter": "c3a", "adapter_options": "block_size=32"}),
}  # fmt: skip
"""peft's config, and what tonnage is asked."""
OTHERS = {
    **dict.fromkeys(("hra", "boft", "beft"), "qwen2"),
    **dict.fromkeys(("lora of a tied head", "rows, tied", "lora and rows, tied"), "gemma2"),
    "prompts of mistral": "mistral",
}
"""Families with biases, or a tied head; llama else."""
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one sequence": {"batch": 1, "seq": 77},
    "recomputed": {"recompute": "full"},
    "mixed": {"precision": "bf16-mixed"},
    "autocast": {"precision": "bf16-autocast", "dtype": "bf16"},
}


class _Never:
    """A probability that no draw is below: LyCORIS' adapters draw a number that has no data here."""

    def __lt__(self, other: object) -> bool:
        return True


def adapted(model: Any, config: Any) -> Any:
    """What peft makes of a model, whose hooks outlive the move to another device."""
    made = peft.get_peft_model(model, config)
    for module in made.modules():
        if hasattr(module, "vblora_logits_A"):
            # In training it looks for infinite logits, which here have no data.
            type(module).training = property(lambda self: False, lambda self, value: None)
        if isinstance(getattr(module, "module_dropout", None), dict):
            module.module_dropout = dict.fromkeys(module.module_dropout, _Never())
        if hasattr(module, "osf_svd_params"):
            module.register_forward_pre_hook(_hooked)
    return made


def _hooked(module: Any, args: Any) -> None:
    if not module.__dict__.get("hooked"):
        module.__dict__["hooked"] = True
        module._attach_hooks("default")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("method", METHODS)
def test_every_part_of_a_step_is_what_peft_makes_of_it(
    method: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained parameters, and the most that tensors take in each layer's passes and the optimizer's step."""
    name, settings, asked = METHODS[method]
    config = getattr(peft, name)(**{"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings)
    family = OTHERS.get(method, "llama")
    same_parts(CONFIGS[family], config, SHAPE | {"lora_targets": TARGETS} | asked | SETTINGS[setting], monkeypatch)


PACKED = (
    "rows", "oft", "fourierft", "waveft", "miss", "beft", "c3a", "vblora", "lily", "lora and rows",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", ["plain", "recomputed", "autocast"])
@pytest.mark.parametrize("method", PACKED)
def test_every_part_of_a_step_beside_packed_weights(method: str, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings, asked = METHODS[method]
    config = getattr(peft, name)(**{"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings)
    said = SHAPE | {"lora_targets": TARGETS} | asked | SETTINGS[setting] | {"quant": "nf4"}
    same_parts(CONFIGS[OTHERS.get(method, "llama")], config, said, monkeypatch)


def same_parts(
    shape: dict[str, Any],
    config: Any,
    said: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    *,
    padded: int = 0,
    cast: Callable[[Any], None] = lambda model: None,
) -> None:
    """Every part of a step takes the same at its most; ``config`` is peft's, None where the whole model is trained.

    ``cast`` is done to the model that is packed, before peft takes it.
    """
    from tracing_cases import most_by_part, traced, traced_by_part

    import tonnage as tn
    from tonnage.tracing import bitsandbytes as packing
    from tonnage.tracing import tuning
    from tonnage.tracing.levels import levels
    from tonnage.tracing.models import DTYPES

    most = most_by_part(monkeypatch)
    result = tn.train({"config": shape}, suggest=False, replay=False, padded=bool(padded), **said)

    def tuned(model: Any, job: Any) -> Any:
        if job.get("nf4"):
            packing.install()
            packing.pack(model, DTYPES[job["nf4"]], nested=False)
        cast(model)
        return adapted(model, config)

    rest = {k: v for k, v in said.items() if k not in OURS}
    if config is not None:
        monkeypatch.setattr(tuning, "tuned", tuned)
        rest |= {"lora_rank": 1, "lora_targets": ["q_proj"]}
    found = levels(traced(shape, layers="all", **rest))
    got = traced_by_part(found)
    assert found.traced.told["trainable"] == result.model["trainable_parameters"]
    # Position ids belong to what stands before the layers in a trace, and to the layers here.
    shared = [name for name in got if name in most and name != "forward embedding"]
    layers = next(shape[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in shape)
    frozen = sum(f"backward layer {i}" not in got for i in range(layers))
    assert len(shared) >= 2 * layers + 3 - frozen
    assert {name: most[name] + padded for name in shared} == {name: got[name] for name in shared}
