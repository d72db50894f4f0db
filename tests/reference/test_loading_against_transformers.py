"""What ``from_pretrained`` allocates first, and in which order it loads, by transformers' own functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.core_model_loading import dot_natural_key
from transformers.modeling_utils import get_total_byte_count
from transformers.quantizers.auto import AutoHfQuantizer

import tonnage as tn
from tonnage.estimate import stream
from tonnage.estimate.loading import items, key, warmed

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 12,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 3000, "tie_word_embeddings": False,
    },
    "qwen2": {
        "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 3000, "tie_word_embeddings": True,
    },
}  # fmt: skip


def real(config: dict[str, Any], *, packs: bool) -> tuple[Any, Any]:
    """The model without data, as it is when the first block is allocated, and its quantizer."""
    said = {k: v for k, v in config.items() if k != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **said), dtype=torch.bfloat16
        )
    if not packs:
        return model, None
    asked = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantizer = AutoHfQuantizer.from_config(asked, pre_quantized=False)
    quantizer._process_model_before_weight_loading(model, device_map={"": "cuda"})
    return model, quantizer


@pytest.mark.parametrize("packs", [True, False], ids=["nf4", "bf16"])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_first_block_and_the_order(monkeypatch: pytest.MonkeyPatch, name: str, packs: bool) -> None:
    seen: list[Any] = []
    own = stream.replayed
    monkeypatch.setattr(stream, "replayed", lambda *a: seen.append(a) or own(*a))
    said: dict[str, Any] = {"lora_rank": 8, "precision": "bf16", "dtype": "bf16", "stack_version": "5.23"}
    said |= (
        {"quant": "nf4", "kbit_prepared": True}
        if packs
        else {
            "stack": "llama-factory",
            "stack_version": None,
            "recompute": "none",
            "lora_targets": ["q_proj", "v_proj"],
        }
    )
    answer = tn.train(tn.load({"config": CONFIGS[name]}), seq=64, replay=True, suggest=False, **said)
    step, _, loading, _ = seen[-1]
    assert (loading.placed, loading.packs) == (True, packs)
    found = items(step, loading)

    model, quantizer = real(CONFIGS[name], packs=packs)
    names = list(model.state_dict())
    device = torch.device("cuda")
    counted = get_total_byte_count(model, dict.fromkeys(names, device), quantizer)
    assert warmed(found, loading) == int(counted[device])
    load = answer.ranks[0].instants[0]
    assert load.name == "load"
    assert load.bytes >= int(counted[device])

    tied = set(model.all_tied_weights_keys)
    ours = sorted((i.name for i in found if not i.buffer), key=key)
    assert ours == sorted((n for n in names if n not in tied), key=dot_natural_key)
