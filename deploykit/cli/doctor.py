"""`deploykit doctor`"""

from __future__ import annotations

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def doctor_command(as_json: bool) -> int:
    """Check what this machine can do, and print the commands that install the rest.

    Exit codes: 0 everything found is usable, 4 something is installed and unusable.
    """
    from deploykit.report import terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows.doctor import examine_machine

    findings = examine_machine()
    if as_json:
        click.echo(encode_document("doctor", findings))
    else:
        terminal.create_console().print(terminal.findings_table(findings))
    return 4 if any(finding.state == "broken" for finding in findings) else 0
