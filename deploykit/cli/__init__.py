"""The command line: one file per verb, imported when the verb is used, and one place where errors become exits."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from typing import Any, Final

import click

VERBS: Final = {
    "list": "the networks of the catalog",
    "export": "from a network to a checked bundle, in one command",
    "compile": "build an engine from a bundle's graph, on this machine or another",
    "parity": "compare with eager PyTorch: networks, bundles, or the whole catalog",
    "bench": "latency of a bundle on this machine, through Python or the C++ library",
    "report": "one HTML page of one bundle, or of several compared",
    "run": "the best classes of images, through a bundle",
    "inspect": "what is inside a bundle or an ONNX file, layer by layer",
    "verify": "a bundle's digests and golden self-test",
    "doctor": "what this machine can do, and what to install for the rest",
    "triton": "a model repository for NVIDIA's Triton Inference Server",
    "sweep": "many exports, here or on a Ray cluster, and one report",
    "cache": "what the cache holds, and room for more",
    "cmake-dir": "the folder for find_package(deploykit)",
}
"""Verb to its line in `--help`; each lives in the module of its name."""

MODULES: Final = {"list": "listing", "run": "running", "cmake-dir": "cmake_dir"}
"""Verbs whose module cannot carry their name: Python has a `list`, this package its `run`, and no name a hyphen."""


class Verbs(click.Group):
    """A group that knows its verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which one meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module; None where there is none."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"deploykit.cli.{MODULES.get(cmd_name, cmd_name)}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a wrong verb is answered with the nearest ones."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from deploykit.core.errors import unknown

            raise click.UsageError(unknown("command", args[0], VERBS), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The verbs and their lines, from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(None, "-V", "--version", package_name="deploykit", prog_name="deploykit")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """One command from a PyTorch network to a verified FP16 or INT8 engine that an application embeds.

    Exit codes: 0 good, 1 a check failed, 2 wrong usage, 3 bad input, 4 a missing or unusable backend, 5 a fault of
    deploykit's own, 130 interrupted.
    """
    ctx.obj = debug


def main() -> None:
    """The entry point: run, and turn whatever goes wrong into one paragraph and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # × and foreign file names, where the encoding lacks them
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit code."""
    try:
        result: Any = group.main(arguments, prog_name="deploykit", standalone_mode=False)
    except click.exceptions.Abort as abort:
        if isinstance(abort.__cause__, EOFError):  # click takes it for the end of a prompt, and we have no prompts
            return _explained(abort.__cause__, arguments)
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SystemExit:
        if "_DEPLOYKIT_COMPLETE" in os.environ:  # the shell asked for completions, and has them
            raise
        return 128 + signal.SIGPIPE  # click and rich exit where whoever read our output went away
    except Exception as error:
        return _interrupted() if _of_an_interruption(error) else _explained(error, arguments)
    return result if isinstance(result, int) else 0


def _explained(error: Exception, arguments: list[str]) -> int:
    from deploykit.cli.failures import explain

    return explain(error, debug="--debug" in arguments)


def _of_an_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C is behind it: a library that is interrupted while it is imported says `initialization failed`."""
    behind = error.__cause__ or error.__context__
    return isinstance(error, KeyboardInterrupt) or (behind is not None and _of_an_interruption(behind))


def _interrupted() -> int:
    click.echo("Interrupted. Nothing was written.", err=True)
    return 130
