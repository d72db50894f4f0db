"""What loading leaves in the allocator: measured by fitcheck-llm 0.3.1 on a T4, and as transformers' code says it.

``after_load_allocated_mib`` and ``peak_reserved_mib`` are those of data/measurements of its sdist (licence MIT).
"""

from __future__ import annotations

from typing import Any

import pytest

import tonnage as tn
from played import Plain
from tonnage.allocator.caching import Allocator
from tonnage.estimate import ranked
from tonnage.estimate import train as answers
from tonnage.estimate.loading import Loader, Loading, items, key, schedule, warmed
from tonnage.estimate.player import Player
from tonnage.estimate.training import Step

MiB = 2**20
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def llama(hidden: int, ffn: int, layers: int, heads: int, kv: int, vocab: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab, "tie_word_embeddings": tied,
        "max_position_embeddings": 4096,
    }  # fmt: skip


SMOLLM2 = llama(2048, 8192, 24, 32, 32, 49152, tied=True)
SMALL = llama(576, 1536, 30, 9, 3, 49152, tied=True)
TINYLLAMA = llama(2048, 5632, 22, 32, 4, 32000, tied=False)
QLORA: dict[str, Any] = {
    "gpu": "t4", "precision": "fp16", "dtype": "fp16", "lora_rank": 32, "lora_targets": TARGETS, "recompute": "full",
    "optimizer": "adamw-foreach", "retain": ("outputs",), "attention": "eager", "quant": "nf4", "kbit_prepared": True,
    "stack_version": "5.0.0",
}  # fmt: skip
LORA = {k: v for k, v in QLORA.items() if k not in ("quant", "kbit_prepared")}


def loaded(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], **said: Any) -> tuple[Player, Allocator, Loading]:
    """The allocator with the weights in it, before the first step."""
    seen: list[tuple[Step, Loading]] = []

    def keep(step: Step, conf: str | None, loading: Loading, room: Any = None) -> Any:
        seen.append((step, loading))
        return real(step, conf, loading, room)

    from tonnage.estimate import stream

    real = stream.replayed
    monkeypatch.setattr(stream, "replayed", keep)
    tn.train(tn.load({"config": config}), replay=True, suggest=False, seq=512, **said)
    step, loading = seen[-1]
    allocator = Allocator()
    player = Player(step, allocator, loading)
    player.load()
    return player, allocator, loading


@pytest.mark.parametrize(
    ("config", "measured"),
    [(SMOLLM2, 1296.4658203125), (SMALL, 179.29736328125)],
    ids=["SmolLM2-1.7B", "SmolLM2-135M"],
)
def test_packed_weights_and_adapters_as_measured(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], measured: float
) -> None:
    """To the byte where no remainder depends on time."""
    _, allocator, _ = loaded(monkeypatch, config, **QLORA)
    assert allocator.allocated / MiB == measured


def test_remainders_lie_among_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten loads of TinyLlama left between 1071.55 and 1078.05 MiB, by which thread came first."""
    _, allocator, _ = loaded(monkeypatch, TINYLLAMA, **QLORA)
    assert 1071.5 < allocator.allocated / MiB < 1078.1


def test_a_model_that_is_moved_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, allocator, loading = loaded(monkeypatch, TINYLLAMA, **LORA)
    assert not loading.placed
    # Two blocks of 512 B below what was measured.
    assert allocator.allocated == 2134.552734375 * MiB - 1024
    assert allocator.peak_reserved - allocator.allocated < 100 * MiB


@pytest.mark.parametrize(
    ("config", "batch", "seq", "measured"),
    [(TINYLLAMA, 2, 1024, 4226), (SMOLLM2, 4, 1024, 7734)],
    ids=["TinyLlama", "SmolLM2-1.7B"],
)
def test_what_was_reserved_to_the_segment(config: dict[str, Any], batch: int, seq: int, measured: int) -> None:
    """Of two equal blocks the one of the newest segment is taken: upward addresses would give 3,848 and 7,990."""
    found = tn.train(tn.load({"config": config}), replay=True, suggest=False, batch=batch, seq=seq, **LORA)
    assert found.fullest.tier("reserved") == measured * MiB


def test_the_first_block_is_counted_as_the_weights_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    player, _, loading = loaded(monkeypatch, TINYLLAMA, **QLORA)
    matrices = 22 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 5632 * 2048)
    others = 2 * 32000 * 2048 + (2 * 22 + 1) * 2048
    found = items(player.run, loading)
    assert warmed(found, loading) == matrices // 2 + 2 * others
    # Before 5.0, half of the model as it is loaded.
    older = loading.but(loader=Loader(warms="half"))
    assert warmed(found, older) == matrices + others
    assert warmed(found, loading.but(total=3 * 2**29)) == 3 * 2**29 - int(1.2 * 2**30)


def test_a_device_map_reserves_more_than_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL loads with ``device_map="auto"``: one block of the model's size, and segments for what is too small."""
    said = {**LORA, "stack": "trl", "precision": "bf16", "dtype": "bf16", "attention": "sdpa", "retain": (),
            "stack_version": None, "gpu": "a100-40gb"}  # fmt: skip
    player, allocator, loading = loaded(monkeypatch, TINYLLAMA, **said)
    assert (loading.placed, loading.packs) == (True, False)
    whole = sum(i.raw for i in items(player.run, loading) if not i.buffer)
    assert allocator.reserved > whole + 40 * MiB


def test_peft_empties_the_cache_after_its_casts(monkeypatch: pytest.MonkeyPatch) -> None:
    old = loaded(monkeypatch, SMALL, **QLORA)[1]
    new = loaded(monkeypatch, SMALL, **{**QLORA, "stack_version": "5.23"})[1]
    assert new.reserved < old.reserved
    assert new.reserved - new.allocated < 2 * MiB


def test_threads_fetch_the_layers_while_the_embedding_comes() -> None:
    order = list(schedule([100, *[10] * 40], 4))
    before = order.index((0, False))
    # Three threads, a hundred bytes of time; then all four take the next.
    assert sum(comes for _, comes in order[:before]) == 1 + 3 * 10 + 4
    assert sorted(i for i, comes in order if comes) == list(range(41))
    assert [i for i, comes in order if not comes] == list(range(41))


def test_names_are_ordered_as_numbers() -> None:
    names = ["model.layers.10.a", "lm_head.weight", "model.layers.9.b", "model.embed_tokens.weight"]
    assert sorted(names, key=key) == [names[1], names[3], names[2], names[0]]


def test_it_is_told() -> None:
    found = tn.train(tn.load({"config": SMALL}), replay=True, suggest=False, seq=512, **QLORA)
    assert any("4 threads bring them ahead" in c for c in found.caveats)
    assert answers.LOADED not in found.not_modelled
    quick = tn.train(tn.load({"config": SMALL}), replay=False, suggest=False, seq=512, **QLORA)
    assert answers.LOADED in quick.not_modelled


def test_a_stack_of_its_own_code_has_no_such_load() -> None:
    """torchtune reads a checkpoint by itself."""
    found = tn.train("llama-3.2-1b", stack="torchtune", replay=True, suggest=False, gpu="a100-40gb")
    assert answers.LOADED in found.not_modelled


def test_the_load_is_an_instant_which_may_be_the_largest() -> None:
    """By hand, of releases before 5.0: half of the model in 16 bit in one piece, a tied head counted once more."""
    said = {**QLORA, "kbit_prepared": None, "retain": (), "stack_version": "4.51.3", "seq": 8,
            "gpu": None, "lora_rank": 4}  # fmt: skip
    matrices = 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    halved = matrices + 2 * 49152 * 576 + (2 * 30 + 1) * 576
    quick, played = (tn.train(tn.load({"config": SMALL}), suggest=False, replay=r, **said) for r in (False, True))
    for found in (quick, played):
        rank = found.ranks[0]
        assert [i.name for i in rank.instants[:2]] == ["load", "forward embedding"]
        assert rank.peak.name == "load"
        assert rank.runner_up is not None
        assert rank.runner_up.name != "load"
        assert [c.bytes for c in rank.components if c.name == "other:loading"] == [halved // 2 * 2]
        assert rank.tier("reserved") >= rank.tier("allocated") >= halved
    assert quick.ranks[0].peak.bytes == -(-halved // 512) * 512


@pytest.mark.parametrize("version", ["4.51.3", "4.57.6", "5.2", "5.23"])
@pytest.mark.parametrize("kbit", [True, False])
def test_the_load_at_its_highest_is_what_an_allocator_sees(version: str, kbit: bool) -> None:
    """Played to one that hands out whole blocks of 512 B."""
    said = {**QLORA, "kbit_prepared": kbit, "retain": (), "stack_version": version, "seq": 8, "replay": False}
    seen: list[tuple[Step, Loading]] = []
    with pytest.MonkeyPatch.context() as patch:
        real = ranked.moments

        def keep(step: Step, loading: Loading) -> Any:
            seen.append((step, loading))
            return real(step, loading)

        patch.setattr(ranked, "moments", keep)
        found = tn.train(tn.load({"config": TINYLLAMA}), suggest=False, **said)
    plain = Plain()
    Player(seen[0][0], plain, seen[0][1]).load()  # type: ignore[arg-type]
    assert found.ranks[0].instants[0].bytes == plain.peak_allocated


def test_a_model_that_is_moved_is_highest_at_the_end_of_its_load() -> None:
    """Weights and buffers, without optimizer state and workspace; measured, two blocks of 512 B more."""
    found = tn.train(tn.load({"config": TINYLLAMA}), suggest=False, seq=512, replay=True, **LORA)
    assert found.ranks[0].instants[0].bytes == 2134.552734375 * MiB - 1024


@pytest.mark.parametrize(
    ("quant", "attention", "measured"),
    [
        ({}, "eager", 3936.47412109375), ({}, "efficient", 3936.47412109375),
        ({"quant": "nf4", "kbit_prepared": True}, "eager", 2336.74755859375),
    ],
    ids=["fp16", "fp16 efficient", "nf4"],
)  # fmt: skip
def test_an_output_that_the_loop_holds_is_there_at_the_step(quant: Any, attention: str, measured: float) -> None:
    """``peak_optimizer_mib``: the logits, the embedding's output and its gradient, by the output's graph."""
    said = {
        **LORA,
        **quant,
        "retain": ("step-outputs",),
        "attention": attention,
        "batch": 4,
        "seq": 1024,
        "replay": True,
    }
    found = tn.train(tn.load({"config": SMOLLM2}), suggest=False, **said)
    step = next(i for i in found.ranks[0].instants if i.name == "optimizer step")
    assert step.bytes == measured * MiB


def test_what_a_plain_loop_holds_is_there_in_the_next_forward_pass() -> None:
    """Logits of both steps at the loss: 2 B of 49,152 words at 4 x 1,024 tokens."""
    said = {**LORA, "batch": 4, "seq": 1024, "replay": False}
    step, loop = (
        {i.name: i.bytes for i in tn.train(tn.load({"config": SMOLLM2}), suggest=False, **said | r).ranks[0].instants}
        for r in ({"retain": ("step-outputs",)}, {"retain": ("last-outputs",)})
    )
    held = 2 * 4 * 1024 * (49152 + 2 * 2048)
    apart = {name: loop[name] - step[name] for name in step}
    assert apart["loss"] == apart["forward layer 3"] == held
    assert apart["loss backward"] == apart["optimizer step"] == apart["load"] == 0
