"""``tonnage models``."""

from __future__ import annotations

import click

from tonnage.cli.options import OUTPUT


@click.command(short_help="The models that are known by name.")
@click.argument("search", required=False, default="")
@OUTPUT
def command(search: str, as_json: bool) -> int:
    """The models that are known by name, with sources; those whose name has SEARCH in it."""
    from tonnage.cli.show import dumped
    from tonnage.report.catalogue import model_dict, models_table
    from tonnage.sources.catalogue import rows

    plain = search.lower()
    found = {name: row for name, row in rows().items() if plain in name or plain in str(row.get("hub", "")).lower()}
    if as_json:
        dumped({"schema": 1, "models": [model_dict(name, row) for name, row in found.items()]})
    else:
        print(models_table(found) if found else f"no model has {search!r} in its name")
    return 0
