"""`deploykit compile`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploykit.cli.build_options import build, build_options

if TYPE_CHECKING:
    from deploykit.values import Beside


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, multiple=True, help="tensorrt, tensorrt-rtx; may be given more than once.")
@build_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def command(bundle: Path, target: tuple[str, ...], as_json: bool, **said: Any) -> int:
    """Build engines on this machine from BUNDLE's own graph, and add them to it.

    Each answers the golden vectors before it is packed, where this machine can run it. Needs no PyTorch. Exit 1 means
    that one of them answered otherwise; it is packed all the same, and marked.
    """
    from deploykit import bundles
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import beside, terminal
    from deploykit.report.document import document

    options, progress = build(said), TerminalProgress()
    made: list[Beside] = []
    for name in dict.fromkeys(target):
        manifest, other = bundles.compile_for(bundle, name, options, progress)
        made.append(other)
    if as_json:
        click.echo(document("bundle", manifest))
    else:
        out = terminal.console()
        for other in made:
            out.print(beside.engine(other, manifest.precision))
    return 1 if any(other.failures for other in made) else 0
