"""Which modules are packed, and into what, against transformers' own replacement of modules on the meta device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from building import built, cut

from tonnage import quant
from tonnage.arch.model import Model
from tonnage.families import model_from
from tonnage.formats import storage_format

LLAMA = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 2,
         "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 512}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3_moe": {**LLAMA, "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 128, "decoder_sparse_step": 1, "mlp_only_layers": []},
    "gpt2": {"model_type": "gpt2", "n_embd": 256, "n_layer": 2, "n_head": 4, "vocab_size": 512, "n_positions": 64},
    "gpt_oss": {**LLAMA, "model_type": "gpt_oss", "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
                "intermediate_size": 128},
    "opt-projected": {"model_type": "opt", "hidden_size": 256, "ffn_dim": 512, "num_hidden_layers": 2,
                      "num_attention_heads": 8, "vocab_size": 512, "word_embed_proj_dim": 128,
                      "max_position_embeddings": 64, "do_layer_norm_before": False},
    "falcon": {"model_type": "falcon", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 8,
               "vocab_size": 512},
    "phimoe": {"model_type": "phimoe", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
               "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512, "num_local_experts": 4},
    "bert-masked": {"model_type": "bert", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
                    "num_attention_heads": 8, "vocab_size": 512, "max_position_embeddings": 64,
                    "architectures": ["BertForMaskedLM"]},
}  # fmt: skip

TYPES = ("llama", "falcon", "jamba", "jetmoe", "longcat_flash", "afmoe", "deepseek_v3", "electra", "gpt_oss",
         "gpt_neox", "mamba", "mixtral", "qwen2_moe", "qwen3_next", "xlm", "bert")  # fmt: skip
"""One type for each kind of router, table and naming."""


def ours(model: Model, config: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """Stored tensors: elements and format; those in the model's own format are told as bf16."""
    found = {}
    for _, t, _ in quant.stored(model, quant.recipe(config).but(by_layer=True)):
        if t.role != "buffer" and t.alias_of is None:
            found[t.name] = (t.numel, t.dtype or "bf16")
    return found


def theirs(model: Any) -> dict[str, tuple[int, str]]:
    return {
        name: (math.prod(t.shape), storage_format(str(t.dtype)).name)
        for name, t in (*model.named_parameters(), *model.named_buffers())
        if not name.endswith(("inv_freq", "original_inv_freq", "e_score_correction_bias"))
    }


@pytest.fixture(autouse=True)
def loading():
    """Modules are replaced in the format of the model, as ``from_pretrained`` does."""
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


def small(name: str) -> Any:
    config = MODELS[name]
    made = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16)


@pytest.mark.parametrize("family", TYPES)
def test_linear_modules_are_those_that_transformers_builds(family):
    config = cut(transformers.AutoConfig.for_model(family).to_dict())
    model = model_from(config)
    there = built(config)
    tied = {t.name.removesuffix(".weight") for t in model.tensors() if t.alias_of is not None}
    want = {name for name, module in there.named_modules() if isinstance(module, torch.nn.Linear)}
    have = {m.module for _, _, m in quant.entries(model, by_layer=True) if m is not None and m.linear}
    assert have - tied == want - tied


@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3_moe"])
@pytest.mark.parametrize("block", [[128, 128], None], ids=["block", "tensor"])
def test_fp8(name, block):
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    model = small(name)
    config = {"quant_method": "fp8", "weight_block_size": block}
    settings = transformers.FineGrainedFP8Config(weight_block_size=block)
    replace_with_fp8_linear(model, get_keys_to_not_convert(model), settings, pre_quantized=True)
    assert ours(model_from(MODELS[name]), config) == theirs(model)


@pytest.mark.parametrize("skipped", [["lm_head"], ["model.layers.1.mlp", "q_proj"], [r"model.layers.\d.self_attn"]])
def test_names_are_matched_as_transformers_does(skipped):
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear

    model = small("llama")
    settings = transformers.FineGrainedFP8Config()
    replace_with_fp8_linear(model, skipped, settings, pre_quantized=True)
    config = {"quant_method": "fp8", "modules_to_not_convert": skipped}
    assert ours(model_from(MODELS["llama"]), config) == theirs(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bitnet():
    from transformers.integrations.bitnet import replace_with_bitnet_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    model = small("llama")
    with torch.device("meta"):
        replace_with_bitnet_linear(model, get_keys_to_not_convert(model), transformers.BitNetQuantConfig())
    assert ours(model_from(MODELS["llama"]), {"quant_method": "bitnet"}) == theirs(model)


def test_fbgemm():
    from transformers.integrations.fbgemm_fp8 import FbgemmFp8Linear

    with torch.device("meta"):
        module = FbgemmFp8Linear(256, 640, bias=True)
    m = quant.entries(model_from(MODELS["qwen2"]), by_layer=False)
    assert any(x is not None and x.biased for _, _, x in m)
    own = {k: v for k, v in ours(model_from(MODELS["qwen2"]), {"quant_method": "fbgemm_fp8"}).items()
           if ".layers.0.mlp.gate_proj." in k}  # fmt: skip
    there = {f"model.layers.0.mlp.gate_proj.{k}": v for k, v in theirs(module).items() if k != "bias"}
    assert own == there
    assert theirs(module)["bias"][1] == "fp32"
    bias = ours(model_from(MODELS["qwen2"]), {"quant_method": "fbgemm_fp8"})["model.layers.0.self_attn.q_proj.bias"]
    assert bias == (256, theirs(module)["bias"][1])


def test_eetq():
    from transformers.integrations.eetq import EetqLinear

    with torch.device("meta"):
        module = EetqLinear(256, 640, bias=False)
    own = {k: v for k, v in ours(model_from(MODELS["llama"]), {"quant_method": "eetq"}).items()
           if ".layers.0.mlp.gate_proj." in k}  # fmt: skip
    assert own == {f"model.layers.0.mlp.gate_proj.{k}": v for k, v in theirs(module).items()}


def test_mxfp4():
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts

    config = transformers.AutoConfig.for_model(**MODELS["gpt_oss"])
    with torch.device("meta"):
        module = Mxfp4GptOssExperts(config)
    own = ours(model_from(MODELS["gpt_oss"]), {"quant_method": "mxfp4"})
    path = "model.layers.0.mlp.experts."
    for name in ("gate_up_proj", "down_proj"):
        values = theirs(module)[name]
        assert own[f"{path}{name}_blocks"] == values
        assert own[f"{path}{name}_scales"] == (values[0] * 2 // 32, "uint8")
        assert own[f"{path}{name}_bias"] == theirs(module)[f"{name}_bias"]


@pytest.mark.parametrize("name", list(MODELS))
def test_what_stays_as_it_is_by_default(name):
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    there = small(name)
    kept = get_keys_to_not_convert(there)
    # ``replace_with_bnb_linear``: no class of a model's own.
    taken = {n for n, module in there.named_modules() if type(module) in (torch.nn.Linear, Conv1D)}
    model = model_from(MODELS[name])
    recipe = quant.recipe(quant.called("nf4"), checkpoint=False)
    matrices = {m.module for _, _, m in quant.entries(model, by_layer=True) if m is not None and not m.batch}
    names = {n.rpartition(".")[0] for n in ours(model, quant.called("nf4")) if n.endswith(".absmax")}
    assert recipe.method == "bitsandbytes"
    assert {n.removesuffix(".weight") for n in names} == {
        n for n in matrices if should_convert_module(n, kept) and n in taken
    }
