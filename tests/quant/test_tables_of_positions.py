"""A tower's table of positions is an ``nn.Embedding``: no scheme packs it, and nothing adapts it."""

import pytest

import tonnage as tn
from tonnage.quant._stored import entries


@pytest.mark.parametrize(
    ("model", "table", "beside"),
    [
        ("qwen3-vl-4b", "model.visual.pos_embed", "model.visual.blocks.0.attn.qkv"),
        (
            "gemma-3-4b",
            "model.vision_tower.embeddings.position_embedding",
            "model.vision_tower.encoder.layers.0.mlp.fc1",
        ),
        ("voxtral-mini-3b", "model.audio_tower.embed_positions", "model.audio_tower.layers.0.fc1"),
    ],
)
def test_a_table_of_positions_is_no_matrix(model: str, table: str, beside: str) -> None:
    found = {t.name.removesuffix(".weight"): m for _, t, m in entries(tn.load(model), by_layer=False)}
    assert found[table] is None
    assert found[beside] is not None
