"""`deploykit inspect`"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click


@click.command("inspect")
@click.argument("subject", type=click.Path(path_type=Path), metavar="BUNDLE|ONNX")
@click.option("--engines", is_flag=True, help="The layers of a bundle's compiled engines, not its graph's nodes.")
@click.option("--profile", default=0, type=click.IntRange(min=0), metavar="CALLS",
              help="With --engines: each layer's GPU time, as the mean of so many calls.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(subject: Path, engines: bool, profile: int, as_json: bool) -> None:
    """What is inside a bundle or an ONNX file: node by node, with the PyTorch module that each comes from."""
    from deploykit.report import engine, precision, terminal
    from deploykit.report.document import document
    from deploykit.workflows import bundles

    if profile and not engines:
        raise click.UsageError("--profile is for --engines.")
    if engines:
        accounts = bundles.engines(subject, profile)
        if as_json:
            click.echo(document("engines", accounts))
        else:
            terminal.console().print(engine.accounts(accounts))
        return
    manifest, rows = bundles.inspect(subject)
    if as_json:
        click.echo(document("layers", rows))
        return
    out = terminal.console()
    if manifest is not None:
        out.print(terminal.summary(manifest.model, manifest.weights, manifest.inputs, manifest.outputs, manifest.batch))
        out.print(terminal.verdict(manifest.parity, manifest.precision))
        out.print(precision.account(manifest.calibration, manifest.budget, manifest.receipt))
    out.print(terminal.layers(rows))
    kinds = Counter(row.op_type for row in rows)
    out.print(f"{len(rows)} nodes: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
