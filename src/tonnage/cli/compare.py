"""``tonnage compare``."""

from __future__ import annotations

from typing import Any

import click

from tonnage.cli.options import OUTPUT, waiting


@click.command(short_help="What a config predicts beside what a file holds.")
@click.argument("left")
@click.argument("right")
@click.option("--head", metavar="HEAD", help="Count this class: causal, masked, seq2seq, none, classify:N.")
@click.option("--ignore-key", multiple=True, metavar="KEY", help="A config key to pass over; may be repeated.")
@click.option("--ignore-unknown", is_flag=True, help="Pass over every config key that is not understood.")
@click.option("--strict", is_flag=True, help="Exit 1 where tensors differ.")
@OUTPUT
def command(left: str, right: str, as_json: bool, strict: bool, **given: Any) -> int:
    """Tensors that a model (a config, a name) and a file of weights, or two such files, do not share.

    Missing are those of LEFT that RIGHT lacks, extra those that only RIGHT has, resized those with another size. A
    folder or a repository of the Hub that holds both is its config on the LEFT and its weights on the RIGHT:
    tonnage compare org/name org/name tells whether its files hold what its config describes.
    """
    from tonnage import api
    from tonnage.cli.show import dumped
    from tonnage.report.compare import as_dict, render

    with waiting() as progress:
        found = api.compare(
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
