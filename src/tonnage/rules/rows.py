"""The rows: every rule with its statement, the case of its text, what it leaves out, and its errata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tonnage.errors import InputError, nearest
from tonnage.record import Value
from tonnage.rules import counting, sizing, storing, working
from tonnage.rules.dimensions import TOKENS

A: Final = "Memory requirement of a 1 B parameter model"
B: Final = "Parameters and memory requirements, a deep dive"
C: Final = "Calculating the memory of large AI models"

Number = int | float

CASES: Final[dict[str, str | dict[str, Any]]] = {
    # Exactly 10^9 parameters, exactly 10^10, and the worked example of the second text.
    "1 B": {"hidden": 1600, "layers": 30, "heads": 25, "vocab": 46_560, "positions": 2048, "tied": True},
    "10 B": {"hidden": 5120, "layers": 31, "heads": 40, "vocab": 46_032, "positions": 2048, "tied": True},
    "123 M": {"hidden": 768, "layers": 12, "heads": 12, "vocab": 50_000, "tied": True},
    "t5-base": "t5-base",
    "gpt-3-175b": "gpt-3-175b",
}
"""The texts' cases as models that the project can count: dimensions, or a name of the catalogue."""


class Rule(Value):
    """One rule of thumb.

    Args:
        id: the row's letter and number; further figures of a row have a small letter.
        text: title of the text it is from.
        statement: what it says.
        unit: of its value.
        function: the rule as code; None where the text gives nothing to compute.
        example: the case of the text, by the function's arguments; empty where there is no figure.
        case: the model that stands for it, a key of ``CASES``.
        note: what it leaves out, and what stands beside it.
        erratum: where the text contradicts its own formula.
    """

    id: str
    text: str
    statement: str
    unit: str = ""
    function: Callable[..., Number] | None = None
    example: Mapping[str, Any] = {}
    case: str = "123 M"
    note: str = ""
    erratum: str = ""

    @property
    def value(self) -> Number | None:
        """The figure of the text's own case, by its formula."""
        return self.of({})

    def of(self, dimensions: Mapping[str, Any]) -> Number | None:
        """The figure for other dimensions; what they do not name stays as in the text."""
        if self.function is None or not self.example:
            return None
        return self.function(**{key: dimensions.get(key, value) for key, value in self.example.items()})


_N: Final = {"parameters": 123_417_600}
_LAYER: Final = {"width": 768, "feed_forward": 3072}
_STEP: Final = {"batch": 1, "tokens": TOKENS}
_GROWN: Final = {"layers": 12, **_STEP, "width": 768, "vocabulary": 50_000}
_ONE: Final = {"parameters": 10**9}
_TEN: Final = {"parameters": 10**10}
_GPT3: Final = {"parameters": 175 * 10**9}
_GPT3_LAYER: Final = {"width": 12_288, "feed_forward": 4 * 12_288}
_PEAK: Final = "beside it: the tensors at the peak of one fp32 AdamW step over one sequence of 1,024 tokens"
_LINE: Final = "beside it: the weights line of tonnage serve"

_A_ROWS: Final = (
    Rule(id="A1", text=A, statement="weights = 4 B x parameters in fp32", unit="byte", function=storing.weights_bytes,
         example=_ONE, case="1 B", note=f"exact for storing weights; {_LINE} --dtype fp32"),
    Rule(id="A2", text=A, statement="training takes about 20 further bytes a parameter: 6 x the weights", unit="byte",
         function=storing.training_bytes, example=_ONE, case="1 B",
         note=f"leaves out that activations grow with batch and tokens, not with parameters; {_PEAK}"),
    Rule(id="A3", text=A, statement="storing needs the weights only, training 6 x as much (A2)", unit="byte",
         function=storing.storing_bytes, example=_ONE, case="1 B", note="beside it: the stored parameters in fp32"),
    Rule(id="A4", text=A, statement="quantization: fp16 instead of fp32", unit="byte", function=storing.quantized_bytes,
         example={**_ONE, "bits": 16}, case="1 B", note=f"{_LINE} --dtype fp16"),
    Rule(id="A4b", text=A, statement="quantization: int8 instead of fp32", unit="byte",
         function=storing.quantized_bytes, example={**_ONE, "bits": 8}, case="1 B",
         note="leaves out scales, and the tensors that a scheme leaves in 16 bits"),
)  # fmt: skip

_COUNTS: Final = (
    Rule(id="B1", text=B, statement="embedding = vocabulary x width", unit="parameter",
         function=counting.embedding_parameters, example={"vocabulary": 50_000, "width": 768}),
    Rule(id="B2", text=B, statement="attention = 4 width^2, no biases", unit="parameter",
         function=counting.attention_parameters, example={"width": 768},
         note="leaves out biases, shared key/value heads, head widths that do not add up; beside it: one layer"),
    Rule(id="B3", text=B, statement="FFN = 2 width d_ff + width + d_ff, d_ff usually 4 width", unit="parameter",
         function=counting.feed_forward_parameters, example=_LAYER,
         note="leaves out a gate's third matrix and experts; beside it: one layer",
         erratum="the text prints 4,719,616; its own formula gives 4,722,432"),
    Rule(id="B4", text=B, statement="layer norm = 2 width, two a layer", unit="parameter",
         function=counting.norm_parameters, example={"width": 768, "norms": 2},
         note="RMS norms have no shift: half; beside it: one layer"),
    Rule(id="B5", text=B, statement="total = N x layer + embedding (+ output)", unit="parameter",
         function=counting.total_parameters, example={"vocabulary": 50_000, **_LAYER, "layers": 12, "output": False},
         note="leaves out attention's biases and the norm behind the last layer",
         erratum="the text prints 7,081,984 a layer, 84,983,808 for 12 and 123,383,808 in all; by the formulas it is "
         "7,084,800, 85,017,600 and 123,417,600"),
    Rule(id="B11", text=B, statement="encoder and decoder stacks; cross attention in a decoder layer with an encoder",
         unit="parameter", function=counting.encoder_decoder_parameters, case="t5-base",
         example={"vocabulary": 32_128, **_LAYER, "encoder_layers": 12, "decoder_layers": 12, "output": False},
         note="the text has no figure of its own: this is T5-base, which has no biases and no shifts of norms"),
    Rule(id="B12", text=B, statement="performance ~ N^alpha, alpha about 0.07: 10 % better takes 1.1^(1/alpha) x N",
         unit="x", function=counting.parameters_ratio, example={"gain": 1.1, "alpha": 0.07},
         note="Kaplan et al. 2020 state it of the loss, with data and compute growing as well; scaling laws are not "
         "there yet",
         erratum="the text says 10^(1/alpha) = 3.7; 1.1^(1/0.07) is 3.9, and 10^(1/0.07) is 2 x 10^14"),
    Rule(id="B13", text=B, unit="parameter",
         statement="layers x (B2 + B3 + B4); GPT-3 by hypothetical values: width 12,288, d_ff 4 x, 96 layers",
         function=counting.stack_parameters, example={**_GPT3_LAYER, "layers": 96},
         case="gpt-3-175b", note="beside it: the layers of the catalogue's model, without embedding and positions",
         erratum="the text says 105.6 B in all; with B2 to B4 it is 174 B"),
    Rule(id="B13b", text=B, statement="one layer = B2 + B3 + B4; GPT-3 by hypothetical values", unit="parameter",
         function=counting.layer_parameters, example=_GPT3_LAYER, case="gpt-3-175b",
         note="beside it: one layer of the catalogue's model",
         erratum="the text says 1.1 B, its printed expression gives 6.04 B; with B2 to B4 it is 1.81 B"),
)  # fmt: skip

_BYTES: Final = (
    Rule(id="B6", text=B, statement="model memory in fp32", unit="byte", function=working.model_bytes,
         example={**_N, "bits": 32}, note=f"{_LINE} --dtype fp32",
         erratum="the text prints 493,535,232 B, from its total of B5; by the formulas it is 493,670,400"),
    Rule(id="B6b", text=B, statement="model memory in 16 bit", unit="byte", function=working.model_bytes,
         example={**_N, "bits": 16}, note=f"{_LINE} --dtype bf16",
         erratum="the text prints 246,767,616 B, from its total of B5; by the formulas it is 246,835,200"),
    Rule(id="B7", text=B, statement="working memory at inference = 2 x model memory", unit="byte",
         function=working.inference_working_bytes, example=_N,
         note="leaves out batch and context, with which it grows; beside it: the tensors at the peak of tonnage serve "
         "in fp32 with a context of 1,024",
         erratum="the text prints 988 MB, twice a model memory rounded to 494 MB; by the formulas it is 987.3 MB"),
    Rule(id="B7b", text=B, statement="working memory in training = 4 x model memory", unit="byte",
         function=working.training_working_bytes, example=_N,
         note=f"weights, gradients and Adam's moments are 4 x already, so it leaves out every activation; {_PEAK}",
         erratum="the text prints 1,976 MB, four times a model memory rounded to 494 MB; by the formulas it is "
         "1,974.7 MB"),
    Rule(id="B8", text=B, statement="steady state = 16 N + 8 B D: fp32 weights 4, Adam 8, gradients 4, int64 inputs",
         unit="byte", function=working.steady_bytes, example={**_N, **_STEP},
         note="the text names no batch: one sequence of 1,024 tokens; beside it: weights, optimizer state, gradients "
         "and inputs of a step that accumulates, which keeps its gradients"),
    Rule(id="B9", text=B, statement="activations = L (14 E + 4 B S S) + 6 B S V, E = B S H", unit="byte",
         function=working.activation_bytes, example=_GROWN,
         note="leaves out that each head has scores of its own; beside it: what is allocated at the loss beyond what "
         "is resident between steps, with eager attention",
         erratum="the itemised list (4 E a norm, 2 E + 2 E attention, 2 E + 8 E + 2 E FFN) does not add up to 14 E: "
         "with two norms it is 24 E"),
    Rule(id="B10", text=B, statement="peak = steady + activations + 4 B S V as backward begins", unit="byte",
         function=working.peak_bytes, example={**_N, **_GROWN}, note=f"{_PEAK}, with eager attention"),
    Rule(id="B14", text=B, statement="efficiency: five knobs, each with what it saves",
         note="rows B14a to B14e; where something does not fit, tonnage's own suggestion stands under the verdict"),
    Rule(id="B14a", text=B, statement="mixed precision: weights in 16 bit save", unit="byte",
         function=working.mixed_precision_saved_bytes, example={**_N, "bits": 16},
         note="autocast keeps fp32 weights and adds casted copies; beside it: what bf16-mixed saves at the peak of the "
         "training step"),
    Rule(id="B14b", text=B, statement="model parallelism: the weights over 8 devices save, on each", unit="byte",
         function=working.parallel_saved_bytes, example={**_N, "devices": 8},
         note="leaves out what is replicated and the buffers of communication"),
    Rule(id="B14c", text=B, statement="gradient checkpointing: activations that are computed again save", unit="byte",
         function=working.checkpointing_saved_bytes, example={key: _GROWN[key] for key in
         ("layers", "batch", "tokens", "width")},
         note="the text has no formula: this is B9 with the fp32 input of each layer kept; beside it: what --recompute "
         "full saves at the loss with eager attention"),
    Rule(id="B14d", text=B, statement="pruning to half and quantization to 8 bit save", unit="byte",
         function=working.compression_saved_bytes, example={**_N, "kept_percent": 50, "bits": 8},
         note="zeros that are stored save nothing; leaves out indices and scales"),
    Rule(id="B14e", text=B, statement="distillation: a student with half the layers saves", unit="byte",
         function=working.distillation_saved_bytes,
         example={"vocabulary": 50_000, **_LAYER, "layers": 12, "student_layers": 6, "output": False},
         note="while distilling, both are there; beside it: by the project's count of layers"),
    Rule(id="B15", text=B, statement="models whose sizes are not published", function=counting.closed_model_parameters,
         note="refused: no count is invented; a hypothetical model from dimensions can be counted: tonnage params "
         "--hidden ... --layers ... --heads ... --vocab ..."),
)  # fmt: skip

_C_ROWS: Final = (
    Rule(id="C1", text=C, statement="parameters x bytes a value", unit="byte", function=sizing.memory_bytes,
         example={**_GPT3, "bytes_per_value": 4}, case="gpt-3-175b", note=f"{_LINE} --dtype fp32",
         erratum='the sample code divides by 1024^3 and prints 651.93 "GB": that is GiB; 700 GB are 10^9'),
    Rule(id="C2", text=C, statement="training takes 3 x inference, at least", unit="byte",
         function=sizing.training_multiple_bytes, example={**_TEN, "times": 3}, case="10 B",
         note=f"weights, gradients and Adam's moments are 4 x already; {_PEAK}"),
    Rule(id="C2b", text=C, statement="training takes 4 x inference, at most", unit="byte",
         function=sizing.training_multiple_bytes, example={**_TEN, "times": 4}, case="10 B",
         note=f"leaves out every activation; {_PEAK}"),
    Rule(id="C3", text=C, statement="optimizer state: Adam takes twice the parameter memory", unit="byte",
         function=sizing.adam_bytes, example=_TEN, case="10 B",
         note="leaves out step counters and master weights; beside it: the optimizer_state line in fp32"),
    Rule(id="C4", text=C, statement="activations vary with the batch: twice the batch, so many times", unit="x",
         function=sizing.activation_growth, example={**_GROWN, "times_batch": 2},
         note="by B9, since the text gives no formula; beside it: by the figure that stands beside B9; "
         "checkpointing is B14c"),
    Rule(id="C4b", text=C, statement="activations vary with the sequence: twice the tokens, so many times", unit="x",
         function=sizing.activation_growth, example={**_GROWN, "times_tokens": 2},
         note="as C4; with flash attention the growth is linear in the tokens"),
    Rule(id="C5", text=C, statement="attention stores Q, K, V and grows with the square of the sequence",
         note="flash or sparse attention reduces it: --attention eager, sdpa or flash of tonnage train and tonnage "
         "serve, and the kv_cache line"),
    Rule(id="C6", text=C, statement="model parallelism fits larger models: the weights on each of 8 devices",
         unit="byte", function=sizing.parallel_bytes, example={**_GPT3, "devices": 8}, case="gpt-3-175b",
         note="costs latency of communication, which no memory figure shows; leaves out what is replicated"),
    Rule(id="C7", text=C, statement="from 32 to 8 bit saves 75 %; pruning removes weights", unit="share",
         function=sizing.saved_share, example={"before_bits": 32, "after_bits": 8}, case="gpt-3-175b",
         note="dynamic quantization at inference quantizes activations while running; leaves out scales"),
    Rule(id="C8", text=C, statement="deployment on memory-constrained devices (TensorFlow Lite, PyTorch Mobile)",
         note="their runtimes are not modelled; whether a model fits a small device is tonnage serve --gpu 4GiB"),
    Rule(id="C9", text=C, statement="hardware: A100 with 40 GB", unit="byte", function=sizing.device_bytes,
         example={"device": "a100-40gb"}, note="beside it: the vendor's figure in tonnage devices, which is 2^30"),
    Rule(id="C9b", text=C, statement="hardware: A100 with 80 GB", unit="byte", function=sizing.device_bytes,
         example={"device": "a100-80gb"}, note="as C9; bandwidth and shared pools stand in tonnage devices as well"),
    Rule(id="C9c", text=C, statement="hardware: TPU v4 with 32 GB", unit="byte", function=sizing.device_bytes,
         example={"device": "tpu-v4"}, note="as C9", erratum='the text says "per core"; it is per chip'),
    Rule(id="C10", text=C, statement="profilers: Nsight Systems, PyTorch's; frameworks: DeepSpeed, Megatron-LM",
         note="their files are to be read and compared with the prediction (compare, replay), which is not there yet"),
    Rule(id="C11", text=C, statement="reversible networks: activations independent of depth",
         note="no such kind of block is modelled; nearest is --recompute full of tonnage train, which keeps one tensor "
         "a layer"),
    Rule(id="C12", text=C, statement="neuromorphic and in-memory computing", function=sizing.neuromorphic_bytes,
         note="refused: not modelled, and no such device is a row of tonnage devices"),
)  # fmt: skip


def _in_order(rows: tuple[Rule, ...]) -> list[Rule]:
    """By number within a text, then by letter."""
    return sorted(rows, key=lambda r: (r.id[0], int("".join(filter(str.isdigit, r.id))), r.id))


RULES: Final[dict[str, Rule]] = {r.id: r for r in _in_order((*_A_ROWS, *_COUNTS, *_BYTES, *_C_ROWS))}
"""Every row by its id, in the order of the texts."""


def rule(name: str) -> Rule:
    """The row called ``name``.

    Raises:
        InputError: there is none.

    >>> rule("B5").value
    123417600
    """
    found = RULES.get(name)
    if found is None:
        raise InputError(f"no rule {name!r}", key="rule", value=name, nearest=nearest(name, RULES))
    return found
