"""`deploykit inspect`"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click


@click.command("inspect")
@click.argument("subject", type=click.Path(path_type=Path), metavar="BUNDLE|ONNX")
@click.option("--engines", is_flag=True, help="Show the layers of a bundle's engines instead of its graph's nodes.")
@click.option("--profile", default=0, type=click.IntRange(min=0), metavar="CALLS",
              help="Calls to profile with --engines: prints each layer's time.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def inspect_command(subject: Path, engines: bool, profile: int, as_json: bool) -> None:
    """Show what is in a bundle or an ONNX file, node by node, with the PyTorch module that each node comes from."""
    from deploykit.report import engine_layers, precision, terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows import bundles

    if profile and not engines:
        raise click.UsageError("--profile needs --engines.")
    if engines:
        accounts = bundles.inspect_engines(subject, profile)
        if as_json:
            click.echo(encode_document("engines", accounts))
        else:
            terminal.create_console().print(engine_layers.render_engines(accounts))
        return
    manifest, rows = bundles.inspect_graph(subject)
    if as_json:
        click.echo(encode_document("layers", rows))
        return
    out = terminal.create_console()
    if manifest is not None:
        out.print(
            terminal.render_summary(manifest.model, manifest.weights, manifest.inputs, manifest.outputs, manifest.batch)
        )
        out.print(
            terminal.render_verdict(
                manifest.parity,
                manifest.precision,
                subject,
                manifest.receipt,
                manifest.failures[len(manifest.parity.failures) :],
            )
        )
        out.print(precision.render_precision(manifest))
    out.print(terminal.nodes_table(rows))
    kinds = Counter(row.op_type for row in rows)
    out.print(f"{len(rows)} nodes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
