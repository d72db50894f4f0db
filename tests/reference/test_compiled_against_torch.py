"""What compiled code keeps and takes, beside AOTAutograd's partitioner and inductor themselves."""

from __future__ import annotations

from typing import Any, Final

import pytest
from partitioned import adapted, highest, kept, one_layer, whole, written

import tonnage as tn
from tonnage.estimate.moments import instants
from tonnage.estimate.recipe import Recipe
from tonnage.estimate.training import Step
from tonnage.memory.compiled import Compiled
from tonnage.memory.optimizers import optimizer
from tonnage.memory.passes import Account, Pass
from tonnage.memory.recompute import settled

ROTARY: Final = {
    "hidden_size": 256, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4,
    "vocab_size": 1000, "max_position_embeddings": 1024,
}  # fmt: skip
GPT: Final = {"n_embd": 256, "n_head": 8, "vocab_size": 1000, "n_positions": 1024}
UNDROPPED: Final = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
OPT: Final = {
    "model_type": "opt", "hidden_size": 256, "ffn_dim": 1024, "num_attention_heads": 8, "vocab_size": 1000,
    "max_position_embeddings": 1024, "word_embed_proj_dim": 256,
}  # fmt: skip
HEADS: Final = {**ROTARY, "head_dim": 64}
CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "llama": {"model_type": "llama", **ROTARY},
    "llama-wide": {"model_type": "llama", **ROTARY, "hidden_size": 512, "intermediate_size": 1376},
    "qwen2": {"model_type": "qwen2", **ROTARY},
    "qwen3": {"model_type": "qwen3", **HEADS},
    "gemma": {"model_type": "gemma", **HEADS},
    "gemma2": {"model_type": "gemma2", "sliding_window": 1024, **HEADS},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 1024, **HEADS},
    "olmo2": {"model_type": "olmo2", **ROTARY},
    "granite": {"model_type": "granite", **ROTARY},
    "cohere": {"model_type": "cohere", "pad_token_id": 0, **ROTARY},
    "smollm3": {"model_type": "smollm3", "pad_token_id": 0, **ROTARY},
    "gpt2": {"model_type": "gpt2", **GPT},
    "gpt2-undropped": {"model_type": "gpt2", **GPT, **UNDROPPED},
    "gpt_neox": {"model_type": "gpt_neox", **{k: v for k, v in ROTARY.items() if k != "num_key_value_heads"}},
    "stablelm": {"model_type": "stablelm", **ROTARY},
    "starcoder2": {"model_type": "starcoder2", "sliding_window": None, **ROTARY},
    "opt": OPT,
    "bloom": {"model_type": "bloom", "hidden_size": 256, "n_head": 8, "vocab_size": 1000},
}
DRAWS: Final = ("gpt2", "opt")
EAGER: Final = ("bloom",)


def _layers(config: dict[str, Any], n: int) -> dict[str, int]:
    return {"n_layer" if "n_head" in config else "num_hidden_layers": n}


def _account(config: dict[str, Any], kernel: Any, batch: int, tokens: int, how: Compiled, *, autocast: bool) -> Account:
    model = tn.load({"config": {**config, **_layers(config, 3)}})
    weights, cast = ("fp32", "bf16") if autocast else ("bf16", None)
    found = Pass(
        model, batch=batch, tokens=tokens, kernel=kernel, weights=weights, autocast=cast, recompute=None, compiled=how
    )
    return found.layers[1]


def _kept(account: Account, *, autocast: bool = False) -> int:
    """Bytes that a layer keeps, its input with them.

    A CPU's layer norm gives mean and deviation in the format of what it is given, a GPU's in fp32.
    """
    saved = account.kept().requested + account.input.nbytes * account.keeps_input
    rows = [s.nbytes for s in account.saved if s.label in ("layer norm mean", "layer norm rstd")]
    return saved - sum(rows) // 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "batch", "tokens"), [*((n, 2, 256) for n in CONFIGS), *((n, 1, 600) for n in ("llama", "gemma3", "gpt2"))]
)
def test_a_layer_within_a_whole_graph_keeps_what_the_partitioner_keeps(name: str, batch: int, tokens: int) -> None:
    config, kernel = CONFIGS[name], "eager" if name in EAGER else "flash"
    sums = [sum(kept(whole(config, _layers(config, n), batch, tokens, draws=name in DRAWS)).values()) for n in (2, 3)]
    ours = _account(config, kernel, batch, tokens, Compiled(within=True), autocast=False)
    assert _kept(ours) == sums[1] - sums[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2-undropped"])
def test_under_autocast_copies_of_weights_are_kept_too(name: str) -> None:
    config = CONFIGS[name]
    sums = [sum(kept(whole(config, _layers(config, n), 2, 256, autocast=True)).values()) for n in (2, 3)]
    ours = _account(config, "flash", 2, 256, Compiled(within=True), autocast=True)
    assert _kept(ours, autocast=True) == sums[1] - sums[0]


ROUTED: Final = {**ROTARY, "num_experts": 8, "num_experts_per_tok": 2}
EXPERTS: Final[dict[str, dict[str, Any]]] = {
    "mixtral": {"model_type": "mixtral", **ROTARY, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "model_type": "qwen2_moe", **ROUTED, "moe_intermediate_size": 320, "shared_expert_intermediate_size": 640,
    },
    "qwen3_moe": {"model_type": "qwen3_moe", **ROUTED, "head_dim": 64, "moe_intermediate_size": 320},
    "olmoe": {"model_type": "olmoe", **ROUTED},
    "granitemoe": {"model_type": "granitemoe", **ROTARY, "num_local_experts": 8, "num_experts_per_tok": 2},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", EXPERTS)
def test_layers_of_experts_within_a_whole_graph(name: str) -> None:
    """By grouped products: sort, search and sums by index are kernels that are not run again."""
    config = EXPERTS[name]
    sums = [sum(kept(whole(config, _layers(config, n), 2, 256)).values()) for n in (2, 3)]
    ours = _account(config, "flash", 2, 256, Compiled(within=True), autocast=False)
    assert _kept(ours) == sums[1] - sums[0]
    tn.train({"config": config | _layers(config, 3)}, batch=2, seq=256, compile=True, suggest=False)


def second_layers(monkeypatch: pytest.MonkeyPatch) -> list[Account]:
    """What the closed form has for the second layer of every pass that follows, filled as they are made."""
    found: list[Account] = []
    run = Pass.__init__

    def noted(self: Pass, *args: Any, **kwargs: Any) -> None:
        run(self, *args, **kwargs)
        found.append(self.layers[1])

    monkeypatch.setattr(Pass, "__init__", noted)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("nested", [False, True])
def test_adapters_beside_packed_matrices(nested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes 0.50: its operations are kernels of the graph, and no unpacked matrix is kept."""
    pytest.importorskip("bitsandbytes", minversion="0.50")
    config, targets = CONFIGS["llama"], ["q_proj", "v_proj", "down_proj"]
    graphs = [adapted(config, _layers(config, n), 2, 256, targets, 0.0, packed=nested) for n in (2, 3)]
    sums = [sum(kept(g).values()) for g in graphs]
    found = second_layers(monkeypatch)
    said: dict[str, Any] = {"quant": "nf4-dq" if nested else "nf4", "lora_rank": 16, "lora_targets": targets}
    tn.train(
        {"config": {**config, **_layers(config, 3)}}, batch=2, seq=256, precision="bf16", dtype="bf16",
        attention="flash", compile=True, **said,
    )  # fmt: skip
    assert _kept(found[0]) == sums[1] - sums[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), ("all-linear",)])
def test_adapters_in_compiled_layers(targets: tuple[str, ...], dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS["llama"]
    named = "all-linear" if targets == ("all-linear",) else list(targets)
    sums = [sum(kept(adapted(config, _layers(config, n), 2, 256, named, dropout)).values()) for n in (2, 3)]
    found = second_layers(monkeypatch)
    tn.train(
        {"config": {**config, **_layers(config, 3)}}, batch=2, seq=256, precision="bf16", dtype="bf16", lora_rank=16,
        lora_targets=targets, lora_dropout=dropout, attention="flash", compile=True,
    )  # fmt: skip
    assert _kept(found[0]) == sums[1] - sums[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "olmo2"])
def test_a_layer_that_is_a_graph_of_its_own(name: str) -> None:
    config = CONFIGS[name]
    graphs = one_layer(config, _layers(config, 1), 2, 256)
    x = len([n for n in graphs[0].graph.nodes if n.op == "placeholder"]) - 2
    theirs = sum(kept(graphs, inputs=(f"primals_{x}",)).values())
    assert _kept(_account(config, "flash", 2, 256, Compiled(), autocast=False)) == theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_a_selective_checkpoint_within_a_layers_graph(name: str) -> None:
    """torchtitan's list: what is marked and read, and nothing else."""
    config = CONFIGS[name]
    graphs = one_layer(config, _layers(config, 1), 2, 256, selective=True)
    x = len([n for n in graphs[0].graph.nodes if n.op == "placeholder"]) - 2
    theirs = sum(kept(graphs, inputs=(f"primals_{x}",)).values())
    model = tn.load({"config": {**config, **_layers(config, 3)}})
    account = Pass(
        model, batch=2, tokens=256, kernel="flash", weights="bf16", autocast=None, recompute=settled("selective"),
        compiled=Compiled(),
    ).layers[1]  # fmt: skip
    assert sum(s.nbytes for s in account.left_behind()) + account.input.nbytes * account.keeps_input == theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2-undropped", "bloom"])
def test_inductors_buffers_lie_within_the_range(name: str) -> None:
    """Of both passes, from the code that inductor writes for a CPU; the zeros for the logits are no buffer of it."""
    config, kernel, layers = CONFIGS[name], "eager" if name in EAGER else "flash", _layers(CONFIGS[name], 3)
    graphs = whole(config, layers, 2, 256)
    forward, backward = highest(written(graphs[0]), {}), highest(written(graphs[1]), kept(graphs))
    model = tn.load({"config": {**config, **layers}})
    zeros = 2 * 256 * config["vocab_size"] * 2
    ahead, back = [], []
    for buffers in ("fewest", "usual", "most"):
        step = Step(model, _recipe(kernel, Compiled(within=True, buffers=buffers)))  # type: ignore[arg-type]
        resident = step.static().requested
        levels = {m.name: m.level.requested - resident for m in step.moments()}
        levels["loss backward"] -= zeros
        ahead.append(levels["loss"])
        back.append(max(n for name, n in levels.items() if "backward" in name))
        assert {i.name for i in instants(step.moments())} >= {"loss", "loss backward"}
    # The token ids, the tables of angles or the mask that layers share, and what an embedding of positions is made of.
    beside = 2 * 256 * (8 + 2 * 256) + (2 * 256 * 256 * 2 if kernel == "eager" else 0)
    assert min(ahead) - beside <= forward <= max(ahead) + beside
    assert min(back) - beside <= backward <= max(back) + beside


def _recipe(kernel: Any, how: Compiled) -> Recipe:
    return Recipe(
        weights="bf16", autocast=None, kernel=kernel, optimizer=optimizer("sgd"), batch=2, tokens=256, accumulate=1,
        recompute=False, keep_logits=False, keep_gradients=False, first_step=True, workspace=0, compiled=how,
    )  # fmt: skip
