"""Fine-tuning methods beside LoRA: trained parameters as peft counts them, and passes as its code makes them.

The recorded runs are in data/tuners.json, with how they were made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tonnage as tn
from tonnage import quant
from tonnage.errors import InputError, TonnageError, UnsupportedError
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.stream import replayed
from tonnage.estimate.training import Step
from tonnage.estimate.tuning import tuned
from tonnage.families import model_from
from tonnage.memory.optimizers import optimizer
from tonnage.workload import workload
from tonnage.workload.training import Train

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "tuners.json").read_text())
RUNS = RECORDED["runs"]

OWN_MAPS = 1024
"""The traced loader gave every matrix a map of its own for the scales of its scales; bitsandbytes shares one."""


def step(run: dict[str, Any]) -> Step:
    model = model_from(RECORDED["families"][run["family"]])
    packed = run["packed"]
    recipe = quant.recipe(quant.called("nf4-dq" if run["double"] else "nf4"), checkpoint=False) if packed else None
    found = tuned(model, workload(Train, run["workload"]), recipe, run["weights"], packed or run["weights"])
    settled = Recipe(
        weights=found.weights, autocast=run["autocast"], kernel=run["kernel"], optimizer=optimizer(run["optimizer"]),
        batch=run["batch"], tokens=run["seq"], accumulate=1, recompute=run["recompute"], keep_logits=False,
        keep_gradients=False, first_step=False, workspace=0, tuning=found.tuning, adapters=found.trained,
        beside=found.beside, own=found.own, shares=found.shares, packing=found.packing,
        input_grads=run["recompute"] and found.adapter is not None,
    )  # fmt: skip
    return Step(model, settled)


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r["id"])
def test_as_many_parameters_are_trained_as_peft_says(run: dict[str, Any]) -> None:
    assert sum(t.numel * times for t, times in step(run).trained) == run["trained"]


@pytest.mark.parametrize("run", [r for r in RUNS if not r["recompute"]], ids=lambda r: r["id"])
def test_layer_saves_and_reaches_what_the_trace_does(run: dict[str, Any]) -> None:
    passes = step(run).passes
    after = [*passes.layers[1:], passes.tail]
    compared = 0
    for index, (account, above) in enumerate(zip(passes.layers, after, strict=True)):
        if not account.flows:
            continue
        kept = account.kept().requested + (account.output.nbytes if above.keeps_input or account.keeps_output else 0)
        assert [kept, account.forward.highest, account.backward.highest] == run["layers"][index], index
        compared += 1
    assert compared


@pytest.mark.parametrize("run", RUNS, ids=lambda r: r["id"])
def test_whole_step_peaks_where_the_trace_does(run: dict[str, Any]) -> None:
    s = step(run)
    peaks = [0, 0, 0]
    for m in s.moments():
        part = 2 if m.name == "optimizer step" else 1 if "backward" in m.name else 0
        peaks[part] = max(peaks[part], m.highest)
    packed = len(quant.packed_modules(s.model, quant.recipe(quant.called("nf4"), checkpoint=False)))
    over = OWN_MAPS * packed * len(s.model.decoder.layers) if run["double"] else 0
    assert [p + over for p in peaks] == run["peaks"]


@pytest.mark.parametrize("run", [r for r in RUNS if r["workload"].get("adapter") in ("adalora", "dora", "prompt")])
def test_replay_peaks_where_the_account_does(run: dict[str, Any]) -> None:
    """Played through the allocator, what is alive at most is what the instants say, but for remainders of blocks."""
    s = step(run)
    most = max(m.level.allocated for m in s.moments())
    played = max(i.bytes for i in replayed(s).instants)
    assert abs(played - most) <= 0.02 * most


@pytest.mark.parametrize(
    ("adapter", "said", "trained"),
    [
        ("lora", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 9_175_040),
        ("lora", {"lora_rank": 10, "lora_targets": "up_proj,gate_proj,down_proj"}, 9_461_760),
        ("rslora", {"lora_rank": 64, "lora_targets": "q_proj,v_proj"}, 18_350_080),
        ("dora", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 9_289_728),
        ("lora-fa", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 3_670_016),
        ("adalora", {"lora_rank": 64, "lora_targets": "q_proj,v_proj"}, 18_353_664),
        ("boft", {"lora_targets": "q_proj,v_proj"}, 802_816),
        ("osf", {"lora_rank": 128}, 194_535_936),
        ("vera", {"lora_rank": 256, "lora_targets": "q_proj,v_proj"}, 129_024),
    ],
)
def test_published_trainable_counts(adapter: str, said: dict[str, Any], trained: int) -> None:
    """peft's own benchmark on Llama-3.2-3B: method_comparison/MetaMathQA/results."""
    found = tn.train("llama-3.2-3b", adapter=adapter, seq=128, **said)
    assert found.model["trainable_parameters"] == trained


def test_published_reserved_memory_of_peft_lies_in_the_range() -> None:
    """peft's benchmark on an L40S: batches of 4, padded to at most 768 tokens; rank32-dora reserved 22.85 GiB."""
    found = tn.train(
        "llama-3.2-3b", adapter="dora", lora_rank=32, lora_targets="q_proj,v_proj", batch=4, seq=768, gpu="l40s",
        precision="bf16", optimizer="adamw-foreach", replay=True,
    )  # fmt: skip
    low, high = found.as_dict()["ranks"][0]["range"]["reserved"]
    assert low <= 24_532_484_096 <= high


def test_saved_modules_stand_twice_and_are_trained_in_the_weights_format() -> None:
    plain = tn.train("llama-3.1-8b", lora_rank=8, seq=128)
    saved = tn.train("llama-3.1-8b", lora_rank=8, modules_to_save="embed_tokens,lm_head", seq=128)
    more = 2 * 128_256 * 4_096
    assert saved.model["trainable_parameters"] - plain.model["trainable_parameters"] == more
    weights = [sum(c.bytes for c in r.ranks[0].components if c.name == "weights") for r in (plain, saved)]
    assert weights[1] - weights[0] == 2 * more


def test_frozen_layers_have_no_gradients_and_keep_nothing() -> None:
    whole = tn.train("llama-3.1-8b", seq=128)
    half = tn.train("llama-3.1-8b", seq=128, freeze_layers="0-15")
    layer = (whole.model["parameters"] - 2 * 128_256 * 4_096 - 4_096) // 32
    assert whole.model["trainable_parameters"] - half.model["trainable_parameters"] == 16 * layer
    head = tn.train("llama-3.1-8b", seq=128, train_only="lm_head")
    assert head.model["trainable_parameters"] == 128_256 * 4_096
    assert not [i for i in head.ranks[0].instants if i.name.startswith("backward layer")]


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"adapter": "doraa", "lora_rank": 8}, InputError, "unknown adapter 'doraa'"),
        ({"adapter": "dora"}, InputError, "needs a rank"),
        ({"adapter": "ia3", "lora_rank": 8}, InputError, "has no lora_rank"),
        ({"adapter": "PREFIX_TUNING"}, InputError, "needs a number of tokens"),
        ({"adapter": "prefix", "virtual_tokens": 20, "recompute": "full"}, InputError, "gradient checkpointing"),
        ({"adapter": "prefix", "virtual_tokens": 20, "retain": "outputs"}, UnsupportedError, "hold the cache"),
        ({"adapter": "prefix", "virtual_tokens": 20, "lora_targets": "q_proj"}, InputError, "has no lora_targets"),
        ({"adapter": "llama-adapter"}, InputError, "adapter_len = 0"),
        ({"adapter": "llama-adapter", "adapter_options": "adapter_len=10,adapter_layers=99"}, InputError, "of 32"),
        ({"adapter": "trainable-tokens"}, InputError, "token_indices = 0"),
        ({"adapter": "vblora", "adapter_options": "vector_length=300"}, InputError, "divisible by `vector_length` 300"),
        ({"adapter": "vblora", "adapter_options": "topk=300"}, InputError, "more than the 256 vectors"),
        ({"adapter": "vblora", "accumulate": 4}, UnsupportedError, "all layers share"),
        ({"adapter": "vblora", "lora_targets": "lm_head"}, UnsupportedError, "all layers share"),
        ({"adapter": "unilora", "adapter_options": "theta_d_length=0"}, InputError, "must be positive"),
        ({"adapter": "tinylora", "adapter_options": "u=0"}, InputError, "positive integer"),
        ({"adapter": "tinylora", "adapter_options": "weight_tying=0.5"}, UnsupportedError, "modules share"),
        ({"adapter": "lily", "adapter_options": "stride_A=2"}, UnsupportedError, "neighbouring layers"),
        ({"adapter": "lily", "adapter_options": "num_B=0"}, InputError, "positive integer"),
        (
            {"adapter": "trainable-tokens", "adapter_options": "token_indices=200000"},
            InputError,
            "of the embedding's 128,256 rows",
        ),
        (
            {"lora_rank": 8, "adapter_options": "trainable_token_indices=10", "modules_to_save": "embed_tokens"},
            InputError,
            "rows of the embedding or all of it",
        ),
        ({"adapter": "boft", "adapter_options": "boft_block_size=12"}, InputError, "divisible by boft_block_size (12)"),
        ({"adapter": "boft", "adapter_options": "boft_block_num=8"}, InputError, "contradict"),
        ({"adapter": "boft", "adapter_options": "boft_block_size=0"}, InputError, "must be non-zero"),
        ({"adapter": "oft", "adapter_options": "r=8"}, InputError, "one of them is 0"),
        ({"adapter": "oft", "lora_rank": 8}, InputError, "has no lora_rank"),
        ({"adapter": "oft", "adapter_options": "block_size=8"}, InputError, "oft_block_size=32"),
        ({"adapter": "oft", "adapter_options": "oft_block_size=many"}, InputError, "is a number"),
        ({"adapter": "oft", "adapter_options": "block_share=perhaps"}, InputError, "true, false"),
        ({"adapter": "oft", "lora_targets": "qproj"}, InputError, "called 'qproj'"),
        ({"adapter": "boft", "quant": "nf4"}, UnsupportedError, "packed weights"),
        ({"adapter": "loha", "quant": "nf4"}, InputError, "shapes cannot be multiplied"),
        ({"adapter": "unilora", "quant": "nf4"}, InputError, "nothing is trained"),
        ({"adapter": "road", "quant": "nf4"}, UnsupportedError, "attention refuses"),
        ({"adapter": "road", "adapter_options": "variant=road_3"}, InputError, "road_1, road_2"),
        ({"adapter": "road", "adapter_options": "group_size=48"}, InputError, "divisible by group_size (48)"),
        ({"adapter": "c3a", "adapter_options": "block_size=96"}, InputError, "a factor of the"),
        ({"adapter": "osf", "adapter_options": "effective_rank=1024"}, InputError, "leaves nothing"),
        ({"adapter": "osf", "lora_rank": 1025}, InputError, "singular values"),
        ({"adapter": "osf", "lora_rank": 8, "adapter_options": "effective_rank=8"}, InputError, "contradict"),
        ({"adapter": "miss", "lora_rank": 5000}, InputError, "less than or equal to in_features (4096)"),
        ({"adapter": "fourierft", "adapter_options": "n_frequency=99999999"}, InputError, "is more than its"),
        ({"adapter": "waveft"}, UnsupportedError, "use_idwt=false"),
        ({"adapter_options": "oft_block_size=8"}, InputError, "and no adapter"),
        ({"lora_rank": 8, "adapter_options": "r=8"}, InputError, "has no setting 'r=8'"),
        ({"lora_rank": 8, "lora_targets": "lm_head", "loss": "fused"}, UnsupportedError, "by itself"),
        ({"adapter": "p-tuning", "virtual_tokens": 20}, InputError, "needs encoder_hidden"),
        ({"adapter": "prompt", "virtual_tokens": 20, "encoder_hidden": 8}, InputError, "has no encoder_hidden"),
        ({"encoder_hidden": 8}, InputError, "encoder_hidden is said"),
        ({"adapter": "prompt"}, InputError, "virtual-tokens 20"),
        ({"adapter": "lora", "lora_rank": 8, "virtual_tokens": 20}, InputError, "has no virtual_tokens"),
        ({"virtual_tokens": 20}, InputError, "no adapter"),
        ({"modules_to_save": "lm_head"}, InputError, "no lora_rank"),
        ({"lora_rank": 8, "modules_to_save": "lmhead"}, InputError, "called 'lmhead'"),
        ({"lora_rank": 8, "freeze_layers": "0-3"}, InputError, "freezes the whole model"),
        ({"freeze_layers": "0-99"}, InputError, "layers are 0 to 31"),
        ({"freeze_layers": "half"}, InputError, "no list of layers"),
        ({"train_only": "layers.7", "freeze_layers": "7"}, InputError, "nothing is left"),
        ({"train_only": "lmhead"}, InputError, "called 'lmhead'"),
        ({"train_only": "lm_head", "quant": "nf4"}, UnsupportedError, "not trained themselves"),
        ({"adapter": "ia3", "quant": "nf4"}, UnsupportedError, "attention refuses"),
        ({"lora_rank": 8, "quant": "mxfp4"}, InputError, "Mxfp4Config(dequantize=True)"),
        ({"lora_rank": 8, "quant": "fp8-row"}, InputError, "does not support training"),
        ({"lora_rank": 8, "quant": "nvfp4-online"}, InputError, "does not support training"),
        ({"lora_rank": 8, "quant": "gptq-int4"}, UnsupportedError, "peft adapts it"),
        ({"lora_rank": 8, "quant": "hqq"}, UnsupportedError, "unpacked for each product"),
        ({"adapter": "dora", "lora_rank": 8, "quant": "int8"}, UnsupportedError, "packed weights is not modelled"),
        ({"lora_rank": 16, "precision": "fp8"}, UnsupportedError, "multiple of 16"),
    ],
)
def test_what_cannot_be_is_named(said: dict[str, Any], error: type[TonnageError], words: str) -> None:
    with pytest.raises(error) as raised:
        tn.train("llama-3.1-8b", **said)
    assert words in f"{raised.value} {raised.value.hint}"


@pytest.mark.parametrize(
    ("adapter", "said", "trained"),
    [
        ("oft", {"lora_targets": "q_proj,v_proj"}, 2_666_496),
        ("boft", {"lora_targets": "q_proj,v_proj"}, 802_816),
        ("loha", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 18_350_080),
        ("lokr", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 279_552),
        ("hra", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 5_505_024),
        ("miss", {"lora_rank": 64, "lora_targets": "q_proj,v_proj"}, 7_340_032),
        ("randlora", {"lora_rank": 32, "lora_targets": "q_proj,v_proj"}, 9_289_728),
        ("c3a", {"adapter_options": "block_size=64", "lora_targets": "q_proj,v_proj"}, 5_505_024),
        ("road", {"lora_targets": "q_proj,v_proj"}, 114_688),
        ("fourierft", {"lora_targets": "q_proj,v_proj"}, 56_000),
        ("beft", {}, 28_672),
        ("vblora", {}, 1_212_416),
        ("unilora", {}, 256),
        ("tinylora", {}, 3_584),
        ("lily", {}, 5_770_752),
        ("prefix", {"virtual_tokens": 20}, 1_146_880),
        ("adaption-prompt", {"adapter_options": "adapter_len=10,adapter_layers=28"}, 860_188),
        ("trainable-tokens", {"adapter_options": "token_indices=100"}, 307_200),
    ],
)
def test_trained_counts_by_hand(adapter: str, said: dict[str, Any], trained: int) -> None:
    """Llama-3.2-3B: 28 layers, queries of 3,072 x 3,072 and values of 1,024 x 3,072."""
    assert tn.train("llama-3.2-3b", adapter=adapter, seq=128, **said).model["trainable_parameters"] == trained


def test_every_type_of_peft_is_answered_or_refused_by_name() -> None:
    """``PeftType`` of peft 0.21.2: none is unknown."""
    from tonnage.estimate.methods import ALIASES, METHODS
    from tonnage.estimate.refused import REFUSED

    types = [
        "PROMPT_TUNING",
        "MULTITASK_PROMPT_TUNING",
        "P_TUNING",
        "PREFIX_TUNING",
        "LORA",
        "ADALORA",
        "ADAMSS",
        "BOFT",
        "ADAPTION_PROMPT",
        "IA3",
        "BEFT",
        "LILY",
        "LOHA",
        "LOKR",
        "OFT",
        "POLY",
        "LN_TUNING",
        "VERA",
        "FROD",
        "PVERA",
        "FOURIERFT",
        "GLORA",
        "XLORA",
        "HRA",
        "VBLORA",
        "UNILORA",
        "CPT",
        "MISS",
        "RANDLORA",
        "ROAD",
        "TRAINABLE_TOKENS",
        "HIRA",
        "SHIRA",
        "C3A",
        "WAVEFT",
        "OSF",
        "DELORA",
        "GRALORA",
        "CARTRIDGE",
        "TINYLORA",
        "PSOFT",
        "PEANUT",
        "SHADOW",
        "SUPERTUNING",
        "DEFT",
    ]
    names = [t.lower().replace("_", "-") for t in types]
    known = {*METHODS, *REFUSED}
    assert [n for n in names if ALIASES.get(n, n) not in known] == []
    assert not {*METHODS} & {*REFUSED}
