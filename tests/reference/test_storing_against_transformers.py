"""What ``save_pretrained`` and ``torch.save`` write, against files written here and names that transformers writes."""

from __future__ import annotations

import os

import pytest
import torch
import transformers
from building import built, cut

from tonnage.families import model_from
from tonnage.formats import FORMATS
from tonnage.memory.store.checkpoints import optimizer_bytes, parameters
from tonnage.memory.store.files import plain
from tonnage.memory.store.storing import RENAMED, STACKED, index_bytes, saved, split, written
from tonnage.memory.store.ways import subject

TYPES = (
    "llama", "gpt2", "gpt_neox", "gpt_neo", "bert", "bart", "t5", "opt", "falcon", "bloom", "mamba", "falcon_mamba",
    "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text", "granitemoe", "gemma2", "gemma3_text",
    "phi3", "xglm", "ctrl", "jamba", "olmoe", "qwen3_next", "minimax", "m2m_100",
)  # fmt: skip
"""One type for each kind of naming, of tables that are not saved, and of storing experts."""
SMALL = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 101,
}  # fmt: skip


def their_tensors(model):
    """Names and shapes as ``save_pretrained`` writes them."""
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    for key in (*(model._keys_to_ignore_on_save or ()), *model.all_tied_weights_keys):
        state.pop(key, None)
    return {name: tuple(t.shape) for name, t in revert_weight_conversion(model, state).items()}


@pytest.mark.parametrize("family", TYPES)
def test_files_hold_these_tensors(family):
    config = cut(transformers.AutoConfig.for_model(family).to_dict())
    model = model_from(config)
    theirs = their_tensors(built(config))
    ours = {t.name: t.shape for t in written(model, FORMATS["fp32"])}
    assert sum(torch.Size(s).numel() for s in ours.values()) == sum(torch.Size(s).numel() for s in theirs.values())
    if family not in RENAMED:
        assert ours == theirs
    if family in STACKED:
        assert len(ours) == len(theirs)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_to_the_byte(tmp_path, tied, dtype):
    config = {**SMALL, "tie_word_embeddings": tied}
    kept = {k: v for k, v in config.items() if k != "model_type"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**kept)).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    form = {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    way = plain(subject(model_from(config), FORMATS[form]), form)
    assert way.trust == "exact"
    assert way.total("disk") == os.path.getsize(tmp_path / "model.safetensors")


def test_an_index_to_the_byte(tmp_path):
    kept = {k: v for k, v in SMALL.items() if k != "model_type"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**kept))
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    ours = model_from(SMALL)
    files = split(saved(ours, FORMATS["fp32"]), 200_000)
    assert index_bytes(files, ours.parameters.total) == os.path.getsize(tmp_path / "model.safetensors.index.json")
    assert len(files) == len(list(tmp_path.glob("*.safetensors")))


def test_the_state_of_a_real_optimizer(tmp_path):
    kept = {k: v for k, v in SMALL.items() if k != "model_type"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**kept)).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.zeros(1, 2, dtype=torch.long)
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    size = os.path.getsize(tmp_path / "optimizer.pt")
    assert optimizer_bytes(parameters(subject(model_from(SMALL), FORMATS["bf16"]))) == pytest.approx(size, rel=1e-3)
