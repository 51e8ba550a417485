"""`deploykit compile`"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deploykit.cli.build_options import add_build_options, read_build_options


@click.command("compile")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", multiple=True,
              help="Backend to build for: tensorrt, tensorrt-rtx, onnxruntime-cuda, openvino or onnxruntime; "
              "repeatable.")  # fmt: skip
@click.option("--remove", metavar="TAG", help="Engine to take out of BUNDLE, by its folder's name in engines/.")
@click.option("--on", metavar="[USER@]HOST[:PORT]", help="Machine to build, check and measure on, through ssh.")
@click.option("--remote-command", metavar="COMMAND",
              help="Command that starts deploykit there, such as '~/venv/bin/deploykit'.")  # fmt: skip
@click.option("--remote-folder", metavar="DIR", help="Folder there for temporary files (default: /tmp).")
@add_build_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as a JSON document.")
def compile_command(
    bundle: Path,
    target: tuple[str, ...],
    remove: str | None,
    on: str | None,
    remote_command: str | None,
    remote_folder: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Build engines from BUNDLE's graph and add them to it, on this machine or --on another; or take one out.

    Each engine is run on the golden vectors and measured if the machine can run it. Needs no PyTorch.

    Exit codes: 0 every engine agrees, 1 an engine disagrees with the golden vectors; it is added and marked failed.
    """
    from deploykit.cli.progress import TerminalProgress
    from deploykit.report import extra_engines, next_steps, terminal
    from deploykit.report.document import encode_document
    from deploykit.workflows import bundles
    from deploykit.workflows.remote import ssh
    from deploykit.workflows.remote.build import compile_remotely

    if (remove is None) == (not target):
        raise click.UsageError("Give --target to build an engine, or --remove to take one out.")
    if remove is not None:
        manifest = bundles.remove_engine(bundle, remove)
        click.echo(encode_document("bundle", manifest) if as_json else f"{bundle}: engine {remove} removed")
        return 0
    if on is None and (remote_command is not None or remote_folder is not None):
        raise click.UsageError("--remote-command and --remote-folder need --on.")
    build_options, backends, progress = read_build_options(options), tuple(dict.fromkeys(target)), TerminalProgress()
    if on is None:
        results = [bundles.add_engine(bundle, backend, build_options, progress) for backend in backends]
        manifest, engines = results[-1][0], tuple(engine for _, engine in results)
    else:
        device = ssh.parse_device(on, "deploykit" if remote_command is None else remote_command, remote_folder)
        manifest, engines = compile_remotely(device, bundle, backends, build_options, progress)
    failed = [engine for engine in engines if engine.failures]
    if as_json:
        click.echo(encode_document("bundle", manifest))
    else:
        out = terminal.create_console()
        for engine in engines:
            out.print(extra_engines.render_engine(engine, manifest, bundle))
        if failed:
            out.print(next_steps.conclude_compile(failed, bundle))
    return 1 if failed else 0
