"""``tonnage devices``."""

from __future__ import annotations

import click

from tonnage.cli.options import OUTPUT


@click.command(short_help="The accelerators that are known.")
@click.argument("search", required=False, default="")
@OUTPUT
def command(search: str, as_json: bool) -> int:
    """The accelerators that are known, with sources; those whose name has SEARCH in it."""
    from tonnage.cli.show import dumped
    from tonnage.devices import rows
    from tonnage.report.catalogue import device_dict, devices_table

    plain = search.lower()
    found = [d for d in rows() if plain in d.name or plain in d.title.lower() or plain in d.kind]
    if as_json:
        dumped({"schema": 1, "devices": [device_dict(d) for d in found]})
    else:
        print(devices_table(found) if found else f"no device has {search!r} in its name")
    return 0
