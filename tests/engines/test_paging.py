"""Pools of pages as vLLM plans them, held against its own boot logs: the bytes for the pool are given."""

from __future__ import annotations

import pytest

from tonnage.errors import UnsupportedError
from tonnage.memory.pool.pages import Page
from tonnage.memory.pool.paging import Demand, Pool, aligned, blocks_of, grouped, plan

GIB = 2**30
V24 = (0, 24)


def windowed(sliding: int, full: int, *, wide: int, narrow: int, step: int = 16) -> list[Page]:
    """Gemma 4: windows of 1,024 with heads of 256, full layers with heads of 512; bytes of a token of each."""
    return [
        *[Page("sliding", 16, token=wide, window=1024, form=("sliding",))] * sliding,
        *[Page("full", step, token=narrow, form=("full",))] * full,
    ]


def hybrid(full: int, states: int, *, token: int, state: int) -> tuple[list[Page], tuple[str, ...]]:
    tokens, size, notes = aligned(state, token, 16, 16)
    pages = [Page("full", tokens, token=token)] * full
    return [*pages, *[Page("state", tokens, state=state, padded=size)] * states], notes


def conv(keys: int, values: int, ranks: int, taps: int) -> int:
    """A gated delta net's convolution in 16 bit, heads of 128."""
    return (2 * 128 * keys + 128 * values) // ranks * taps * 2


def state(values: int, ranks: int) -> int:
    """Its recurrence in fp32."""
    return values // ranks * 128 * 128 * 4


# https://github.com/redhat-performance/configiq/issues/112: gemma-4-31B in bf16 on an H200; tokens of a step assumed.


@pytest.mark.parametrize(("room", "low", "high"), [(64.68, 626_949, 626_949), (103.92, 1_007_279, 1_007_374)])
def test_gemma_4_31b_prints_these_tokens(room: float, low: int, high: int) -> None:
    pages = windowed(50, 10, wide=16 * 512 * 2, narrow=4 * 1024 * 2)
    found = plan(pages, int(room * GIB), 262_144, Demand(8192), V24)
    assert found.per_request == 11_077
    assert low <= found.tokens <= high


def test_gemma_4_12b_on_two_ranks_prints_these_tokens() -> None:
    # club-3090 calibration; 8.156 GiB is what prints as 8.16.
    pages = windowed(40, 8, wide=4 * 512 * 2, narrow=1 * 1024 * 2)
    found = plan(pages, int(8.156 * GIB), 131_072, Demand(4096), V24)
    assert (found.tokens, f"{found.concurrency:.2f}") == (384_019, "2.93")


def test_gemma_4_31b_with_scales_of_every_head_pads_the_smaller_page() -> None:
    # club-3090 BENCHMARKS, int8 per token and head, two ranks. That build raised the pages of full layers to 32 tokens
    # and then padded them from 66,048 to 66,560 B; releases up to 0.23 refuse these pages, 0.24 pads pages of 16.
    wide, narrow = 8 * (512 + 8), 2 * (1024 + 8)
    raised = windowed(50, 10, wide=wide, narrow=narrow, step=32)
    found = plan(raised, int(10.82 * GIB), 262_144, Demand(4096), V24)
    assert found.block_bytes == 10 * 66_560
    assert 466_812 <= found.tokens <= 467_240
    with pytest.raises(UnsupportedError, match="cannot make them alike"):
        grouped(windowed(50, 10, wide=wide, narrow=narrow), (0, 23))


def test_qwen_27b_on_two_ranks_prints_these_tokens_and_its_block() -> None:
    # https://github.com/mitchross/talos-argocd-proxmox/pull/1995: fp8 cache, prefixes cached.
    pages, notes = hybrid(16, 48, token=2 * 512, state=conv(16, 48, 2, 3) + state(48, 2))
    found = plan(pages, int(4.99 * GIB), 131_072, Demand(8192, states=2), V24)
    assert (found.tokens, found.blocks, found.per_request) == (302_921, 208, 90)
    assert notes[0].startswith("Setting attention block size to 1568 tokens")
    assert notes[1].startswith("Padding mamba page size by 0.13%")


def test_qwen_27b_that_drafts_four_tokens_prints_these_tokens_and_its_padding() -> None:
    # club-3090 BENCHMARKS: int8 with scales, one more full layer, four more taps of the convolution.
    pages, _ = hybrid(17, 48, token=2 * (512 + 8), state=conv(16, 48, 2, 7) + state(48, 2))
    found = plan(pages, int(11.10 * GIB), 262_144, Demand(8192, states=2 + 4), V24)
    assert (found.tokens, found.blocks, found.per_request, found.page_tokens) == (605_495, 425, 184, 1584)
    assert found.notes == ("Add 3 padding layers, may waste at most 6.25% KV cache memory",)


def test_qwen_35b_a3b_prints_these_tokens() -> None:
    # https://github.com/noonghunna/club-3090/issues/612: vLLM 0.24, every flag in the log.
    pages, _ = hybrid(10, 30, token=2 * 512, state=conv(16, 32, 1, 3) + state(32, 1))
    found = plan(pages, int(5.98 * GIB), 131_072, Demand(8192, states=2), V24)
    assert (found.tokens, found.blocks, found.per_request, found.page_tokens) == (567_978, 299, 69, 2096)


# Rules, by release.


@pytest.mark.parametrize(
    ("version", "sizes"),
    [((0, 11), {12}), ((0, 12), {13}), ((0, 33), {13})],
)
def test_kinds_of_nearly_as_many_layers_share_the_larger_number(version: tuple[int, int], sizes: set[int]) -> None:
    # gpt-oss-20b with a drafter: 12 windows and 13 full layers (the comment in kv_cache_utils.py).
    pages = [*[Page("sliding", 16, token=64, window=128)] * 12, *[Page("full", 16, token=64)] * 13]
    groups, _ = grouped(pages, version)
    assert {max(len(g.layers) for g in groups)} == sizes


def test_before_0_9_a_window_takes_as_much_as_a_full_layer() -> None:
    pages = [*[Page("sliding", 16, token=64, window=128)] * 12, *[Page("full", 16, token=64)] * 12]
    assert len(grouped(pages, (0, 8))[0]) == 1
    assert len(grouped(pages, (0, 9))[0]) == 2


def test_tokens_follow_from_blocks_before_0_21_and_from_requests_since() -> None:
    pages = windowed(50, 10, wide=16 * 512 * 2, narrow=4 * 1024 * 2)
    old = plan(pages, 64 * GIB, 262_144, Demand(8192), (0, 20))
    assert old.tokens == old.blocks // 6 * 16
    new = plan(pages, 64 * GIB, 262_144, Demand(8192), (0, 21))
    assert new.tokens == int(new.blocks / new.per_request * 262_144)


def test_one_request_may_not_have_the_null_block_since_0_29() -> None:
    def pool(version: tuple[int, int]) -> Pool:
        return plan([Page("full", 16, token=64)], 10 * 1024, 160, Demand(0), version)

    assert (pool((0, 28)).blocks, pool((0, 28)).per_request) == (10, 10)
    assert pool((0, 28)).holds_one
    assert not pool((0, 29)).holds_one


def test_the_smallest_stage_decides_for_all() -> None:
    pages = [Page("full", 16, token=64)] * 4
    found = plan(pages, 0, 1024, Demand(0), V24, ranks=[((0, 1), 100 * 2048), ((2, 3), 60 * 2048)])
    assert found.blocks == 60


def test_a_latent_and_its_indexer_share_one_table() -> None:
    groups, _ = grouped([Page("latent", 64, token=656), Page("indexer", 64, token=132)] * 3, (0, 33))
    assert [g.size for g in groups] == [3 * 64 * (656 + 132)]


@pytest.mark.parametrize(
    ("page", "longest", "blocks"),
    [
        (Page("chunked", 16, token=1, window=8192), 131_072, 1024),
        (Page("chunked", 16, token=1, window=8192), 4096, 256),
        (Page("state", 16, state=1), 131_072, 3),
        (Page("cross", 16, token=1), 448, 94),
    ],
)
def test_blocks_of_a_request(page: Page, longest: int, blocks: int) -> None:
    assert blocks_of(page, longest, Demand(8192, states=3, encoder=1500)) == blocks
