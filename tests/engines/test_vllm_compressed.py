"""DeepSeek-V4 in vLLM: five tables of windows, entries of many tokens and what waits for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage.memory.pool.packed import packed, packed_bytes
from tonnage.memory.pool.pages import Page

CONFIG = json.loads((Path(__file__).parents[1] / "families/data/deepseek_v4.json").read_text())["config"]
# DeepSeek-V4-Flash: 43 layers, of which two keep windows alone, 21 entries of 4 tokens and 20 of 128.
FLASH = {
    "config": {
        **{k: v for k, v in CONFIG.items() if k not in ("layer_types", "compress_rates")},
        "compress_ratios": [0, 0, *(4 if i % 2 == 0 else 128 for i in range(41))],
    },
    "name": "deepseek-v4-flash",
}


def serve(**said: Any) -> Any:
    return tn.serve(FLASH, engine="vllm", gpu="h100-sxm-80gb", tp=2, suggest=False, **said)


@pytest.mark.parametrize(("context", "needed"), [(30_000, "6.66"), (13_528, "5.44")])
def test_a_request_needs_what_the_engine_says(context: int, needed: str) -> None:
    # https://github.com/vllm-project/vllm/issues/44376: 0.22 on two GH200, 16,384 tokens a step (as a library), pages
    # of 256 tokens: 6.66 GiB for 30,000 tokens, and 13,528 is the longest that 5.44 GiB hold.
    found = serve(engine_version="0.22", context=context, max_num_batched_tokens=16_384, kv_cache_memory="5.435GiB")
    assert f"({needed} GiB KV cache is needed" in found.capacity["log"][-1]


def test_pages_are_aligned_to_576_bytes_and_grouped_by_their_tokens() -> None:
    entry, sparse, index = (Page("entries", 256, token, padded=size, rate=rate) for token, size, rate in
                            ((584, 65 * 576, 4), (584, 3 * 576, 128), (132, 15 * 576, 4)))  # fmt: skip
    window = Page("sliding", 64, 584, window=128, padded=65 * 576)
    waiting = [Page("sliding", 4, 8192, window=8, padded=57 * 576), Page("sliding", 4, 2048, window=8, padded=15 * 576)]
    slow = Page("sliding", 8, 4096, window=128, padded=57 * 576)
    pages = [*[window] * 43, *[entry, *waiting, index] * 21, *[sparse, slow] * 20]
    groups = packed(pages)
    # "same 5-group hybrid layout": https://github.com/vllm-project/vllm/issues/51041.
    assert [len(g.layers) for g in groups] == [62, 22, 21, 42, 20]
    everywhere = frozenset(range(len(pages)))
    a, b, c = 65 * 576, 15 * 576, 3 * 576
    assert packed_bytes(groups, everywhere, (0, 22)) == 22 * (a + b + c)
    assert packed_bytes(groups, everywhere, (0, 24)) == 22 * a + 21 * b + 20 * c
    assert packed_bytes(groups, everywhere, (0, 33)) == 21 * a + 21 * b + 20 * c


def test_a_token_grows_the_entries_and_the_indexers() -> None:
    found = serve(engine_version="0.33", context=8192)
    assert found.workload["kv_dtype"] == "fp8_ds_mla"
    assert found.capacity["kv_bytes_per_token"] == (21 * (584 + 132) * 32 + 20 * 584) // 128


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"engine": "vllm", "engine_version": "0.19"}, "releases from 0.20 on do"),
        ({"engine": "sglang"}, "in pages is not modelled"),
    ],
)
def test_other_engines_and_releases_refuse_it(said: dict[str, Any], words: str) -> None:
    with pytest.raises(tn.UnsupportedError, match=words):
        tn.serve(FLASH, context=8192, suggest=False, **said)
