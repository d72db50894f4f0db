"""Causal language models of transformers: what the table of all of them says, traced again for some."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
TABLE: dict[str, Any] = json.loads((ROOT / "accuracy" / "traced_types.json").read_text())
TRACED = [row for row in TABLE["rows"] if row["traced"]]


def test_most_types_can_be_traced() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert {row["model_type"] for row in TABLE["rows"]} == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert len(TRACED) >= 155
    assert all(row["why"] for row in TABLE["rows"] if not row["traced"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TRACED[3::12], ids=lambda row: row["model_type"])
def test_a_type_is_traced_as_the_table_says(row: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    sys.modules.pop("trace_types", None)
    import trace_types

    found = trace_types.row(row["model_type"])
    assert {key: value for key, value in found.items() if key != "seconds"} == {
        key: value for key, value in row.items() if key != "seconds"
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["xlnet", "xlstm"])
def test_what_is_refused_in_bf16_fails_with_data_as_well(kind: str) -> None:
    import torch
    import transformers

    sizes = {
        "xlnet": {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 64},
        "xlstm": {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 4},
    }[kind]
    config = transformers.AutoConfig.for_model(kind, vocab_size=100, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    ids = torch.randint(3, 90, (1, 64))
    with pytest.raises(RuntimeError):
        model(input_ids=ids, labels=ids).loss.backward()
    assert not next(row for row in TABLE["rows"] if row["model_type"] == kind)["traced"]
