"""Trace unsloth's own functions, loss and checkpoints, and print each peak beside the closed form.

    python scripts/unsloth/trace.py FOLDER            a table: case, traced, answered, difference
    python scripts/unsloth/trace.py FOLDER --rows     rows as accuracy/cases/stacks.jsonl has them

FOLDER holds ``unsloth`` and ``unsloth_zoo`` of release 2026.10.9 as their wheels unpack. Needs torch 2.13, triton and
tonnage. Their modules are imported one by one, since the packages themselves look for a device; Triton's kernels are
not launched, and streams and events do nothing. A decoder of four layers is written out here as models/llama.py
``LlamaDecoderLayer_fast_forward`` calls them, with torch's flash attention; three whole steps run on tensors without
data, since the second buffer of the checkpoints is only there from the second on. What counts is the most that was
alive in the last, not rounded.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import tonnage as tn
from tonnage.tracing.levels import levels

D, F, LAYERS, N, K, H, V, POSITIONS, RANK = 512, 1408, 4, 8, 4, 64, 70_000, 4096, 8
BATCH = 2
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS,
    "num_attention_heads": N, "num_key_value_heads": K, "head_dim": H, "vocab_size": V,
    "max_position_embeddings": POSITIONS, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
SMALL: dict[str, Any] = {**CONFIG, "vocab_size": 1000}
QWEN: dict[str, Any] = {**SMALL, "model_type": "qwen3"}
GEMMA: dict[str, Any] = {
    **SMALL, "model_type": "gemma", "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
SAID: dict[str, Any] = {
    "stack": "unsloth", "stack_version": "2026.10", "lora_rank": RANK, "lora_targets": TARGETS, "batch": BATCH,
    "optimizer": "adamw-loop", "replay": False, "attention": "flash",
}  # fmt: skip
HOW = "three whole steps of its own functions traced with fake tensors, the most that was alive in the last"


def stub(name: str, path: str | None = None, **names: Any) -> ModuleType:
    """A module that stands in, or a package whose ``__init__`` does not run."""
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=path is not None)
    if path is not None:
        module.__path__ = [path]
    module.__dict__.update(names)
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    return module


def unsloth(folder: str) -> SimpleNamespace:
    """Its modules, imported while torch believes in a device; no kernel is launched."""
    from packaging.version import Version
    from triton.runtime.jit import KernelInterface

    KernelInterface.__getitem__ = lambda self, grid: lambda *a, **k: None
    cuda = {"DEVICE_TYPE": "cuda", "DEVICE_TYPE_TORCH": "cuda", "DEVICE_COUNT": 1, "ALLOW_PREQUANTIZED_MODELS": True,
            "is_hip": lambda: False, "get_device_type": lambda: "cuda"}  # fmt: skip
    stub("unsloth", f"{folder}/unsloth")
    stub("unsloth.kernels", f"{folder}/unsloth/kernels")
    stub("unsloth.device_type", **cuda)
    stub("unsloth.bnb_availability", native_kernels_ready=lambda *a: False)
    stub("unsloth_zoo", f"{folder}/unsloth_zoo")
    stub("unsloth_zoo.fused_losses", f"{folder}/unsloth_zoo/fused_losses")
    stub("unsloth_zoo.utils", Version=Version, _get_dtype=lambda d: d, is_distributed=lambda: False)
    stub("unsloth_zoo.integrated_device", _any_device_integrated=lambda: False)
    stub("unsloth_zoo.device_type", **cuda)
    stub("unsloth_zoo.temporary_patches", "")
    stub("unsloth_zoo.temporary_patches.common", torch_compile=_as_it_is, CHUNK_ALIGN_ROWS=16, torch_compile_options={})
    stub("unsloth_zoo.tiled_mlp", _default_target_gb=lambda device: 16.0)
    event = SimpleNamespace(record=lambda *a: None, wait=lambda *a: None)
    stream = SimpleNamespace(
        cuda_stream=0, wait_stream=lambda s: None, wait_event=lambda e: None, record_event=lambda *a: event
    )
    for name, made in {"Stream": stream, "Event": event, "current_stream": stream, "default_stream": stream}.items():
        setattr(torch.cuda, name, lambda *a, made=made, **k: made)
    torch.cuda.stream = lambda s: contextlib.nullcontext()
    torch.cuda.device = Place
    torch.cuda.mem_get_info = lambda *a: (32 * 2**30, 80 * 2**30)
    torch.cuda.get_device_properties = lambda *a: SimpleNamespace(
        total_memory=80 * 2**30, multi_processor_count=108, major=8, minor=0, name="device"
    )
    names = {
        "lora": "unsloth.kernels.fast_lora", "utils": "unsloth.kernels.utils", "norm": "unsloth.kernels.rms_layernorm",
        "rope": "unsloth.kernels.rope_embedding", "swiglu": "unsloth.kernels.swiglu",
        "geglu": "unsloth.kernels.geglu", "nf4": "unsloth.kernels.nf4",
        "qk": "unsloth.kernels.qk_norm_rope", "launches": "unsloth.kernels.triton_launch",
        "linear": "unsloth_zoo.fused_losses.fused_linear", "loss": "unsloth_zoo.fused_losses.chunked_logprob",
        "checkpoints": "unsloth_zoo.gradient_checkpointing",
    }  # fmt: skip
    found = SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})
    for module in (found.norm, found.nf4):
        for name in ("launch", "_launch"):
            if hasattr(module, name):
                setattr(module, name, lambda *a, **k: a[9] if len(a) == 10 else None)
    found.utils.dequantize_nf4_planned = lambda *a: None
    found.utils.dequantize_nf4 = _unpacked
    found.linear._fp32_out_ok = lambda *a: True
    found.linear._mm_fp32 = _product
    found.linear._addmm_fp32 = lambda acc, a, b: None
    found.linear._keep_index = _counted
    linear = found.linear

    class Loss(torch.autograd.Function):  # type: ignore[misc]
        """The loss's operation, of which a trace would see no more than what it hands back."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            made = linear._ce_impl(*inputs)
            linear._ce_setup(ctx, inputs, made)
            return made

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return linear._ce_backward(ctx, *gradients)

    setattr(torch.ops.unsloth_zoo, linear._CE_OP, Loss.apply)
    torch.ops.unsloth_zoo.fused_linear_scale_rows = linear._scale_rows_impl
    found.linear._launch = lambda device, fn: None
    found.checkpoints._reserve_pinned = lambda n: False
    return found


class Place:
    """``torch.cuda.device``, which changes nothing."""

    def __init__(self, device: Any) -> None:
        self.idx = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


def _as_it_is(function: Any = None, **how: Any) -> Any:
    return function if function is not None else lambda f: f


def _unpacked(W: Any, *rest: Any, out: Any = None) -> Any:
    shape, dtype = rest[-2:]
    return torch.empty(shape, dtype=dtype, device=W.device) if out is None else out


def _counted(targets: Any, mask: Any, words: int, ignored: int) -> tuple[Any, int]:
    """``_keep_index``, whose result depends on the data: every label counts but the last of each sequence."""
    keep = (targets >= 0) & (targets < words)
    keep &= targets != ignored
    counted = targets.numel() - BATCH
    return torch.empty(counted, dtype=torch.int64, device=targets.device), counted


def _product(a: Any, b: Any, out: Any = None) -> Any:
    """``torch.mm`` of half the width into fp32, for which there is no fake."""
    return torch.empty(a.shape[0], b.shape[1], dtype=torch.float32, device=a.device) if out is None else out


class Matrix(nn.Module):  # type: ignore[misc]
    """A frozen matrix, packed or not, with its adapter in fp32."""

    def __init__(self, outs: int, ins: int, *, packs: bool) -> None:
        super().__init__()
        n = outs * ins
        shape, form = ((n // 2, 1), torch.uint8) if packs else ((outs, ins), torch.bfloat16)
        self.weight = nn.Parameter(torch.empty(shape, dtype=form), requires_grad=False)
        self.a = nn.Parameter(torch.empty(RANK, ins))
        self.b = nn.Parameter(torch.empty(outs, RANK))
        self.state = None
        if packs:
            # The map of the scales' scales is the library's, one for all, and small.
            code = torch.empty(256, device="cpu")
            nested = SimpleNamespace(absmax=torch.empty(-(-n // 64 // 256)), code=code, blocksize=256)
            self.state = SimpleNamespace(
                absmax=torch.empty(n // 64, dtype=torch.uint8), shape=(outs, ins), dtype=torch.bfloat16, blocksize=64,
                code=torch.empty(16), offset=torch.empty(()), state2=nested, quant_type="nf4",
            )  # fmt: skip

    def given(self) -> tuple[Any, ...]:
        """As ``get_lora_parameters`` hands it over."""
        return self.weight, self.state, self.a, self.b, 1.0


class Layer(nn.Module):  # type: ignore[misc]
    """``LlamaDecoderLayer_fast_forward`` around ``LlamaAttention_fast_forward``, or Qwen3's."""

    def __init__(self, u: SimpleNamespace, *, packs: bool, heads: bool, drops: float, gemma: bool) -> None:
        super().__init__()
        self.u, self.drops, self.gemma = u, drops, gemma
        widths = [(N * H, D), (K * H, D), (K * H, D), (D, N * H), (F, D), (F, D), (D, F)]
        self.matrices = nn.ModuleList(Matrix(*w, packs=packs) for w in widths)
        self.norms = nn.ParameterList(
            nn.Parameter(torch.empty(w, dtype=torch.bfloat16), requires_grad=False)
            for w in ((D, D, H, H) if heads else (D, D))
        )

    def norm(self, x: Any, which: int) -> Any:
        return self.u.norm.Fast_RMS_Layernorm.apply(x, self.norms[which], 1e-6, self.gemma, True, not self.gemma)

    def attention(self, hidden_states: Any, tables: Any) -> Any:
        u, m = self.u, self.matrices
        batch, tokens, _ = hidden_states.size()
        p, none = (self.drops,) * 3 if self.drops else None, (None,) * 3
        Q, K_, V_ = u.lora.LoRA_QKV.apply(hidden_states, *m[0].given(), *m[1].given(), *m[2].given(), True, p, *none)
        if len(self.norms) > 2:
            Q, K_ = Q.view(batch, tokens, N, H), K_.view(batch, tokens, K, H)
            Q, K_ = u.qk.Fast_QK_Norm_RoPE.apply(
                Q, K_, self.norms[2], self.norms[3], *tables, tables[0], 1e-6, 1e-6, False
            )
            Q, K_ = Q.transpose(1, 2), K_.transpose(1, 2)
        else:
            Q = Q.view(batch, tokens, N, H).transpose(1, 2)
            K_ = K_.view(batch, tokens, K, H).transpose(1, 2)
            Q, K_ = u.rope.Fast_RoPE_Embedding_QK_Positions.apply(Q, K_, *tables)
        V_ = V_.view(batch, tokens, K, H).transpose(1, 2)
        A = functional.scaled_dot_product_attention(Q, K_, V_, is_causal=True, enable_gqa=True).transpose(1, 2)
        attn_output = A.reshape(batch, tokens, N * H)
        extra = (self.drops, None) if self.drops else ()
        return u.lora.LoRA_W.apply(attn_output, *m[3].given(), *extra)

    def feed_forward(self, x: Any) -> Any:
        u, m = self.u, self.matrices
        p, none = (self.drops,) * 3 if self.drops else None, (None,) * 3
        kernels = u.swiglu.swiglu_fg_kernel, u.swiglu.swiglu_DWf_DW_dfg_kernel
        if self.gemma:
            kernels = u.geglu.geglu_approx_forward_kernel, u.geglu.geglu_approx_backward_kernel
        return u.lora.LoRA_MLP.apply(x, *m[4].given(), *m[5].given(), *m[6].given(), *kernels, True, p, *none)

    def forward(self, hidden_states: Any, tables: Any) -> Any:
        residual = hidden_states
        hidden_states = self.norm(hidden_states, 0)
        hidden_states = self.attention(hidden_states, tables)
        hidden_states = residual + hidden_states
        residual = hidden_states
        hidden_states = self.norm(hidden_states, 1)
        hidden_states = self.feed_forward(hidden_states)
        return residual + hidden_states


class Decoder(nn.Module):  # type: ignore[misc]
    """``LlamaModel_fast_forward`` and ``CausalLM_fast_forward``."""

    def __init__(self, u: SimpleNamespace, way: str, words: int, *, gemma: bool, **how: Any) -> None:
        super().__init__()
        self.u, self.way, self.gemma = u, way, gemma
        self.embedding = nn.Embedding(words, D, dtype=torch.bfloat16).requires_grad_(False)
        self.layers = nn.ModuleList(Layer(u, gemma=gemma, **how) for _ in range(LAYERS))
        self.last = nn.Parameter(torch.empty(D, dtype=torch.bfloat16), requires_grad=False)
        head = nn.Parameter(torch.empty(words, D, dtype=torch.bfloat16), requires_grad=False)
        self.head = self.embedding.weight if gemma else head
        del head
        self.register_buffer("frequencies", torch.empty(H // 2))
        if gemma:
            # transformers' class keeps the embedding's factor.
            self.register_buffer("embed_scale", torch.empty((), dtype=torch.bfloat16))
        self.tables = torch.empty(POSITIONS, H, dtype=torch.bfloat16), torch.empty(POSITIONS, H, dtype=torch.bfloat16)

    def hidden(self, ids: Any) -> Any:
        embeds = self.embedding(ids)
        if self.way != "none":
            embeds.requires_grad_(True)
        if self.gemma:
            embeds = (embeds.detach() * 22.6).requires_grad_(embeds.requires_grad)
        hidden_states = embeds
        for layer in self.layers:
            run = lambda x, layer=layer: layer(x, self.tables)  # noqa: E731
            if self.way == "unsloth":
                hidden_states = self.u.checkpoints.UnslothCheckpointFunction.apply(run, True, hidden_states)
            elif self.way == "full":
                hidden_states = torch.utils.checkpoint.checkpoint(run, hidden_states, use_reentrant=True)
            else:
                hidden_states = run(hidden_states)
        return self.u.norm.Fast_RMS_Layernorm.apply(hidden_states, self.last, 1e-6, self.gemma, False, True)

    def forward(self, ids: Any) -> Any:
        hidden_states = self.hidden(ids)
        return self.u.loss.unsloth_chunked_ce_loss(hidden_states, self.head, None, ids, n_items=torch.ones(()))


def steps(t: Any, model: Any, tokens: int) -> None:
    """Three steps; the loop keeps what its local variables name."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, foreach=False)
    for number in (1, 2, 3):
        t.step(number)
        ids = torch.zeros(BATCH, tokens, dtype=torch.int64)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(ids)
        loss.backward()
        # As the Trainer hands it on.
        loss = loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def cases() -> list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Name, config, workload, and how the decoder is made."""
    plain: dict[str, Any] = {"packs": False, "heads": False, "drops": 0.0, "gemma": False}
    packed = {**plain, "packs": True}
    long = {**SAID, "seq": 2560}
    nf4, kept, full = {"quant": "nf4-dq"}, {"recompute": "none"}, {"recompute": "full"}
    drops = {"lora_dropout": 0.1}
    dropped, packed_dropped, heads = {**plain, "drops": 0.1}, {**packed, "drops": 0.1}, {**plain, "heads": True}
    return [
        ("unsloth-lora-tiles", CONFIG, long, plain),
        ("unsloth-qlora-tiles-kept", CONFIG, {**long, **nf4, **kept}, packed),
        ("unsloth-lora-rows", CONFIG, {**long, "seq": 1024}, plain),
        ("unsloth-lora", SMALL, long, plain),
        ("unsloth-qlora", SMALL, {**long, **nf4}, packed),
        ("unsloth-qlora-reentrant", SMALL, {**long, **nf4, **full}, packed),
        ("unsloth-lora-kept", SMALL, {**long, **kept}, plain),
        ("unsloth-qlora-kept", SMALL, {**long, **nf4, **kept}, packed),
        ("unsloth-lora-dropout", SMALL, {**long, **drops}, dropped),
        ("unsloth-qlora-dropout", SMALL, {**long, **nf4, **drops}, packed_dropped),
        ("unsloth-qlora-dropout-kept", SMALL, {**long, **nf4, **drops, **kept}, packed_dropped),
        ("unsloth-lora-qwen3", QWEN, long, heads),
        ("unsloth-lora-gemma", GEMMA, long, {**plain, "gemma": True}),
        ("unsloth-qlora-gemma-kept", GEMMA, {**long, **nf4, **kept}, {**packed, "gemma": True}),
        ("unsloth-lora-small", SMALL, {**SAID, "seq": 768}, plain),
        ("unsloth-qlora-qwen3-kept", QWEN, {**long, **nf4, **kept}, {**packed, "heads": True}),
    ]  # fmt: skip


def main() -> None:
    warnings.filterwarnings("ignore")
    u: SimpleNamespace | None = None
    for name, config, said, how in cases():
        with tn.trace(item=1.0) as t:
            u = u or unsloth(sys.argv[1])
            u.utils._SCRATCH.clear()
            # Of a storage that is resized, a trace counts the first size.
            u.checkpoints.INITIAL_GPU_BUFFER_SIZE = BATCH * said["seq"] * D
            with contextlib.redirect_stdout(None):
                u.checkpoints.initialize_unsloth_gradient_checkpointing(torch.bfloat16)
                steps(t, Decoder(u, said.get("recompute", "unsloth"), config["vocab_size"], **how), said["seq"])
            u.utils._SCRATCH.clear()
        found = levels(t.trace())
        peak = max(found.requested)
        model = {"config": config}
        if "--rows" in sys.argv:
            row = {"id": name, "model": model, "workload": {"task": "train", **said},
                   "measured": {"value": peak, "unit": "B", "counter": "requested"},
                   "source": f"unsloth 2026.10.9 on torch {torch.__version__}: {HOW}; not rounded",
                   "exactness": "traced", "seen": True}  # fmt: skip
            print(json.dumps(row))
        else:
            answered = tn.train(model, suggest=False, **said).fullest.tier("requested")
            print(f"{name:30s} {peak:>14,} {answered:>14,} {answered - peak:>+12,}")


if __name__ == "__main__":
    main()
