"""`deploykit bench`"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from deploykit.values import Runtime


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runtime", type=click.Choice(get_args(Runtime)), default="python", show_default=True,
              help="cpp: the C++ library, built here on first use; needs CMake and a compiler.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), help="Images per call; the bundle's smallest by default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def command(bundle: Path, runtime: Runtime, batch: int | None, as_json: bool) -> None:
    """Latency of BUNDLE on this machine: its golden inputs, call after call, once warm-up has settled."""
    from deploykit import measuring
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import bench, terminal
    from deploykit.report.document import document

    found = measuring.bench(bundle, runtime, batch, TerminalProgress())
    if as_json:
        click.echo(document("bench", found))
    else:
        terminal.console().print(bench.account(found))
