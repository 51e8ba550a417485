"""`deploykit verify`"""

from __future__ import annotations

from pathlib import Path

import click

from deploykit.cli.loaded_engine import add_backend_option, note_skipped_engines


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@add_backend_option
@click.option("--json", "as_json", is_flag=True, help="Print the parity record as a JSON document.")
def verify_command(bundle: Path, backend: str | None, as_json: bool) -> int:
    """Check BUNDLE's checksums, then run its golden inputs through its engine. Needs no PyTorch.

    Exit codes: 0 both passed, 1 one of them failed, or the bundle failed at its export.
    """
    from deploykit.bundle import load
    from deploykit.report import next_steps, terminal
    from deploykit.report.document import encode_document

    loaded = load.load(bundle, backend)
    note_skipped_engines(loaded)
    manifest, parity = loaded.manifest, loaded.self_test()
    earlier = () if parity.failures else manifest.failures_of(loaded.engine)
    recorded = tuple(f"at its export: {failure}" for failure in earlier)
    failures = (*parity.failures, *recorded)
    if as_json:
        click.echo(encode_document("self-test", parity))
    else:
        out = terminal.create_console()
        out.print(f"{len(manifest.files)} files: checksums OK")
        title = f"{manifest.precision} golden vectors"
        out.print(terminal.render_verdict(parity, title, bundle, other_failures=recorded))
        if failures:
            out.print(next_steps.conclude_verify(failures, bundle))
    return 1 if failures else 0
