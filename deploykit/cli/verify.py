"""`deploykit verify`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the parity record as a JSON document.")
def verify_command(bundle: Path, as_json: bool) -> int:
    """Check BUNDLE's checksums, then run its golden inputs through its graph. Needs no PyTorch.

    Exit codes: 0 both passed, 1 one of them failed.
    """
    from deploykit.bundle import load
    from deploykit.report import next_steps, terminal
    from deploykit.report.document import encode_document

    manifest = load.verify(bundle)
    if as_json:
        click.echo(encode_document("self-test", manifest.parity))
    else:
        out = terminal.create_console()
        out.print(f"{len(manifest.files)} files: checksums OK")
        out.print(terminal.render_verdict(manifest.parity, f"{manifest.precision} golden vectors", bundle))
        if not manifest.parity.passed:
            out.print(next_steps.conclude_verify(manifest.parity.failures, bundle))
    return 0 if manifest.parity.passed else 1
