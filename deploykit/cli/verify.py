"""`deploykit verify`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the parity record as a JSON document.")
def command(bundle: Path, as_json: bool) -> int:
    """BUNDLE's digests, then its golden inputs through its own graph; needs no PyTorch. Exit 1 where either fails."""
    from deploykit.bundle import load
    from deploykit.report import terminal
    from deploykit.report.document import document

    manifest = load.verify(bundle)
    if as_json:
        click.echo(document("self-test", manifest.parity))
    else:
        out = terminal.console()
        out.print(f"{len(manifest.files)} files are as they were written")
        out.print(terminal.verdict(manifest.parity, f"{manifest.precision} golden vectors"))
    return 0 if manifest.parity.passed else 1
