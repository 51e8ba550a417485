"""`deploykit doctor`"""

from __future__ import annotations

import click


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(as_json: bool) -> int:
    """What this machine can do, and the command that installs the rest. Exit 4 where something needed is not usable."""
    from deploykit.report import terminal
    from deploykit.report.document import document
    from deploykit.workflows.doctor import examine

    findings = examine()
    if as_json:
        click.echo(document("doctor", findings))
    else:
        terminal.console().print(terminal.findings(findings))
    return 4 if any(finding.state == "broken" for finding in findings) else 0
