"""Megatron-Core's own loss and checkpoints around transformers' models, traced on tensors without data.

``python tests/reference/megatron_runs.py`` writes data/megatron.json, where Megatron-Core 0.19.0 lies beside torch
2.13.0 and transformers 5.23.0 (``megatron/core`` of https://github.com/NVIDIA/Megatron-LM at core_v0.19.0, on the
path), and for one loss two files of Transformer Engine 2.18. Of Megatron's, tensor_parallel/cross_entropy.py and
tensor_parallel/random.py are run. What stands in: process groups, of which there is one rank; states of random numbers,
which a trace has none of; kernels of Triton's, which allocate nothing; and the extension in C++ that lets one storage
show another's memory, which is told to the recorder instead.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tracing_cases import CONFIGS

from tonnage.tracing.context import Tracing
from tonnage.tracing.levels import levels
from tonnage.tracing.recorder import Recorder

RELEASE: Final = "0.19"
KINDS: Final = ("forward", "backward", "optimizer")
FORMATS: Final = {"fp32": (torch.float32, None), "bf16": (torch.bfloat16, None),
                  "bf16-mixed": (torch.float32, torch.bfloat16)}  # fmt: skip
"""By precision: format of the weights, and what autocast computes in."""

SHAPES: Final = (
    {"precision": "bf16", "batch": 2, "seq": 64},
    {"precision": "bf16", "batch": 1, "seq": 300},
    {"precision": "fp32", "batch": 2, "seq": 200},
)
CASES: Final = (
    ("llama", {"recompute": "layernorm"}),
    ("gemma2", {"recompute": "layernorm", "attention": "eager"}),
    ("qwen3_moe", {"recompute": "moe_act"}),
    ("mixtral", {"recompute": "layernorm,moe_act"}),
    ("gpt_oss", {"recompute": "layernorm,moe_act", "attention": "eager"}),
    ("deepseek_v3", {"recompute": "mla_up_proj"}),
    ("deepseek_v3", {"recompute": "layernorm,mla_up_proj,moe_act"}),
    ("llama", {"loss": "vocab-parallel"}),
    ("gpt2", {"loss": "vocab-parallel"}),
    ("gemma2", {"loss": "vocab-parallel", "attention": "eager"}),
    ("qwen3_moe", {"loss": "vocab-parallel", "recompute": "layernorm"}),
    ("llama", {"loss": "vocab-parallel-te"}),
    ("gpt2", {"loss": "vocab-parallel-te"}),
)


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is traced: a family, and the keys of a workload."""
    for family, said in CASES:
        for shape in SHAPES:
            yield family, {**shape, **said}
    for family in ("llama", "gpt2"):
        yield family, {"precision": "bf16-mixed", "batch": 2, "seq": 200, "loss": "vocab-parallel"}


def found() -> Path | None:
    """Where Megatron-Core of the release lies; None where there is none."""
    spec = importlib.util.find_spec("megatron")
    for folder in () if spec is None else spec.submodule_search_locations or ():
        info = Path(folder) / "core" / "package_info.py"
        said = (
            dict(line.split(" = ") for line in info.read_text().splitlines() if " = " in line) if info.exists() else {}
        )
        if f"{said.get('MAJOR')}.{said.get('MINOR')}" == RELEASE:
            return info.parent
    return None


@contextlib.contextmanager
def modules(core: Path) -> Iterator[tuple[Any, Any]]:
    """The modules of the loss and of checkpoints, with stand-ins for what they import of the rest."""

    def stand_in(name: str, **names: Any) -> None:
        made = types.ModuleType(name)
        made.__dict__.update(names)
        made.__path__ = [str(core.joinpath(*name.split(".")[2:]))] if not names else []
        sys.modules[name] = made

    def first(*_: Any) -> int:
        return 0

    ranks = {
        f"get_{kind}_{what}": first
        for kind in ("expert_gtp_weight_remat", "gtp_weight_remat", "expert_model_parallel", "expert_tensor_parallel",
                     "tensor_model_parallel")
        for what in ("rank", "world_size", "group")
    }  # fmt: skip
    before = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "megatron"}
    for name in before:
        del sys.modules[name]
    for name in ("megatron", "megatron.core", "megatron.core.tensor_parallel", "megatron.core.transformer"):
        stand_in(name)
    stand_in("megatron.core.parallel_state", **ranks)
    stand_in(
        "megatron.core.utils", get_pg_rank=first, get_pg_size=lambda _: 1, divide=lambda a, b: a // b,
        is_torch_min_version=lambda _: True, is_te_min_version=lambda _: True,
        get_tensor_model_parallel_group_if_none=lambda group: group,
        safely_set_viewless_tensor_data=lambda t, data: None,
    )  # fmt: skip
    stand_in("megatron.core.transformer.cuda_graphs", is_graph_capturing=lambda: False, is_graph_warmup=lambda: False)
    try:
        yield tuple(importlib.import_module(f"megatron.core.tensor_parallel.{n}") for n in ("cross_entropy", "random"))
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "megatron"]:
            del sys.modules[name]
        sys.modules.update(before)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A group of one: reductions leave what they are given."""
    reduce = torch.distributed.all_reduce
    torch.distributed.all_reduce = lambda *_, **__: None
    try:
        yield
    finally:
        torch.distributed.all_reduce = reduce


class Kernel:
    """A kernel of Triton's, which allocates nothing."""

    def __getitem__(self, grid: Any) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> None:
        """Launched."""


def engine_loss() -> Any:
    """Transformer Engine's function, its two files loaded with kernels that do nothing."""
    spec = importlib.util.find_spec("transformer_engine")
    assert spec is not None
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "pytorch"
    kernels = types.ModuleType("kernels")
    kernels.online_softmax_kernel = kernels.cross_entropy_kernel = kernels.element_mul_kernel = Kernel()
    triton = types.ModuleType("triton")
    triton.next_power_of_2 = lambda n: 1 << (n - 1).bit_length()
    packages = {}
    for name in ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.triton"):
        packages[name] = types.ModuleType(name)
        packages[name].__path__ = [str(folder.joinpath("..", *name.split(".")[1:]))]
    names = {**packages, "triton": triton, "transformer_engine.common.triton.cross_entropy": kernels}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        found = importlib.import_module("transformer_engine.pytorch.cross_entropy")
    finally:
        for name in [n for n in sys.modules if n.startswith("transformer_engine")]:
            del sys.modules[name]
        for name, was in before.items():
            sys.modules.pop(name, None)
            if was is not None:
                sys.modules[name] = was
    # It compares shapes first, and they differ.
    found.triton_cross_entropy.torch = types.SimpleNamespace(**{**vars(torch), "equal": lambda *_: False})
    return found


def by_engine(found: Any) -> Any:
    """As Megatron-Core calls it, in a group of one."""

    def loss(logits: Any, labels: Any, tp_group: Any) -> Any:
        labels = torch.as_strided(labels, labels.size(), (labels.size()[1], 1))
        return found.CrossEntropyFunction.apply(logits, labels, 0.0, False, None, -100, False)

    return types.SimpleNamespace(vocab_parallel_cross_entropy=loss)


def parallel_loss(cross_entropy: Any, logits: Any, batch: dict[str, Any]) -> Any:
    """``compute_language_model_loss`` and ``loss_func``, around Megatron's function."""
    labels = batch["labels"].transpose(0, 1).contiguous()
    # Megatron's own head makes them tokens first.
    logits = logits.view(*labels.shape, -1)
    losses = cross_entropy.vocab_parallel_cross_entropy(logits, labels, tp_group=object())
    losses = losses.transpose(0, 1).contiguous()
    del logits, labels
    mask = batch["loss_mask"].view(-1).float()
    loss = torch.sum(losses.view(-1).float() * mask)
    count = mask.sum().clone().detach().to(torch.int)
    loss /= torch.clamp(count, min=1)
    return loss


def emptied(r: Recorder, t: torch.UntypedStorage) -> None:
    """What ``resize_(0)`` does to a storage: its memory is gone, though tensors share it."""
    key = t._cdata
    n = r._known[key]
    r.order.append(~n)
    r._watched[n] = weakref.ref(t, lambda _: r._known.pop(key, None))


@contextlib.contextmanager
def without_memory(random: Any, r: Recorder) -> Iterator[None]:
    """Storages without data are emptied, and show another's memory, in what the recorder is told alone."""
    resize = torch.UntypedStorage.resize_

    def resized(storage: torch.UntypedStorage, size: int) -> Any:
        return emptied(r, storage) if size == 0 else resize(storage, size)

    def share(shown: torch.Tensor, own: torch.Tensor) -> None:
        # As the extension's reference to the storage whose memory is shown.
        weakref.finalize(shown.untyped_storage(), lambda held: None, own.untyped_storage())

    random._get_all_rng_states = lambda: (None, None, None)
    random._set_all_rng_states = lambda *_: None
    random._get_share_storage = lambda: share
    torch.UntypedStorage.resize_ = resized
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize


def norms(checkpoint: Any, layer: Any, patched: Callable[..., None]) -> None:
    """As ``TransformerLayer``: the norm's output is let go of behind the block that it is for."""
    before_mlp = getattr(layer, "pre_feedforward_layernorm", None) or layer.post_attention_layernorm
    for norm, block in ((layer.input_layernorm, layer.self_attn), (before_mlp, layer.mlp)):
        made: list[Any] = []

        def normed(x: Any, run: Any = norm.forward, made: list[Any] = made) -> Any:
            made.append(checkpoint())
            return made[0].checkpoint(run, x)

        def ran(*args: Any, run: Any = block.forward, made: list[Any] = made, **kwargs: Any) -> Any:
            out = run(*args, **kwargs)
            made.pop().discard_output_and_register_recompute(out[0] if isinstance(out, tuple) else out)
            return out

        patched(norm, "forward", normed)
        patched(block, "forward", ran)


def activations(checkpoint: Any, layer: Any, patched: Callable[..., None]) -> None:
    """As ``TEGroupedMLP``: what is activated is let go of behind the second product."""
    from transformers.integrations import moe

    experts = getattr(layer.mlp, "experts", None)
    if experts is None:
        return
    gate, product, made = experts._apply_gate, moe._grouped_linear, list[Any]()

    def gated(x: Any) -> Any:
        made.append(checkpoint())
        return made[0].checkpoint(gate, x)

    def multiplied(*args: Any, **kwargs: Any) -> Any:
        out = product(*args, **kwargs)
        if made:
            made.pop().discard_output_and_register_recompute(out)
        return out

    patched(experts, "_apply_gate", gated)
    patched(moe, "_grouped_linear", multiplied)


def projections(checkpoint: Any, layer: Any, patched: Callable[..., None]) -> None:
    """As ``MLASelfAttention``: queries, keys and values are let go of behind the kernel."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import apply_rotary_pos_emb_interleave

    a = layer.self_attn

    def attention(hidden_states: Any, position_embeddings: Any, attention_mask: Any = None, **_: Any) -> Any:
        B, T = hidden_states.shape[:2]
        ranks = [a.kv_lora_rank, a.qk_rope_head_dim]
        q = a.q_a_layernorm(a.q_a_proj(hidden_states))
        latent, k_rot = a.kv_a_proj_with_mqa(hidden_states).split(ranks, dim=-1)
        latent = a.kv_a_layernorm(latent)

        def up(q: Any, latent: Any, k_rot: Any, cosine: Any, sine: Any) -> Any:
            q = a.q_b_proj(q).view(B, T, -1, a.qk_head_dim).transpose(1, 2)
            q_pass, q_rot = q.split([a.qk_nope_head_dim, a.qk_rope_head_dim], dim=-1)
            q_rot, k_rot = apply_rotary_pos_emb_interleave(q_rot, k_rot.view(B, 1, T, -1), cosine, sine)
            queries = torch.cat((q_pass, q_rot), dim=-1)
            return queries, *a.expand_kv(latent.view(B, 1, T, -1), k_rot)

        made = checkpoint()
        q, k, v = made.checkpoint(up, q, latent, k_rot, *position_embeddings)
        kernel = ALL_ATTENTION_FUNCTIONS[a.config._attn_implementation]
        out = kernel(a, q, k, v, attention_mask, dropout=0.0, scaling=a.scaling)[0]
        out = out.reshape(B, T, -1).contiguous()
        made.discard_output_and_register_recompute(out)
        return a.o_proj(out), None

    patched(a, "forward", attention)


PARTS: Final = {"mla_up_proj": projections, "moe_act": activations, "layernorm": norms}
"""In an order in which the last one's wrapper lies outermost."""


@contextlib.contextmanager
def discarding(random: Any, model: Any, modules: list[str], r: Recorder) -> Iterator[None]:
    """The model's layers with Megatron's ``CheckpointWithoutOutput`` where its own layers have it."""
    before: list[tuple[Any, str, Any]] = []

    def patched(where: Any, name: str, made: Any) -> None:
        before.append((where, name, getattr(where, name)))
        setattr(where, name, made)

    with without_memory(random, r):
        for layer in model.model.layers if modules else ():
            for part in (part for name, part in PARTS.items() if name in modules):
                part(lambda: random.CheckpointWithoutOutput(fp8=None), layer, patched)
        try:
            yield
        finally:
            for where, name, was in reversed(before):
                setattr(where, name, was)


def step_of(said: dict[str, Any], cross_entropy: Any, model: Any) -> tuple[dict[str, Any], Callable[[], Any]]:
    """The batch, and a forward pass, with Megatron's loss or the model's own."""
    shape = (said["batch"], said["seq"])
    parallel = "loss" in said
    if said.get("loss") == "vocab-parallel-te":
        cross_entropy = by_engine(engine_loss())
    batch = {name: torch.empty(shape, dtype=torch.int64) for name in ("input_ids", "labels")[: 1 + parallel]}
    if parallel:
        batch["loss_mask"] = torch.empty(shape)
    autocast = FORMATS[said["precision"]][1]

    def run() -> Any:
        with torch.autocast("cuda", dtype=autocast) if autocast else contextlib.nullcontext():
            if parallel:
                return parallel_loss(cross_entropy, model(input_ids=batch["input_ids"]).logits, batch)
            return model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss

    return batch, run


def peaks(family: str, said: dict[str, Any]) -> list[int]:
    """The most that tensors take in the forward pass, the backward pass and the step. [byte]"""
    core = found()
    assert core is not None
    weights, _ = FORMATS[said["precision"]]
    tracing = Tracing(item=1.0)
    with modules(core) as (cross_entropy, random), alone(), tracing:
        tracing.phase("load")
        config = transformers.AutoConfig.for_model(**CONFIGS[family])
        model = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=said.get("attention", "sdpa"), dtype=weights
        )
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                # As loading leaves it.
                buffer.data = buffer.data.float()
        model.train()
        batch, run = step_of(said, cross_entropy, model)
        step = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        loss = None
        named = said["recompute"].split(",") if "recompute" in said else []
        with discarding(random, model, named, tracing.recorder):
            for number in (1, 2):
                tracing.step(number)
                loss = run()
                loss.backward()
                step.step()
                step.zero_grad()
        tracing.phase("end")
    seen = levels(tracing.trace())
    parts: dict[str, range] = {}
    for name, start, stop in seen.traced.phases():
        if stop > start:
            parts.setdefault(name, range(start - 1, stop))
    del batch
    return [max(seen.requested[i] for i in parts[f"step2.{kind}"]) for kind in KINDS]


def main() -> None:
    """Record every case."""
    runs = [{"family": family, "said": said, "peaks": peaks(family, said)} for family, said in cases()]
    how = "tests/reference/megatron_runs.py: Megatron-Core 0.19.0, Transformer Engine 2.18, torch 2.13.0, "
    how += "transformers 5.23.0"
    path = Path(__file__).parent.parent / "data" / "megatron.json"
    lines = ",\n".join(json.dumps(run) for run in runs)
    path.write_text(f'{{"made": {json.dumps(how)}, "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
