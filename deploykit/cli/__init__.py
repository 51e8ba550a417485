"""The command line: one file per command, imported when it is used; errors become exit codes here."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import Any, Final

import click

VERBS: Final = {
    "list": "List the networks of the catalog.",
    "export": "Export a network to a checked bundle.",
    "compile": "Build an engine from a bundle's graph, here or on another machine.",
    "parity": "Compare networks, bundles or the whole catalog with eager PyTorch.",
    "bench": "Measure a bundle's latency, through Python or the C++ library.",
    "report": "Write an HTML report of one bundle, or a comparison of several.",
    "run": "Classify images with a bundle.",
    "inspect": "Show what is in a bundle or an ONNX file, layer by layer.",
    "verify": "Check a bundle's checksums and run its self-test.",
    "doctor": "Check what this machine can do, and how to install the rest.",
    "triton": "Write a model repository for NVIDIA's Triton Inference Server.",
    "sweep": "Run many exports, here or on a Ray cluster, with one report.",
    "cache": "Show or clear the cache.",
    "cmake-dir": "Print the folder for find_package(deploykit).",
}
"""Each command and its line in `--help`; each is in the module of its name."""

MODULES: Final = {"list": "listing", "run": "running", "cmake-dir": "cmake_dir"}
"""Commands whose module has another name: `list` is a builtin, `run` a function here, and a name has no hyphen."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands in the order in which a user needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module; None for an unknown name."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"deploykit.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve as click does; for an unknown command, suggest the nearest ones."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from deploykit.core.errors import format_unknown

            raise click.UsageError(format_unknown("command", args[0], VERBS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(None, "-V", "--version", package_name="deploykit", prog_name="deploykit")
@click.option("--debug", is_flag=True, help="Print tracebacks of errors.")
@click.pass_context
def main_group(ctx: click.Context, debug: bool) -> None:
    """One command from a PyTorch network to a verified FP16 or INT8 engine that an application embeds.

    Exit codes: 0 success, 1 a check failed, 2 wrong usage, 3 bad input, 4 a backend is missing or unusable, 5 an
    internal error of deploykit, 130 interrupted.
    """
    ctx.obj = debug


def main() -> None:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # for × and file names that the encoding lacks
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; an error becomes one paragraph on stderr."""
    try:
        result: Any = main_group.main(arguments, prog_name="deploykit", standalone_mode=False)
    except click.exceptions.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for the end of a prompt; deploykit has none
            return _report_error(abort.__cause__, arguments)
        return _report_interruption()
    except KeyboardInterrupt:
        return _report_interruption()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit:
        if "_DEPLOYKIT_COMPLETE" in os.environ:  # shell completion is done
            raise
        return 128 + signal.SIGPIPE  # click and rich exit when the reader of stdout is gone
    except Exception as error:
        return _report_interruption() if _is_interruption(error) else _report_error(error, arguments)
    return result if isinstance(result, int) else 0


def _report_error(error: Exception, arguments: list[str]) -> int:
    from deploykit.cli.failures import print_error

    return print_error(error, debug="--debug" in arguments, arguments=arguments)


def _is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C caused the error: a library interrupted while it is imported says `initialization failed`."""
    cause = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and _is_interruption(cause))


def _report_interruption() -> int:
    click.echo("Interrupted. Nothing was written.", err=True)
    return 130
