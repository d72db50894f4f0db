"""AOTAutograd's partitioner and inductor's buffers, run on fake tensors: what torch itself keeps and takes.

Attention calls the CUDA kernel's own operation, whose shapes every build knows. Nothing is compiled: of inductor the
generated Python is read, where each buffer is taken, handed on or let go of.
"""

from __future__ import annotations

import ast
import contextlib
import re
from copy import copy
from typing import Any, Final

import torch
from torch._functorch import partitioners
from torch._functorch.aot_autograd import aot_function
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

WIDTHS: Final = {"torch.bfloat16": 2, "torch.float32": 4, "torch.int64": 8, "torch.bool": 1}


def _attention(module: Any, query: Any, key: Any, value: Any, mask: Any = None, scaling: Any = None, **_: Any) -> Any:
    if torch.is_autocast_enabled("cpu"):
        query, key, value = (t.to(torch.bfloat16) for t in (query, key, value))
    made = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scaling)
    return made[0].transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("one_kernel", _attention)


class _StopError(Exception):
    pass


SAVED: Final = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
)
"""Of torchtitan 0.2.2's list (llama3/infra/parallelize.py), what runs here; of mm it saves every other one."""


def _tagged(joint: Any) -> None:
    """What a selective checkpoint's policy says of each operation, as Dynamo notes it."""
    from torch.utils.checkpoint import CheckpointPolicy

    products = 0
    for node in joint.graph.nodes:
        if node.op != "call_function" or node.meta.get("partitioner_tag") == "is_backward":
            continue
        products += node.target is torch.ops.aten.mm.default
        saves = node.target in SAVED or (node.target is torch.ops.aten.mm.default and products % 2)
        of = node.args[0].meta.get("recompute") if "getitem" in node.name else None
        how = CheckpointPolicy.MUST_SAVE if saves else CheckpointPolicy.PREFER_RECOMPUTE
        node.meta["recompute"], node.meta["ac_graph_id"] = of or how, 0


def _partitioned(
    run: Any, parameters: dict[str, Any], given: Any, *, draws: bool, selective: bool = False
) -> tuple[Any, Any, int]:
    """Forward and backward graph, and how many results the first has beside what it keeps."""
    found: list[Any] = []

    def partition(joint: Any, inputs: Any, *, num_fwd_outputs: int, **_: Any) -> Any:
        if not draws:
            # Inductor's own passes need its compiler where they replace random numbers.
            from torch._inductor.fx_passes.joint_graph import joint_graph_passes

            joint_graph_passes(joint)
        if selective:
            _tagged(joint)
        weights = list(range(len(parameters)))
        found.extend(partitioners.min_cut_rematerialization_partition(
            joint, inputs, num_fwd_outputs=num_fwd_outputs, static_lifetime_input_indices=weights
        ))  # fmt: skip
        found.append(num_fwd_outputs)
        raise _StopError

    def whole(weights: list[Any], *rest: Any) -> Any:
        return run(dict(zip(parameters, weights, strict=True)), *rest)

    compiled = aot_function(
        whole, fw_compiler=lambda g, _: g, bw_compiler=lambda g, _: g, partition_fn=partition,
        decompositions=select_decomp_table(),
    )  # fmt: skip
    with contextlib.suppress(_StopError):
        compiled(list(parameters.values()), *given)
    return found[0], found[1], found[2]


def _model(config: dict[str, Any], layers: dict[str, int], *, autocast: bool) -> Any:
    said = {**config, **layers}
    kind = said.pop("model_type")
    made = AutoConfig.for_model(kind, **said)
    made._attn_implementation = "one_kernel"
    torch.set_default_dtype(torch.float32 if autocast else torch.bfloat16)
    try:
        model = AutoModelForCausalLM.from_config(made)
    finally:
        torch.set_default_dtype(torch.float32)
    return model.train()


def whole(
    config: dict[str, Any], layers: dict[str, int], batch: int, tokens: int, *, autocast: bool = False,
    draws: bool = False,
) -> tuple[Any, Any, int]:  # fmt: skip
    """Both graphs of a model with its loss."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _model(config, layers, autocast=autocast)
        weights, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        return _with_loss(model, weights, buffers, batch, tokens, autocast, draws)


def adapted(
    config: dict[str, Any], layers: dict[str, int], batch: int, tokens: int, targets: Any, dropout: float,
    *, packed: bool | None = None,
) -> tuple[Any, Any, int]:  # fmt: skip
    """Both graphs of a model with peft's adapters of rank 16; with ``packed`` beside matrices of 4 bit, nested or
    not."""
    from peft import LoraConfig, get_peft_model

    model = _model(config, layers, autocast=False)
    if packed is not None:
        _pack(model, nested=packed)
    model = get_peft_model(model, LoraConfig(r=16, target_modules=targets, lora_dropout=dropout))
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        weights = {name: mode.from_tensor(t) for name, t in model.named_parameters()}
        buffers = {name: mode.from_tensor(t) for name, t in model.named_buffers()}
        return _with_loss(model, weights, buffers, batch, tokens, False, dropout > 0)


def _pack(model: Any, *, nested: bool) -> None:
    """bitsandbytes' modules in place of the layers' matrices, their states known to the module alone."""
    import bitsandbytes as bnb

    class Packed(bnb.nn.Linear4bit):  # type: ignore[misc,name-defined]
        def told(self) -> None:
            # The compiler finds the state's tensors as inputs.
            self.state = state = self.weight.quant_state
            self.register_buffer("scales", state.absmax)
            if state.nested:
                self.register_buffer("shift", state.offset)
                self.register_buffer("scales_of_scales", state.state2.absmax)
                self.register_buffer("code_of_scales", state.state2.code)

        def forward(self, x: Any) -> Any:
            state = copy(self.state)
            state.absmax = self.scales
            if state.nested:
                state.offset, state.state2 = self.shift, copy(state.state2)
                state.state2.absmax, state.state2.code = self.scales_of_scales, self.code_of_scales
            return bnb.matmul_4bit(x, self.weight.t(), quant_state=state)

    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, found in list(part.named_children()):
                if isinstance(found, torch.nn.Linear):
                    made = Packed(
                        found.in_features, found.out_features, bias=False, compute_dtype=torch.bfloat16,
                        compress_statistics=nested, quant_type="nf4",
                    )  # fmt: skip
                    weight = found.weight.data
                    made.weight = bnb.nn.Params4bit(
                        weight, requires_grad=False, quant_type="nf4", compress_statistics=nested
                    )
                    made.to("cpu")
                    made.told()
                    setattr(part, name, made)
    model.is_loaded_in_4bit = True


def _with_loss(
    model: Any, weights: dict[str, Any], buffers: dict[str, Any], batch: int, tokens: int, autocast: bool, draws: bool
) -> tuple[Any, Any, int]:
    ids = torch.randint(0, 100, (batch, tokens))

    def run(given: dict[str, Any], held: list[Any], ids: Any) -> Any:
        named = {**given, **dict(zip(buffers, held, strict=True))}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made = torch.func.functional_call(model, named, (), {"input_ids": ids, "labels": ids, "use_cache": False})
        return made.loss, made.logits

    return _partitioned(run, weights, (list(buffers.values()), ids), draws=draws)


def one_layer(
    config: dict[str, Any], layers: dict[str, int], batch: int, tokens: int, *, selective: bool = False
) -> tuple[Any, Any, int]:
    """Both graphs of a model's first layer."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _model(config, layers, autocast=False)
        layer, width = model.model.layers[0], config["hidden_size"]
        x = torch.randn(batch, tokens, width, dtype=torch.bfloat16, requires_grad=True)
        half = config.get("head_dim", width // config["num_attention_heads"])
        tables = [torch.randn(1, tokens, half, dtype=torch.bfloat16) for _ in range(2)]

        def run(weights: dict[str, Any], x: Any, cosine: Any, sine: Any) -> Any:
            made = torch.func.functional_call(layer, weights, (x,), {"position_embeddings": (cosine, sine)})
            return made[0] if isinstance(made, tuple) else made

        return _partitioned(run, dict(layer.named_parameters()), (x, *tables), draws=False, selective=selective)


def kept(graphs: tuple[Any, Any, int], *, inputs: tuple[str, ...] = ()) -> dict[str, int]:
    """What the forward graph keeps that is no weight, each storage once, and of its ``inputs`` those named. [byte]"""
    forward, _, results = graphs
    found: dict[str, int] = {}
    seen = set()
    for node in list(forward.graph.nodes)[-1].args[0][results:]:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or (node.op == "placeholder" and node.name not in inputs):
            continue
        storage = value.untyped_storage()
        key = StorageWeakRef(storage).cdata
        found[node.name] = 0 if key in seen else storage.nbytes()
        seen.add(key)
    return found


def written(graph: Any) -> str:
    """The Python that inductor writes for a graph."""
    from torch._inductor.compile_fx import view_to_reshape
    from torch._inductor.debug import DebugContext
    from torch._inductor.fx_passes.post_grad import post_grad_passes
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    given = [n.meta["val"] for n in graph.graph.nodes if n.op == "placeholder"]
    view_to_reshape(graph)
    with V.set_fake_mode(next(v for v in given if isinstance(v, torch.Tensor)).fake_mode):
        post_grad_passes(graph, is_inference=False)
        lowered = GraphLowering(graph, example_inputs=given, is_inference=False)
        with V.set_graph_handler(lowered), V.set_debug_handler(DebugContext()):
            lowered.run(*given)
            return str(lowered.codegen()[0].value)


def highest(code: str, there: dict[str, int]) -> int:
    """The most that is alive at once, ``there`` at the beginning. [byte]

    A buffer that one kernel alone names is room that a CPU's kernel writes intermediate numbers to: a GPU's has
    registers for that.
    """
    lines = code[code.index("def call(") :].splitlines()
    sizes: list[int] = []
    owner: dict[str, int] = {}
    names: list[int] = []
    live = top = 0
    waiting: dict[str, int | None] = {}

    def born(name: str, size: int) -> None:
        nonlocal live, top
        owner[name] = len(sizes)
        sizes.append(size)
        names.append(1)
        live += size
        top = max(top, live)

    for name, size in there.items():
        born(name, size)
    for raw in lines:
        line = raw.strip()
        if line.startswith("def ") and "call(" not in line:
            break
        if made := re.match(r"(buf\w+) = empty_strided_\w+\((\(.*?\)), (\(.*?\)), (torch\.\w+)\)", line):
            if not _own(made[1], lines):
                born(made[1], _bytes(made[2], made[3], WIDTHS[made[4]]))
        elif made := re.match(r"(\w+) = (?:reinterpret_tensor\()?(\w+).*; del \2\s+# reuse", line):
            if made[2] in owner:
                owner[made[1]] = owner.pop(made[2])
        elif made := re.match(r"(\w+) = reinterpret_tensor\((\w+), .*\)\s+# alias", line):
            if made[2] in owner:
                owner[made[1]] = owner[made[2]]
                names[owner[made[1]]] += 1
        elif made := re.match(r"(buf\w+) = buf\w+\[\d+\]", line):
            waiting[made[1]] = None
        elif made := re.match(r"(buf\w+) = extern_kernels\._grouped_mm\(", line):
            # A result of its own, in 16 bit.
            waiting[made[1]] = 2
        elif (made := re.match(r"assert_size_stride\((\w+), (\(.*?\)), (\(.*?\))", line)) and made[1] in waiting:
            # A kernel's results: heads in 16 bit, a number a row in fp32, a seed.
            rank, width = len(ast.literal_eval(made[2])), waiting.pop(made[1])
            born(made[1], _bytes(made[2], made[3], width or {4: 2, 3: 4}.get(rank, 8)))
        elif (made := re.match(r"del (\w+)$", line)) and made[1] in owner:
            index = owner.pop(made[1])
            names[index] -= 1
            live -= 0 if names[index] else sizes[index]
    return top


def _bytes(shape: str, stride: str, width: int) -> int:
    sides, steps = ast.literal_eval(shape), ast.literal_eval(stride)
    return (sum((n - 1) * s for n, s in zip(sides, steps, strict=True)) + 1) * width


def _own(name: str, lines: list[str]) -> bool:
    uses = [line for line in lines if re.search(rf"\b{name}\b", line) and "empty_strided" not in line]
    return len(uses) == 2 and uses[0].strip().startswith("cpp_fused") and uses[1].strip() == f"del {name}"
