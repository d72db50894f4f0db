"""What is played of a token that is written, against the model's own code: every birth in order, every death."""

from __future__ import annotations

from typing import Any

import pytest
from tracing_cases import CONFIGS

import tonnage as tn
from tonnage.estimate.player_rollout import Turn, Writer
from tonnage.estimate.playing import Playing
from tonnage.estimate.serving import Run, Session
from tonnage.tracing import ask, request, run
from tonnage.workload import workload
from tonnage.workload.serving import Serve

ASKED: dict[str, Any] = {"context": 64, "prompt": 20, "concurrency": 2, "dtype": "bf16"}
NUMBER = 16
"""Bytes of the largest tensors that are but numbers: a kernel's seed and offset."""


class Block:
    """A block that knows its size."""

    def __init__(self, size: int) -> None:
        self.size = self.requested = size


class Log:
    """An allocator that writes down what it is asked."""

    allocated = peak_allocated = reserved = peak_reserved = 0

    def __init__(self) -> None:
        self.born: list[int] = []
        self.dead: list[int] = []

    def malloc(self, size: int) -> Block:
        self.born += [size] if size > NUMBER else []
        return Block(size)

    def free(self, block: Block) -> None:
        self.dead += [block.size] if block.size > NUMBER else []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "qwen3"])
def test_a_token_is_written_as_the_code_does(family: str) -> None:
    config = CONFIGS[family]
    model = tn.load({"config": config})
    job = request.serving(config, workload(Serve, ASKED), None, name="", head=ask.own_head(config, model)).job
    traced = run.model_trace(job)
    start, stop = next((a, b) for name, a, b in traced.phases() if name == "decode")
    sizes = [(n >= 0, traced.born[n if n >= 0 else ~n].size) for n in traced.order[start:stop]]
    wanted = [[size for comes, size in sizes if comes is birth and size > NUMBER] for birth in (True, False)]

    session = Session(
        dtype="bf16", kernel="flash", sequences=2, context=64, prompt=20, logits="last", latent=True, workspace=0
    )
    written, log = Run(model, session), Log()
    assert written.decode is not None
    tape = written.decode.tape
    writer = Writer(Playing(log, tape, 0, set()), written, 0)  # type: ignore[arg-type]
    for i, layer in enumerate(writer.layers):
        writer.cached[i] = [Block(s.nbytes) for s in written.decode.layers[id(layer)].found]  # type: ignore[misc]
    log.born.clear()
    writer._read(Turn(written.decode), [s.nbytes for s in tape.born])
    # The ids of the whole sequence are the caller's, and are joined between two steps.
    ids = written.decode.inputs[-1].nbytes
    assert [size for size in log.born if size != ids] == [size for size in wanted[0] if size != ids]
    assert sorted(size for size in log.dead if size != ids) == sorted(size for size in wanted[1] if size != ids)
