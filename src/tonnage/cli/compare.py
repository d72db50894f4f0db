"""``tonnage compare``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.flags import switch, text
from tonnage.cli.options import OUTPUT, READ, waiting


@click.command(short_help="What a config predicts beside what a file holds.")
@click.argument("left")
@click.argument("right")
@text("--model", "The model of a launch command, where it cannot be read.", "MODEL")
@text("--gpu", "The device of a log (tonnage devices), or a size.", "DEVICE")
@text("--in-use", "What others held on it, such as 2341MiB.", "SIZE")
@text("--engine-version", "The engine's release, where the log does not tell.")
@READ
@text("--html", "Write both runs over time, side by side on one scale, for a browser.", "FILE")
@switch("--strict", "Exit 1 where tensors differ.")
@OUTPUT
def command(left: str, right: str, as_json: bool, strict: bool, **given: Any) -> int:
    """Tensors that a model (a config, a name) and a file of weights, or two such files, do not share.

    Missing are those of LEFT that RIGHT lacks, extra those that only RIGHT has, resized those with another size. A
    folder or a repository of the Hub that holds both is its config on the LEFT and its weights on the RIGHT:
    tonnage compare org/name org/name tells whether its files hold what its config describes.

    A file that tonnage trace --out wrote, or a result that --json printed, is laid beside another one, or beside what
    a MODEL is predicted to take for the same workload: line by line, to the byte. So is a profile of a run: a memory
    snapshot of PyTorch, an Nsight Systems SQLite export, a Chrome trace or memory timeline of torch.profiler, a memory
    analysis of XLA, a device memory profile of JAX (tonnage train MODEL --json > a.json; tonnage compare a.json
    b.pickle). --html draws two such runs side by side.

    The log of vLLM, SGLang or llama.cpp is laid beside what the command that started it (or a MODEL, under what the log
    states) is predicted to take: tonnage compare "vllm serve org/name -tp 2" boot.log --gpu h100-sxm-80gb. It names
    the single assumptions with which the printed figures would follow.
    """
    from tonnage import comparisons
    from tonnage.cli.show import dumped
    from tonnage.report.compare import as_dict, render

    if given["html"] is not None:
        from tonnage.cli.show import written
        from tonnage.report.timeline_html import render_pair

        written(render_pair(*comparisons.timelines(left, right)), given["html"], "html")
    held = comparisons.beside_log(
        left, right, **{key: given[key] for key in ("model", "gpu", "in_use", "engine_version")}
    )
    if held is not None:
        from tonnage.report import log

        if as_json:
            dumped(log.as_dict(*held))
        else:
            print(log.render(*held))
        return int(strict and held[2].differs)
    results = comparisons.beside(left, right)
    if results is not None:
        from tonnage.report import beside

        if as_json:
            dumped(beside.as_dict(left, right, *results))
        else:
            print(beside.render(left, right, *results))
        return int(strict and not beside.as_dict(left, right, *results)["equal"])
    with waiting() as progress:
        found = comparisons.compare(
            left,
            right,
            head=given["head"],
            ignore_keys=given["ignore_key"],
            ignore_unknown=given["ignore_unknown"],
            progress=progress,
        )
    if as_json:
        dumped(as_dict(*found))
    else:
        print(render(*found))
    return int(strict and bool(found[3]))
