"""`deploykit report`"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

PAGE = Path("report.html")


@click.command("report")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="BUNDLE...")
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="The file; report.html here for a page, standard output for the rest.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["html", "markdown", "json"]), default="html", show_default=True)
@click.option("--force", is_flag=True, help="Replace a file that is no report of deploykit's.")
def command(
    bundles: tuple[Path, ...], output: Path | None, form: Literal["html", "markdown", "json"], force: bool
) -> None:
    """What is known of BUNDLE as one page that needs no network; of several, a comparison.

    A report shows verdicts and gives none: exit 0 also where a bundle failed.
    """
    from deploykit.report import markdown, terminal
    from deploykit.report.document import document
    from deploykit.report.html import page
    from deploykit.workflows import reporting

    found = reporting.report(bundles)
    text = {
        "html": lambda: page.page(found),
        "markdown": lambda: markdown.page(found),
        "json": lambda: document("report", found) + "\n",
    }[form]()
    if output is None and form != "html":
        click.echo(text, nl=False)
        return
    destination = output or PAGE
    reporting.save(text, destination, force)
    terminal.console(stderr=True).print(f"{destination} written", soft_wrap=True)
