"""`deploykit compile`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli.build_options import build, build_options


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", required=True, multiple=True,
              help="tensorrt, tensorrt-rtx, openvino, onnxruntime; may be given more than once.")  # fmt: skip
@click.option("--on", metavar="[USER@]HOST[:PORT]", help="Build, judge and measure on that machine, through ssh.")
@click.option("--remote-command", metavar="COMMAND",
              help="How deploykit is called there, such as '~/venv/bin/deploykit'.")  # fmt: skip
@click.option("--remote-folder", metavar="DIR", help="Where to work there; a temporary folder in it, /tmp by default.")
@build_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def command(
    bundle: Path,
    target: tuple[str, ...],
    on: str | None,
    remote_command: str | None,
    remote_folder: str | None,
    as_json: bool,
    **said: Any,
) -> int:
    """Build engines from BUNDLE's own graph, and add them to it: on this machine, or --on another.

    Each answers the golden vectors and is measured before it is packed, where the machine can run it. Needs no PyTorch.
    Exit 1 means that one of them answered otherwise; it is packed all the same, and marked.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import extra_engines as beside
    from deploykit.report import terminal
    from deploykit.report.document import document
    from deploykit.workflows import bundles
    from deploykit.workflows.remote import ssh
    from deploykit.workflows.remote.build import compile_on

    if on is None and (remote_command is not None or remote_folder is not None):
        raise click.UsageError("--remote-command and --remote-folder are for --on.")
    options, names, progress = build(said), tuple(dict.fromkeys(target)), TerminalProgress()
    if on is None:
        each = [bundles.compile_for(bundle, name, options, progress) for name in names]
        manifest, made = each[-1][0], tuple(beside for _, beside in each)
    else:
        there = ssh.device(on, "deploykit" if remote_command is None else remote_command, remote_folder)
        manifest, made = compile_on(there, bundle, names, options, progress)
    if as_json:
        click.echo(document("bundle", manifest))
    else:
        out = terminal.console()
        for other in made:
            out.print(beside.engine(other, manifest.precision))
    return 1 if any(other.failures for other in made) else 0
