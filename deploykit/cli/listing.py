"""`deploykit list`"""

from __future__ import annotations

import click

from deploykit.export.networks import catalog


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def list_command(as_json: bool) -> None:
    """List the networks of the catalog: parameters, multiply-accumulates, input, classes, weights, paper."""
    rows = catalog.read_catalog()
    if as_json:
        from deploykit.report.document import encode_document

        click.echo(encode_document("catalog", rows))
        return
    from deploykit.report import terminal

    terminal.create_console().print(terminal.render_catalog(rows))
