"""`deploykit list`"""

from __future__ import annotations

import click

from deploykit.export.networks import catalog


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(as_json: bool) -> None:
    """The networks of the catalog: parameters, multiply-accumulates, input, weights, paper."""
    rows = catalog.rows()
    if as_json:
        from deploykit.report.document import document

        click.echo(document("catalog", rows))
        return
    from deploykit.report import terminal

    terminal.console().print(terminal.catalog(rows))
