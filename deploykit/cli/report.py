"""`deploykit report`"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

PAGE = Path("report.html")


@click.command("report")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="File to write (default: report.html; stdout for markdown and json).")  # fmt: skip
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "markdown", "json"]),
    default="html",
    show_default=True,
    help="Format of the report.",
)
@click.option("--force", is_flag=True, help="Replace a file that deploykit report did not write.")
def report_command(
    bundles: tuple[Path, ...], output: Path | None, form: Literal["html", "markdown", "json"], force: bool
) -> None:
    """Write a report of BUNDLE as one self-contained page; of several bundles, a comparison.

    The exit code is 0 also if a bundle failed its checks: a report shows verdicts and does not judge.
    """
    from deploykit.report import markdown, terminal
    from deploykit.report.document import encode_document
    from deploykit.report.html import page
    from deploykit.workflows import reporting

    report = reporting.collect_report(bundles)
    text = {
        "html": lambda: page.render_page(report),
        "markdown": lambda: markdown.render_markdown(report),
        "json": lambda: encode_document("report", report) + "\n",
    }[form]()
    if output is None and form != "html":
        click.echo(text, nl=False)
        return
    destination = output or PAGE
    reporting.save_report(text, destination, force)
    terminal.create_console(stderr=True).print(f"{destination} written", soft_wrap=True)
