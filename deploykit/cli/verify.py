"""`deploykit verify`"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the parity record as a JSON document.")
def verify_command(bundle: Path, as_json: bool) -> int:
    """Check BUNDLE's checksums, then run its golden inputs through its graph. Needs no PyTorch.

    Exit codes: 0 both passed, 1 one of them failed, or the bundle failed at its export.
    """
    from deploykit.bundle import load
    from deploykit.bundle.manifest import read_manifest
    from deploykit.report import next_steps, terminal
    from deploykit.report.document import encode_document

    manifest = load.verify(bundle)
    recorded = tuple(f"at its export: {failure}" for failure in read_manifest(bundle).failures)
    failures = manifest.parity.failures or recorded
    if as_json:
        click.echo(encode_document("self-test", manifest.parity))
    else:
        out = terminal.create_console()
        out.print(f"{len(manifest.files)} files: checksums OK")
        title = f"{manifest.precision} golden vectors"
        other = () if manifest.parity.failures else recorded
        out.print(terminal.render_verdict(manifest.parity, title, bundle, other_failures=other))
        if failures:
            out.print(next_steps.conclude_verify(failures, bundle))
    return 1 if failures else 0
